"""Stage `rewards`: fetch every reward model of the profile, and check it."""

from __future__ import annotations

from distar import paths
from distar.fetching import fetch, read_pins
from distar.lineage.record import recorded
from distar.params import load_params, lock_path, profile_files


def run() -> None:
    """Fetch the rewards, one folder each."""
    params = load_params()
    pins = read_pins(lock_path(params.root.profile))
    with recorded("rewards"):
        for folder, files in profile_files(params.profile).items():
            if folder.is_relative_to(paths.REWARDS):
                fetch(files, pins, folder, params.root.models.mirror)
