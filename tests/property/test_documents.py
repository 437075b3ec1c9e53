"""The project's own documents, damaged in every way: read, or refused with an error that names the file, within 5 s."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from ruamel.yaml import YAML

from distar import paths
from distar.documents import MAX_YAML_BYTES, read_json, read_yaml
from distar.errors import DistarError
from distar.evaluation.published import Published
from distar.evaluation.summary import read_card, read_metrics, read_summary
from distar.fetching import read_pins
from distar.lineage.pipeline import read_dvc_lock, read_stages
from distar.params import Profile
from distar.shared_params import RootParams, read_strict
from distar.tiny.recipe import Recipe
from flows.changes import add_set_option, edit
from flows.grid import read_plan
from flows.pipeline import read_receipt
from flows.watch import read_memory
from tests.miniature import REPOSITORY
from tests.mutations import mutated

_SECONDS = 5.0
_FIXED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
_METRICS = json.loads((REPOSITORY / "metrics.json").read_text())
_CARD = {name: {"sha256": "a" * 64, "source": "file://x", "num_prompts": 3} for name in ("train", "evaluation")}
_SCORED = {"prompts": "evaluation", "reward": "r", "scorer": "s", "mean": 1.5, "sem": 0.1, "scores": [["a", None, 1.0]]}


def _repository(name: str) -> bytes:
    return (REPOSITORY / name).read_bytes()


def _two(name: str, key: str) -> bytes:
    """Return a YAML document of the repository with the first two entries of one table or list: reading takes time."""
    document = YAML(typ="safe").load(REPOSITORY / name)
    entries = document[key]
    document[key] = dict(list(entries.items())[:2]) if isinstance(entries, dict) else entries[:2]
    return json.dumps(document).encode()


def _stages(path: Path) -> None:
    (path.parent / "params.yaml").write_text("profile: tiny\n")
    path.rename(path.parent / "dvc.yaml")
    for stage in read_stages(path.parent).values():
        assert all(isinstance(place, Path) for place in (*stage.inputs, *stage.outputs, *stage.parameters))


def _changed(path: Path) -> None:
    edit(path, {"seed": 1})


def _grid(path: Path) -> None:
    for changes in read_plan(path)["variants"].values():
        assert isinstance(changes, dict)


# Each kind: a sound document, whether it is YAML, and its reader.
KINDS: dict[str, tuple[Callable[[], bytes], bool, Callable[[Path], object]]] = {
    "params.yaml": (lambda: _repository("params.yaml"), True, lambda path: read_strict(path, RootParams)),
    "profile": (lambda: _repository("profiles/tiny.yaml"), True, lambda path: read_strict(path, Profile)),
    "recipe": (lambda: _repository("models/tiny/recipe.yaml"), True, lambda path: read_strict(path, Recipe)),
    "published": (
        lambda: _two("distar/evaluation/published.yaml", "tables"),
        True,
        lambda path: read_strict(path, Published),
    ),
    "lock": (lambda: _repository("profiles/tiny.lock.json"), False, read_pins),
    "dvc.yaml": (lambda: _two("dvc.yaml", "stages"), True, _stages),
    "dvc.lock": (lambda: _two("dvc.lock", "stages"), True, read_dvc_lock),
    "edit": (lambda: _repository("params.yaml"), True, _changed),
    "grid": (lambda: _repository("experiments/tiny_grid.yaml"), True, _grid),
    "receipt": (lambda: json.dumps({"release": "a" * 64, "url": "file://x"}).encode(), False, read_receipt),
    "metrics": (lambda: json.dumps(_METRICS).encode(), False, read_metrics),
    "summary": (lambda: json.dumps(_METRICS["initial"]).encode(), False, read_summary),
    "card": (lambda: json.dumps(_CARD).encode(), False, read_card),
    "watched": (lambda: json.dumps([_SCORED]).encode(), False, read_memory),
}


def _fuzz(kind: str, num_examples: int) -> None:
    make, yaml, read = KINDS[kind]
    document = make()
    outcomes = {"read": 0, "refused": 0}

    def looked_at(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{kind}-fuzzed"
            path.write_bytes(content)
            begun = time.monotonic()
            try:
                read(path)
            except DistarError as error:
                told = str(error)
                assert path.name in told or "dvc.yaml" in told
                assert len(told) < 20_000
                told.encode()
                assert "\x1b" not in told
                outcomes["refused"] += 1
            else:
                outcomes["read"] += 1
            assert time.monotonic() - begun < _SECONDS

    looked_at(document)
    assert outcomes["read"] == 1
    fixed = settings(_FIXED, max_examples=num_examples)
    fixed(given(mutated(document, yaml=yaml))(looked_at))()
    assert outcomes["refused"] > num_examples / 10


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_document_is_refused_by_name(kind: str) -> None:
    _fuzz(kind, 200)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_documents_are_refused(kind: str) -> None:
    _fuzz(kind, 10_000)


def _set(value: bytes) -> Any:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_set_option(parser)
    return parser.parse_args(["--set", f"train.divergence={value.decode('utf-8', 'surrogateescape')}"]).changes


@settings(_FIXED, max_examples=300)
@given(mutated(b"{kind: kl, space: x0, weighting: {alpha_power: 0.0}}", yaml=True))
def test_a_damaged_value_of_set_is_refused(value: bytes) -> None:
    begun = time.monotonic()
    try:
        _set(value)
    except argparse.ArgumentError as error:
        str(error).encode()
    assert time.monotonic() - begun < _SECONDS


@pytest.mark.parametrize("name", ["params.yaml", "dvc.lock"])
def test_conflict_markers_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(_repository(name) + b"<<<<<<< HEAD\nseed: 1\n=======\nseed: 2\n>>>>>>> b\n")
    with pytest.raises(DistarError, match=rf"{name}.*markers of a merge conflict"):
        read_strict(path, RootParams) if name == "params.yaml" else read_dvc_lock(path)


def _doubled() -> bytes:
    return json.dumps({f"key {number}": 1 for number in range(90_000)}).replace("}", ', "key 89999": 1}').encode()


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"", b"- a\n"),
        (b"[", b"a,"),
        (b"", b"k%d: 1\n"),
        (b"a: &a {b: 1}\n", b"c%d: {<<: *a}\n"),
        (b"", b"- !!str a\n"),
        (b"", b"---\n"),
        (b"", b"["),
        (b"", b"- "),
        (b"", b"? "),
    ],
)
def test_yaml_at_its_limits_is_read_at_once(begin: bytes, piece: bytes) -> None:
    pieces = (piece.replace(b"%d", b"%d" % number) for number in range(MAX_YAML_BYTES))
    content = begin
    while len(content) < MAX_YAML_BYTES - 100:
        content += b"".join(islice(pieces, 1000))
    content = content[:MAX_YAML_BYTES].rpartition(piece[-1:])[0] + b"]" * (begin == b"[")
    begun = time.process_time()
    with suppress(DistarError):
        read_yaml(content, "it", DistarError)
    assert time.process_time() - begun < _SECONDS


def test_a_key_that_stands_twice_in_a_large_table_is_named_at_once() -> None:
    begun = time.process_time()
    with pytest.raises(DistarError, match="'key 89999' stands twice"):
        read_json(_doubled(), "it", DistarError)
    assert time.process_time() - begun < _SECONDS


def test_errors_hold_nothing_that_a_terminal_obeys() -> None:
    assert str(DistarError("\x1b[2J\x9b31m\u202e")) == r"\x1b[2J\x9b31m\u202e"


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join(f'*{old}' for _ in range(9))}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    path = tmp_path / paths.METRICS.with_suffix(".yaml").name
    path.write_text(bomb)
    begun = time.monotonic()
    with pytest.raises(DistarError, match="200000 values once its aliases are written out"):
        read_strict(path, RootParams)
    assert time.monotonic() - begun < _SECONDS
