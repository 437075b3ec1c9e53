"""Every profile: read strictly, its sources pinned to revisions, what is known of its files locked."""

from __future__ import annotations

import re

import pytest
from ruamel.yaml import YAML

from distar.fetching import read_pins
from distar.fetching.source import matches
from distar.fetching.sources import open_source
from distar.params import load_params, lock_path, profile_files
from tests.miniature import REPOSITORY

PROFILES = sorted(path.stem for path in (REPOSITORY / "profiles").glob("*.yaml"))
PUBLISHED = ("pixart", "sd15", "sdxl")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_published_families_have_profiles() -> None:
    assert set(PROFILES) == {"tiny", *PUBLISHED}


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_is_read_and_every_source_understood(profile: str) -> None:
    needed = profile_files(load_params(profile=profile).profile)
    assert len(needed) >= 5
    for files in needed.values():
        open_source(files.source)


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_state_the_same_parameters(profile: str) -> None:
    """dvc.yaml names parameters once for all profiles, so each must have them."""
    sections = [YAML(typ="safe").load(REPOSITORY / "profiles" / f"{name}.yaml") for name in ("tiny", profile)]
    tiny, other = ({*section, *section["train"], *section["evaluate"]} for section in sections)
    assert tiny == other


@pytest.mark.parametrize("profile", PROFILES)
def test_locked_files_are_among_the_needed(profile: str) -> None:
    needed = list(profile_files(load_params(profile=profile).profile).values())
    for source, files in read_pins(lock_path(profile)).items():
        patterns = tuple(p for n in needed if n.source == source for p in n.patterns + n.optional)
        for name, pin in files.items():
            assert matches(name, patterns), f"{source}/{name}"
            assert re.fullmatch("[0-9a-f]{64}", str(pin["sha256"]))
            assert int(pin["bytes"]) > 0


@pytest.mark.parametrize("profile", PUBLISHED)
def test_every_choice_of_training_says_where_it_is_from(profile: str) -> None:
    text = (REPOSITORY / "profiles" / f"{profile}.yaml").read_text()
    train = text[text.index("\ntrain:\n") : text.index("\nevaluate:\n")]
    unsourced = ("precision", "held_out_rewards", "kind", "checkpoint_every", "guidance:")
    for line in train.splitlines():
        names_a_value = re.fullmatch(r"  (?:  )?[a-z_0-9]+: .+", line)
        inside_monitors = train.index(line) > train.index("  monitors:") if line else False
        if names_a_value and not inside_monitors and not line.strip().startswith(unsourced):
            assert re.search(r"# .*(SiD-LSG|DMD2|SIM|DI\*|our choice|not published|SD1\.5|kappa)", line), line
