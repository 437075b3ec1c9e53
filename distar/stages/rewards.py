"""Stage `rewards`: fetch every reward model of the profile, and what the Fréchet distance needs; check them."""

from __future__ import annotations

import json

from distar import paths
from distar.atomic import written_whole
from distar.fetching import fetch, read_pins
from distar.lineage.record import recorded
from distar.params import load_params, lock_path, profile_files


def run() -> None:
    """Fetch the rewards, one folder each; the distance's folder says where its files are from, or null for none."""
    params = load_params()
    pins = read_pins(lock_path(params.root.profile))
    with recorded("rewards"):
        for folder, files in profile_files(params.profile).items():
            if folder.is_relative_to(paths.REWARDS) or folder.is_relative_to(paths.FID):
                fetch(files, pins, folder, params.root.models.mirror)
        with written_whole(paths.FID_SOURCES) as path:
            fid = params.profile.evaluate.fid
            path.write_text(json.dumps(fid and fid.model_dump()) + "\n", encoding="utf-8")
