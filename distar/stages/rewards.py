"""Stage `rewards`: fetch every reward model of the profile, and check it."""

from __future__ import annotations

from distar import paths
from distar.fetching import fetch, read_pins
from distar.lineage.record import recorded
from distar.params import load_params, lock_path


def run() -> None:
    """Fetch the rewards, one folder each."""
    params = load_params()
    pins = read_pins(lock_path(params.root.profile))
    with recorded("rewards"):
        for name, reward in params.profile.rewards.items():
            fetch(reward.source, pins, paths.REWARDS / name)
