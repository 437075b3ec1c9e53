"""Stage `reference`: fetch the reference model and the initial one-step generator, and check them."""

from __future__ import annotations

from distar import paths
from distar.fetching import fetch, read_pins
from distar.lineage.record import recorded
from distar.params import load_params, lock_path


def run() -> None:
    """Fetch both; a generator that starts from the reference needs no folder of its own."""
    params = load_params()
    pins = read_pins(lock_path(params.root.profile))
    with recorded("reference"):
        fetch(params.profile.reference.source, pins, paths.REFERENCE)
        if params.profile.initial_generator.source != "reference":
            fetch(params.profile.initial_generator.source, pins, paths.INITIAL_GENERATOR)
