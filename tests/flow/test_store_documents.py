"""Documents of a store as a stranger could leave them: an error or a named gap, at once, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openlineage.client.serde import Serde

from distar import paths
from distar.__main__ import main
from distar.audit import show
from distar.audit.consistency import inconsistencies
from distar.audit.diff import diff, page_of
from distar.audit.evidence import Evidence, Statements, gather
from distar.audit.page import print_page
from distar.audit.repository import Repository
from distar.documents import read_json
from distar.errors import DistarError
from distar.evaluation.gate import Evaluated, GateParams, judge
from distar.evaluation.summary import read_released_metrics
from distar.lineage.exports.openlineage import events_of
from distar.lineage.exports.ro_crate import _Crate
from distar.lineage.record import key_of
from distar.lineage.runs import read_record
from distar.lineage.stated import Stated
from distar.release.bom import BOM
from distar.release.keys import generate_key, load_signer, load_verifier
from distar.release.releases import parse_manifest, read_aliases
from distar.release.signing import attach, attach_model, check_signatures
from distar.release.storage import open_store
from tests.miniature import git_init
from tests.mutations import mutated

STORE = "file://published"
SECONDS = 5.0
FEW = settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
MANY = settings(FEW, max_examples=10_000)

Reader = Callable[[bytes], object]

_WHOLE = {"environment", "git", "machine", "device"}  # tables whose every field has a name of its own


class World:
    """A reproduced project, signed, and its documents."""

    def __init__(self) -> None:
        self.store = open_store(STORE)
        self.evidence: Evidence = gather(self.store, "latest")
        self.release = self.evidence.release
        generate_key(Path("key"))
        signer = load_signer("key")
        self.key = load_verifier(Path("key.pub"))
        attach_model(self.store, self.release, self.evidence.files, signer)
        folder = Path("published/attestations", self.release)
        (self.signature,) = folder.glob("*.model.sig")
        (self.record,) = Path("runs/train").glob("*.json")

    def holding(self, name: str, content: bytes) -> Evidence:
        """Return the release with another file, sound as to its hash."""
        sha256 = hashlib.sha256(content).hexdigest()
        Path("published/blobs/sha256", sha256).write_bytes(content)
        return replace(self.evidence, files={**self.evidence.files, name: {"bytes": len(content), "sha256": sha256}})


def shortened(value: Any, most: int) -> Any:
    """Cut long tables and lists, so that ten thousand variants of a document are read in a minute."""
    match value:
        case dict():
            return {key: shortened(content, most) for key, content in list(value.items())[:most]}
        case list():
            return [shortened(content, most) for content in value[:most]]
        case _:
            return value


def manifest(world: World) -> tuple[bytes, Reader]:
    files = json.loads(Path(f"published/releases/{world.release}.json").read_bytes())["files"]
    return json.dumps({"files": shortened(files, 4)}).encode(), lambda content: parse_manifest(content, "it")


def alias(world: World) -> tuple[bytes, Reader]:
    path = Path("published/aliases/latest.json")

    def read(content: bytes) -> object:
        path.write_bytes(content)
        sound, problems = read_aliases(world.store)
        assert len(sound) + len(problems) == 1
        return sound

    return path.read_bytes(), read


def signatures_of(world: World, path: Path) -> tuple[bytes, Reader]:
    def read(content: bytes) -> object:
        path.write_bytes(content)
        return check_signatures(world.store, world.release, world.evidence.files, [world.key])

    return path.read_bytes(), read


def envelope(world: World) -> tuple[bytes, Reader]:
    document = {**world.evidence.best.statement, "predicate": {}}
    name = attach(world.store, world.release, document, load_signer("key"))
    return signatures_of(world, Path("published", name))


def model_signature(world: World) -> tuple[bytes, Reader]:
    return signatures_of(world, world.signature)


def crate_of(stated: Stated, document: Any) -> str:
    """Describe a release that has no files."""
    return json.dumps(_Crate(stated, document, {}).crate.metadata.generate())


def statement(world: World) -> tuple[bytes, Reader]:
    document = json.loads(json.dumps(world.evidence.best.statement))
    definition = document["predicate"]["buildDefinition"]
    internal, external = definition["internalParameters"], definition["externalParameters"]
    external["parameters"] = {"package": external["parameters"]["package"]}
    internal["runs"] = [
        {name: value if name in _WHOLE else shortened(value, 3) for name, value in run.items()}
        for run in (internal["runs"][0], internal["runs"][-1])
    ]
    internal["dvc_lock"] = shortened({name: internal["dvc_lock"][name] for name in ("prompts", "package")}, 4)
    definition["resolvedDependencies"] = definition["resolvedDependencies"][:5]
    document["subject"] = document["subject"][:4]
    payload = json.dumps(document).encode()

    elsewhere = Path("elsewhere")
    elsewhere.mkdir(exist_ok=True)
    git_init(elsewhere)  # a repository without these commits: what it knows of them is not the reader's business
    repository = Repository(elsewhere)

    def read(content: bytes) -> object:
        document = read_json(content, "it", DistarError)
        attested = replace(world.evidence.best, statement=document, stated=Stated.read(document))
        evidence = replace(world.evidence, statements=Statements([attested], []))
        print_page(show.page_of(show.show(evidence, repository), evidence))
        found = list(inconsistencies(evidence, attested))
        return found, [Serde.to_json(event) for event in events_of(document)], crate_of(attested.stated, document)

    return payload, read


def record(world: World) -> tuple[bytes, Reader]:
    def read(content: bytes) -> object:
        path = Path("runs/train", f"{key_of(content)}.json")
        path.write_bytes(content)
        try:
            return read_record(path)
        finally:
            path.unlink()

    return world.record.read_bytes(), read


def metrics(world: World) -> tuple[bytes, Reader]:
    def read(content: bytes) -> object:
        found = show.metrics_table(read_released_metrics(content, "it"))
        other = world.holding(paths.METRICS.name, content)
        print_page(page_of(diff(world.evidence, other), world.evidence, other))
        return found

    return world.evidence.read(paths.METRICS.name), read


def short_bill(world: World) -> bytes:
    return json.dumps({"components": shortened(json.loads(world.evidence.read(BOM))["components"], 6)}).encode()


def of_consistency(world: World, name: str) -> tuple[bytes, Reader]:
    def read(content: bytes) -> object:
        return list(inconsistencies(world.holding(name, content), world.evidence.best))

    return world.evidence.read(name), read


def prompt_card(world: World) -> tuple[bytes, Reader]:
    return of_consistency(world, paths.PROMPTS_CARD.name)


def bill_of_materials(world: World) -> tuple[bytes, Reader]:
    return short_bill(world), of_consistency(world, BOM)[1]


def of_gate(world: World, name: str) -> tuple[bytes, Reader]:
    gate = GateParams(
        min_gain={"preference": 0.0, "matching": 0.0},
        max_loss={"preference": 1.0, "matching": 1.0, "judge": 1.0},
        min_diversity_ratio=0.5,
        max_saturation_ratio=2.0,
        max_clipped_rise=0.5,
    )

    champion = Evaluated.read(world.evidence.read)
    read_by_gate = {key: champion.parameters[key] for key in ("prompts", "evaluate", "rewards")}
    parameters = json.dumps(read_by_gate, indent=1).encode()  # YAML, too
    files = {**{each: world.evidence.read(each) for each in (paths.SCORES.name, BOM)}, "params.yaml": parameters}

    def read(content: bytes) -> object:
        return judge(Evaluated.read({**files, name: content}.__getitem__), champion, gate)

    return files[name], read


def gate_parameters(world: World) -> tuple[bytes, Reader]:
    return of_gate(world, "params.yaml")


def gate_bill(world: World) -> tuple[bytes, Reader]:
    return short_bill(world), of_gate(world, BOM)[1]


KINDS = [
    manifest,
    alias,
    envelope,
    model_signature,
    statement,
    record,
    metrics,
    prompt_card,
    bill_of_materials,
    gate_bill,
    gate_parameters,
]


@pytest.fixture(scope="module")
def world(reproduced_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = shutil.copytree(reproduced_once, tmp_path_factory.mktemp("world") / "project", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield World()


def check(kind: Callable[[World], tuple[bytes, Reader]], world: World, how: settings) -> None:
    """Feed a reader with damaged documents: it understands them or raises a DistarError, within five seconds."""
    document, read = kind(world)
    refused = 0

    @how
    @given(mutated(document, yaml=kind is gate_parameters))
    def fuzz(content: bytes) -> None:
        nonlocal refused
        began = time.monotonic()
        try:
            read(content)
        except DistarError:
            refused += 1
        assert time.monotonic() - began < SECONDS

    read(document)
    fuzz()
    assert refused or kind in (alias, envelope, model_signature)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_documents_are_errors(kind: Any, world: World) -> None:
    check(kind, world, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_damaged_documents_are_errors(kind: Any, world: World) -> None:
    check(kind, world, MANY)


def damaged_scores() -> st.SearchStrategy[bytes]:
    content = paths.SCORES.read_bytes()
    pieces = [b"\0", b'"', b",", b"\n", b"nan", b"1e999", b"inf", b"\xff", b"x" * 200_000, b'"' * 3, b"\r", b""]
    places = st.tuples(st.integers(0, len(content)), st.integers(0, 40), st.sampled_from(pieces))
    return places.map(lambda at: content[: at[0]] + at[2] + content[at[0] + at[1] :])


@pytest.mark.parametrize("how", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_damaged_scores_are_errors(world: World, how: settings) -> None:
    _, read = of_gate(world, paths.SCORES.name)
    _, consistent = of_consistency(world, paths.SCORES.name)

    @how
    @given(damaged_scores())
    def fuzz(content: bytes) -> None:
        for reader in (read, consistent):
            began = time.monotonic()
            with suppress(DistarError):
                reader(content)
            assert time.monotonic() - began < SECONDS

    fuzz()


def test_large_scores_are_read_at_once(world: World) -> None:
    content = b"prompt\n" + b"a\n" * 5_000_000
    _, consistent = of_consistency(world, paths.SCORES.name)
    began = time.monotonic()
    found = consistent(content)
    assert time.monotonic() - began < SECONDS
    assert "they were not evaluated on" in str(found)


@pytest.mark.parametrize("rewards", [5, ["a"], {"preference": 5}, {"preference": {"mean": "high"}}])
def test_rewards_of_every_system_are_checked(rewards: Any) -> None:
    sound = {"rewards": {"preference": {"mean": 1.0}}}
    assert read_released_metrics(json.dumps({"generator": sound, "another": sound}).encode(), "it")
    for systems in ({"generator": sound, "another": {"rewards": rewards}}, {"another": sound}):
        with pytest.raises(DistarError, match="it "):
            read_released_metrics(json.dumps(systems).encode(), "it")


@pytest.mark.parametrize("place", ["releases", "aliases", "attestations", "blobs"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"\0", b'{"a": 1e999}', b"[/red]", b'"\\ud800"', b"{}"])
def test_commands_outlive_a_damaged_store(
    reproduced: Path, place: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    del reproduced
    release = gather(open_store(STORE), "latest").release
    for path in Path("published", place).rglob("*"):
        if path.is_file():
            path.write_bytes(content)
    for command in (
        ["release", "list"],
        ["release", "history", "latest"],
        ["release", "verify", release],
        ["audit", "verify", release],
        ["audit", "show", release],
        ["audit", "diff", release, release],
        ["audit", "forward", "--prompts", "0" * 64],
        ["audit", "export", release, "--openlineage", "events.jsonl"],
        ["audit", "prune"],
    ):
        began = time.monotonic()
        main(command)
        assert time.monotonic() - began < SECONDS
        assert "Traceback" not in capsys.readouterr().err
    assert main(["audit", "verify", release]) == 1


def test_circles_in_what_is_stated_are_named(reproduced: Path) -> None:
    del reproduced
    evidence = gather(open_store(STORE), "latest")
    document = json.loads(json.dumps(evidence.best.statement))
    runs = document["predicate"]["buildDefinition"]["internalParameters"]["runs"]
    runs[0]["inputs"]["outputs/generator"] = next(
        content for run in runs for path, content in run["outputs"].items() if path == "outputs/generator"
    )
    attested = replace(evidence.best, statement=document, stated=Stated.read(document))
    found = {check.what for check in inconsistencies(evidence, attested)}
    assert "record of prompts: outputs/generator" in found
