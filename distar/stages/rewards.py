"""Stage `rewards`: fetch every reward model of the profile, and what the Fréchet distance needs; check them."""

from __future__ import annotations

from distar import paths
from distar.fetching import fetch, read_pins
from distar.lineage.record import recorded
from distar.params import load_params, lock_path, profile_files


def run() -> None:
    """Fetch the rewards, one folder each; the distance's folder is empty if it is not asked for."""
    params = load_params()
    pins = read_pins(lock_path(params.root.profile))
    with recorded("rewards"):
        paths.FID.mkdir(parents=True, exist_ok=True)
        for folder, files in profile_files(params.profile).items():
            if folder.is_relative_to(paths.REWARDS) or folder.is_relative_to(paths.FID):
                fetch(files, pins, folder, params.root.models.mirror)
