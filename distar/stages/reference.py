"""Stage `reference`: fetch the reference model and the initial one-step generator, and check them."""

from __future__ import annotations

from distar import paths
from distar.fetching import fetch, read_pins
from distar.lineage.record import recorded
from distar.params import load_params, lock_path, profile_files


def run() -> None:
    """Fetch both; a generator that starts from the reference needs no folder of its own."""
    params = load_params()
    pins = read_pins(lock_path(params.root.profile))
    with recorded("reference"):
        for folder, files in profile_files(params.profile).items():
            if folder.is_relative_to(paths.REFERENCE.parent):
                fetch(files, pins, folder, params.root.models.mirror)
