"""The audit of a store in which somebody else wrote: nothing unchecked holds, and nobody untrusted is followed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distar import paths
from distar.__main__ import main
from distar.hashing import sha256_of
from distar.lineage.pipeline import read_dvc_lock
from distar.release.keys import generate_key, load_signer
from distar.release.releases import find, read_alias, read_release
from distar.release.signing import attach, attach_model, choose_statements, envelope_from_bytes, sign_release
from distar.release.storage import MAX_DOCUMENT, open_store
from tests.miniature import git, record_of

STORE = "file://published"


@pytest.fixture(autouse=True)
def _in_the_project(reproduced: Path) -> None:
    """Every test works in a copy of the project."""


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    status = main(["audit", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def gaps(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """Verify the release, however it is named, and return the gaps by what they are about."""
    status, verified = asked(capsys, "verify", *(arguments or ("latest",)))
    assert status == (1 if verified["gaps"] else 0)
    assert verified["checks"]
    return {gap["what"]: gap["detail"] for gap in verified["gaps"]}


def release() -> str:
    (manifest,) = Path("published/releases").iterdir()
    return manifest.stem


def attestation() -> Path:
    (path,) = Path("published/attestations", release()).glob("*.intoto.json")
    return path


def statement() -> dict[str, Any]:
    return json.loads(envelope_from_bytes(attestation().read_bytes(), "").payload)


def signed_by_owner() -> None:
    generate_key(Path("key"))
    store = open_store(STORE)
    files = read_release(store, release())
    sign_release(store, release(), files, load_signer("key"), choose_statements(store, release(), []))


def plant(document: dict[str, Any], key: str | None = "stranger") -> None:
    """Attach a statement as somebody who may write to the store could, signed by a key of his own."""
    if key and not Path(key).exists():
        generate_key(Path(key))
    attach(open_store(STORE), release(), document, load_signer(key) if key else None)


def planted_statement() -> dict[str, Any]:
    """Return a later statement that names another prompt set, and another seed."""
    document = statement()
    document["predicate"]["buildDefinition"]["externalParameters"]["seed"] = 99
    document["predicate"]["runDetails"]["metadata"]["finishedOn"] = "2999-01-01T00:00:00.000+00:00"
    for entry in document["predicate"]["buildDefinition"]["resolvedDependencies"]:
        if entry["name"].startswith("prompts/"):
            entry["digest"]["sha256"] = "0" * 64
    return document


@pytest.mark.parametrize("content", ["garbage", "", "[]", "{}", '{"release": 1}', "\0", "[" * 100_000])
def test_damaged_alias_hides_no_check(capsys: pytest.CaptureFixture[str], content: str) -> None:
    Path("published/aliases/zz.json").write_text(content)
    generate_key(Path("wrong"))
    found = gaps(capsys, release(), "--key", "wrong.pub")
    assert {"alias zz", "signature", "provenance"} <= found.keys()
    shutil.rmtree("published/attestations")
    assert {"alias zz", "signature", "provenance"} <= gaps(capsys, "latest", "--key", "wrong.pub").keys()
    assert gaps(capsys, "latest").keys() >= {"alias zz", "provenance"}
    assert main(["release", "verify", "latest"]) == 1
    assert "alias zz cannot be followed" in capsys.readouterr().out
    assert main(["release", "list"]) == 0
    assert "alias zz cannot be followed" in capsys.readouterr().out
    for command in (["release", "history", "zz"], ["audit", "verify", "zz"], ["release", "promote", release(), "zz"]):
        assert main(command) == 1
        assert "aliases/zz.json" in capsys.readouterr().err


def other(release_id: str) -> str:
    return release_id[::-1]


@pytest.mark.parametrize(
    "edit",
    [
        lambda alias: alias["history"].clear(),
        lambda alias: alias.update(release=other(alias["release"])),
        lambda alias: alias["history"][0].update(to=other(alias["release"])),
        lambda alias: alias["history"][0].update({"from": other(alias["release"])}),
        lambda alias: alias["history"].insert(0, dict(alias["history"][0])),
        lambda alias: alias.update(release="/abs/dir"),
        lambda alias: alias.update(release="../.."),
        lambda alias: alias["history"][0].update(to="../.."),
        lambda alias: alias["history"][0].update(when="yesterday"),
    ],
)
def test_edited_alias_is_followed_by_nobody(capsys: pytest.CaptureFixture[str], edit: Any) -> None:
    path, known = Path("published/aliases/latest.json"), release()
    alias = json.loads(path.read_text())
    edit(alias)
    path.write_text(json.dumps(alias))
    assert list(gaps(capsys, known)) == ["alias latest"]
    assert main(["release", "verify", known]) == 1
    for command in (
        ["release", "history", "latest"],
        ["release", "download", "latest", "--out", "downloaded"],
        ["audit", "verify", "latest"],
        ["audit", "show", "latest"],
        ["release", "promote", known, "latest"],
        ["release", "promote", "latest", "champion"],
    ):
        capsys.readouterr()
        assert main(command) == 1
        assert "aliases/latest.json" in capsys.readouterr().err
    assert not Path("downloaded").exists()
    assert main(["audit", "show", known]) == 0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"a": {"bytes": 1, "sha256": "0" * 64}, "a/b": {"bytes": 1, "sha256": "0" * 64}},
        {"../a": {"bytes": 1, "sha256": "0" * 64}},
        {"/a": {"bytes": 1, "sha256": "0" * 64}},
        {"a" * 300: {"bytes": 1, "sha256": "0" * 64}},
        {"a\x1b[31m": {"bytes": 1, "sha256": "0" * 64}},
        {"a": {"bytes": True, "sha256": "0" * 64}},
        {"a": {"bytes": 1, "sha256": "0" * 64 + "\n"}},
    ],
)
def test_manifest_that_no_folder_can_hold_is_named(capsys: pytest.CaptureFixture[str], files: dict[str, Any]) -> None:
    content = json.dumps({"files": files}).encode()
    Path("manifest").write_bytes(content)
    release_id = sha256_of(Path("manifest"))
    Path(f"published/releases/{release_id}.json").write_bytes(content)
    found = gaps(capsys, release_id)
    assert {"manifest", "files", "signatures", "provenance"} <= found.keys()
    for command in (["release", "verify", release_id], ["release", "download", release_id, "--out", "downloaded"]):
        assert main(command) == 1
        assert "Traceback" not in capsys.readouterr().err
    assert gaps(capsys, "latest") == {}


def test_what_a_stranger_signs_is_not_followed(capsys: pytest.CaptureFixture[str]) -> None:
    signed_by_owner()
    known, prompts = release(), json.loads(paths.PROMPTS_CARD.read_text())["train"]["sha256"]
    plant(planted_statement())
    assert asked(capsys, "show", "latest")[1]["seed"] == 99  # nobody is trusted, and it says that it is newest
    status, shown = asked(capsys, "show", "latest", "--key", "key.pub")
    assert (status, shown["seed"], shown["trust"], len(shown["not_gone_by"])) == (0, 0, "trusted", 1)
    status, made = asked(capsys, "forward", "--prompts", prompts, "--key", "key.pub")
    assert [(one["release"], one["trust"]) for one in made["releases"]] == [(known, "trusted")]
    status, made = asked(capsys, "forward", "--prompts", "0" * 64, "--key", "key.pub")
    assert [(one["release"], one["trust"]) for one in made["releases"]] == [(known, "untrusted")]
    assert main(["audit", "export", "latest", "--openlineage", "events.jsonl", "--key", "key.pub"]) == 0
    assert '"seed": 99' not in Path("events.jsonl").read_text()
    status, verified = asked(capsys, "verify", "latest", "--key", "key.pub")
    notes = {one["what"]: one["detail"] for one in verified["checks"] if one["outcome"] == "note"}
    assert (status, [detail for detail in notes.values() if "not gone by" in detail] != []) == (0, True)


def test_trusted_keys_of_params_hold_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    generate_key(Path("key"))
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("trusted_keys: []", "trusted_keys: [key.pub]"))
    for command in (
        ["show", "latest"],
        ["diff", "latest", "latest"],
        ["export", "latest", "--openlineage", "events.jsonl"],
        ["reproduce", "latest"],
    ):
        assert main(["audit", *command]) == 1
        assert "none of the trusted keys signed" in capsys.readouterr().err
    assert not Path("events.jsonl").exists()
    prompts = json.loads(paths.PROMPTS_CARD.read_text())["train"]["sha256"]
    status, made = asked(capsys, "forward", "--prompts", prompts)
    assert (status, [one["trust"] for one in made["releases"]]) == (0, ["untrusted"])


def test_only_a_strangers_statement_is_a_gap(capsys: pytest.CaptureFixture[str]) -> None:
    signed_by_owner()
    document = planted_statement()
    attestation().unlink()
    plant(document)
    found = gaps(capsys, "latest", "--key", "key.pub")
    assert "there is no statement that counts" in found["statement"]
    assert any("key signed the release's folder alone" in detail for detail in found.values())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "edit",
    [
        lambda document: document.update(predicate={}),
        lambda document: document["predicate"].clear(),
        lambda document: document["predicate"]["buildDefinition"].update(buildType="urn:other"),
        lambda document: document["predicate"]["buildDefinition"]["internalParameters"].update(runs=[1]),
        lambda document: document.update(predicateType="https://example.org/other"),
    ],
)
def test_statement_that_cannot_be_checked_is_a_gap(capsys: pytest.CaptureFixture[str], edit: Any, signed: bool) -> None:
    document = statement()
    edit(document)
    attestation().unlink()
    keys = ()
    if signed:
        plant(document, "key")
        files = read_release(open_store(STORE), release())
        attach_model(open_store(STORE), release(), files, load_signer("key"))
        keys = ("--key", "key.pub")
    else:
        plant(document, None)
    assert "statement" in gaps(capsys, "latest", *keys)
    assert main(["audit", "show", "latest", *keys]) == 1
    assert "nothing is stated of how release" in capsys.readouterr().err


def of_all(document: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> None:
    for run in document["predicate"]["buildDefinition"]["internalParameters"]["runs"]:
        change(run)


def of_materials(document: dict[str, Any], name: str, change: dict[str, Any]) -> None:
    for material in document["predicate"]["buildDefinition"]["resolvedDependencies"]:
        if material["name"].startswith(name):
            material.update(change)


@pytest.mark.parametrize(
    ("edit", "readable"),
    [
        (lambda document: of_all(document, lambda run: run.update(seconds="5")), False),
        (lambda document: of_all(document, lambda run: run.update(cost_seconds=10**29)), False),
        (lambda document: of_all(document, lambda run: run.update(processes=10**29)), False),
        (lambda document: of_all(document, lambda run: run.update(ended="9999-12-31T23:59:59.999+00:00")), False),
        (lambda document: of_all(document, lambda run: run.update(started="0001-01-01T00:00:00+00:00")), False),
        (lambda document: of_all(document, lambda run: run.update(started=run["started"].replace("T", "\x1b"))), False),
        (lambda document: of_all(document, lambda run: run.update(seeds=[1])), False),
        (lambda document: of_materials(document, "prompts", {"digest": {"md5": "1"}}), False),
        (lambda document: of_materials(document, "environment", {"digest": {"gitCommit": "1" * 40}}), False),
        (lambda document: of_materials(document, "code", {"digest": {"sha256": "1" * 64}}), False),
        (lambda document: of_materials(document, "prompts", {"uri": "http://["}), False),
        (lambda document: of_materials(document, "prompts", {"annotations": {"licence": {"a": 1}}}), False),
        (lambda document: of_all(document, lambda run: run["environment"]["libraries"].clear()), True),
        (lambda document: of_all(document, lambda run: run["git"].update(remote="http://[")), True),
        (lambda document: of_all(document, lambda run: run["git"].update(remote="[::1:path")), True),
    ],
)
def test_odd_values_are_an_error_or_nothing(capsys: pytest.CaptureFixture[str], edit: Any, readable: bool) -> None:
    document = statement()
    edit(document)
    attestation().unlink()
    plant(document, None)
    found = gaps(capsys, "latest")
    assert any("it does not count" in detail for detail in found.values()) == (not readable)
    for command in (
        ["show", "latest"],
        ["show", "latest", "--html", "page.html"],
        ["diff", "latest", "latest"],
        ["export", "latest", "--openlineage", "events.jsonl"],
        ["export", "latest", "--ro-crate", "crate"],
    ):
        assert main(["audit", *command]) == (0 if readable else 1)
        assert readable or len(capsys.readouterr().err.splitlines()) == 1


def test_materials_that_nothing_can_be_compared_with_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads(Path(f"published/releases/{release()}.json").read_bytes())
    for name in (paths.PROMPTS_CARD.name, "bom.cdx.json"):
        del manifest["files"][name]
    content = json.dumps(manifest).encode()
    document, lesser = statement(), hashlib.sha256(content).hexdigest()
    Path(f"published/releases/{lesser}.json").write_bytes(content)
    document["subject"] = [one for one in document["subject"] if one["name"] in {"manifest.json", *manifest["files"]}]
    (about,) = [one for one in document["subject"] if one["name"] == "manifest.json"]
    about["digest"]["sha256"] = lesser
    attach(open_store(STORE), lesser, document, None)
    found = gaps(capsys, lesser)
    assert "the release has no card.json" in found["materials: prompts"]
    assert "the release has no bom.cdx.json" in found["materials: models"]
    materials = document["predicate"]["buildDefinition"]["resolvedDependencies"]
    materials[:] = [one for one in materials if one["name"] in {"code", "environment"}]
    attach(open_store(STORE), lesser, document, None)
    _, verified = asked(capsys, "verify", lesser)
    notes = [one["detail"] for one in verified["checks"] if one["outcome"] == "note"]
    assert any(detail.startswith("0 are stated; the release has no card.json") for detail in notes)


def test_place_that_cannot_be_written_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    for how in ("--openlineage", "--ro-crate"):
        assert main(["audit", "export", "latest", how, "file/crate"]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_keys_that_stand_twice_in_an_envelope_are_a_gap(capsys: pytest.CaptureFixture[str]) -> None:
    content = attestation().read_text()
    attestation().write_text(content.replace('"payloadType"', '"payload": "e30=", "payloadType"', 1))
    assert any("stands twice" in detail for detail in gaps(capsys).values())


def test_removed_signature_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    signed_by_owner()
    (path,) = Path("published/attestations", release()).glob("*.model.sig")
    content = path.read_bytes()
    path.unlink()
    for keys in ((), ("--key", "key.pub")):
        (what,) = gaps(capsys, "latest", *keys)
        assert what == f"model signature by {path.name.removesuffix('.model.sig')}"
    path.write_bytes(content)
    attestation().unlink()
    plant(statement_of_workspace(), None)
    assert any("signed the release's folder alone" in detail for detail in gaps(capsys).values())


def statement_of_workspace() -> dict[str, Any]:
    from distar.attesting import state_provenance

    return state_provenance(paths.RELEASE)


def test_recall_of_an_unknown_hash_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads(paths.PROMPTS_CARD.read_text())["train"]["sha256"]
    typo = f"{known[:20]}{'1' if known[20] != '1' else '2'}{known[21:]}"
    for role, digest, hint in (
        ("prompts", typo, known),
        ("prompts", typo[:24], known),
        ("reward", known, "it is known in another role"),
        ("reference", "0123456789abcdef", "check it against"),
    ):
        assert main(["audit", "forward", f"--{role}", digest]) == 1
        told = capsys.readouterr()
        assert hint in told.err
        assert told.out == ""


def test_recall_of_what_made_nothing_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("published")
    git(Path(), "update-ref", "-d", "HEAD")
    model = sha256_of(Path("models/judge/model.safetensors"))
    assert main(["audit", "forward", "--reward", model]) == 1
    assert "there is no such folder" in capsys.readouterr().err
    Path("published").mkdir()
    status, made = asked(capsys, "forward", "--reward", model)
    assert (status, made["releases"], made["commits"]) == (0, [], [])


def sets_sha256(part: str = "train") -> str:
    return json.loads(paths.PROMPTS_CARD.read_text())[part]["sha256"]


def commits(made: dict[str, Any]) -> list[str]:
    return [*dict.fromkeys(one["commit"] for one in made["commits"])]


def test_recall_searches_commits_of_which_nothing_was_released(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("published")
    Path("published").mkdir()
    head, lock = git(Path(), "rev-parse", "HEAD").strip(), Path("dvc.lock").read_bytes()
    hashes = {
        "--prompts": sets_sha256(),
        "--reference": sha256_of(Path("models/reference/model_index.json")),
        "--reward": sha256_of(Path("models/judge/model.safetensors")),
    }
    for role, digest in hashes.items():
        status, made = asked(capsys, "forward", role, digest)
        assert (status, made["releases"], commits(made), made["unknown_commits"]) == (0, [], [head], {})

    shutil.rmtree("outputs/prompts")  # the workspace is another by now, and DVC's cache still tells
    Path("dvc.lock").unlink()
    assert commits(asked(capsys, "forward", "--prompts", hashes["--prompts"])[1]) == [head]
    Path("dvc.lock").write_bytes(lock)
    config = Path(".dvc/config")
    config.write_text(f"{config.read_text()}[cache]\n    dir = ../elsewhere\n")
    assert main(["audit", "forward", "--prompts", hashes["--prompts"]]) == 1
    told = capsys.readouterr().err
    assert head in told
    assert "DVC's cache lacks" in told
    Path(".dvc/cache").rename("elsewhere")
    assert commits(asked(capsys, "forward", "--prompts", hashes["--prompts"])[1]) == [head]


def test_what_is_known_and_cannot_be_searched_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("published/releases")
    shutil.rmtree("published/attestations")
    head = git(Path(), "rev-parse", "HEAD").strip()
    known = sets_sha256()
    shutil.rmtree(".dvc/cache")
    Path("outputs/prompts/dropped.csv").write_text("another")  # the card is no longer that of the commit for sure
    assert main(["audit", "forward", "--prompts", known]) == 1
    told = capsys.readouterr()
    assert f"commits were not searched: {head} (DVC's cache lacks" in told.err
    assert told.out == ""


def test_recall_names_a_release_whose_manifest_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    signed_by_owner()
    known, manifest = release(), Path(f"published/releases/{release()}.json")
    manifest.unlink()
    for keys in ((), ("--key", "key.pub")):
        status, made = asked(capsys, "forward", "--prompts", sets_sha256(), *keys)
        assert (status, [*made["unknown"]], made["releases"]) == (0, [known], [])
        assert "manifest is damaged, or gone" in made["unknown"][known]
    manifest.mkdir()
    status, made = asked(capsys, "forward", "--prompts", sets_sha256(), "--key", "key.pub")
    assert [one["release"] for one in made["releases"]] == [known]


def test_a_key_that_did_not_sign_is_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    signed_by_owner()
    path = attestation()
    envelope = json.loads(path.read_text())
    (signature,) = envelope["signatures"]
    envelope["signatures"].insert(0, {"keyid": "ceo-of-example.org", "sig": "AAAA"})
    path.write_text(json.dumps(envelope))
    status, shown = asked(capsys, "show", "latest", "--key", "key.pub")
    assert (status, shown["trust"], shown["signed_by"]) == (0, "trusted", [signature["keyid"]])
    generate_key(Path("other"))
    _, verified = asked(capsys, "verify", "latest", "--key", "other.pub")
    assert not [check for check in verified["checks"] if check["detail"] == "signed by a trusted key"]


def test_a_statement_about_another_release_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    known = release()
    content = Path(f"published/releases/{known}.json").read_bytes() + b"\n"
    other_id = hashlib.sha256(content).hexdigest()
    Path(f"published/releases/{other_id}.json").write_bytes(content)
    shutil.copytree(Path("published/attestations", known), Path("published/attestations", other_id))
    for command in (["show", other_id], ["diff", other_id, known], ["export", other_id, "--openlineage", "events"]):
        assert main(["audit", *command]) == 1
        assert f"it is about another release, {known}" in capsys.readouterr().err
    found = gaps(capsys, other_id)
    assert any("it is about another release" in detail for what, detail in found.items() if "statement" in what)
    _, made = asked(capsys, "forward", "--prompts", sets_sha256())
    assert [one["release"] for one in made["releases"]] == [known]
    assert made["unknown"] == {other_id: "what stands for a statement of it is about another release"}


def in_a_circle(path: Path) -> None:
    path.symlink_to(path.name)


def too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_DOCUMENT + 1)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, in_a_circle, too_large])
@pytest.mark.parametrize("name", [f"{'0' * 64}.intoto.json", "zz.model.sig"])
def test_an_attestation_that_is_no_document_hides_no_check(
    capsys: pytest.CaptureFixture[str], make: Callable[[Path], object], name: str
) -> None:
    signed_by_owner()
    make(attestation().with_name(name))
    known, keys = release(), ("--key", "key.pub")
    for chosen in ((), keys):
        _, verified = asked(capsys, "verify", "latest", *chosen)
        outcomes = {check["what"]: check["outcome"] for check in verified["checks"]}
        assert {outcomes[what] for what in ("manifest", "files", "aliases", "subject", "commit")} == {"holds"}
        assert "gap" in outcomes.values()
        assert asked(capsys, "show", "latest", *chosen)[0] == 0
        status, made = asked(capsys, "forward", "--prompts", sets_sha256(), *chosen)
        assert (status, [one["release"] for one in made["releases"]]) == (0, [known])


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_a_blob_that_is_no_file_hides_no_other(
    capsys: pytest.CaptureFixture[str], make: Callable[[Path], object]
) -> None:
    files = read_release(open_store(STORE), release())
    for name, damage in (("README.md", make), ("card.json", Path.touch)):
        blob = Path("published/blobs/sha256", str(files[name]["sha256"]))
        blob.unlink()
        damage(blob)
    found = gaps(capsys)
    assert found["file README.md"].startswith("unreadable: ")
    assert "file card.json" in found
    assert main(["release", "verify", "latest"]) == 1


@pytest.mark.parametrize("place", ["aliases", "attestations"])
def test_a_folder_of_the_store_that_is_none_hides_no_check(capsys: pytest.CaptureFixture[str], place: str) -> None:
    known = release()
    shutil.rmtree(Path("published", place))
    Path("published", place).touch()
    _, verified = asked(capsys, "verify", known)
    outcomes = {check["what"]: check["outcome"] for check in verified["checks"]}
    assert outcomes["manifest"] == outcomes["files"] == "holds"
    found = {gap["what"] for gap in verified["gaps"]}
    assert found >= ({"alias aliases/"} if place == "aliases" else {"signatures", "statement"})
    _, made = asked(capsys, "forward", "--prompts", sets_sha256())
    assert known in [*made["unknown"], *(one["release"] for one in made["releases"])]
    Path(f"published/releases/{known}.json").write_text("{}")
    assert "manifest" in gaps(capsys, known)


@pytest.mark.parametrize(
    "edit",
    [
        lambda stage, run: stage["outs"].append({"path": "x", "md5": "d" * 150_000}),
        lambda stage, run: stage["outs"][0].update(md5="e"),
        lambda stage, run: run["inputs"].update({"x" * 150_000: run["inputs"].popitem()[1]}),
        lambda stage, run: run["parameters"].update({"x" * 150_000: {"a": 1}}),
    ],
)
def test_a_name_of_any_length_is_no_traceback(capsys: pytest.CaptureFixture[str], edit: Any) -> None:
    signed_by_owner()
    document = statement()
    internal = document["predicate"]["buildDefinition"]["internalParameters"]
    edit(internal["dvc_lock"]["prompts"], internal["runs"][0])
    plant(document)
    status, made = asked(capsys, "forward", "--prompts", sets_sha256(), "--key", "key.pub")
    assert (status, {one["md5"] for one in made["commits"]}) == (0, {lock_md5()})
    for command in (["verify", "latest"], ["show", "latest"]):
        main(["audit", *command])
        assert "Traceback" not in capsys.readouterr().err


def lock_md5() -> str:
    (out,) = read_dvc_lock()["prompts"]["outs"]
    return out["md5"]


def test_recall_names_what_nobody_can_tell(capsys: pytest.CaptureFixture[str]) -> None:
    prompts, known = json.loads(paths.PROMPTS_CARD.read_text())["train"]["sha256"], release()
    content = attestation().read_bytes()
    attestation().write_text("garbage")
    _, made = asked(capsys, "forward", "--prompts", prompts)
    assert made["unknown"] == {known: "a statement of it is damaged"}
    attestation().write_bytes(content)
    Path(f"published/releases/{known}.json").write_text("{}")
    _, made = asked(capsys, "forward", "--prompts", prompts)
    assert [one["release"] for one in made["releases"]] == [known]


def test_scores_of_other_prompts_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """An honest mistake: other evaluation prompts, the stages `prompts` and `package` by hand, and `dvc commit`."""
    prompts = Path("prompts/evaluation.txt")
    prompts.write_text(prompts.read_text().replace("red star", "teal moon"))
    shutil.rmtree("published")
    for stage in ("prompts", "package", "publish"):
        assert main([stage]) == 0
    found = gaps(capsys)
    assert "record of evaluate: outputs/prompts" in found
    assert "they were not evaluated on" in found["file scores.csv"]


def test_record_that_was_changed_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = Path("runs/train").glob("*.json")
    record = record_of("train")
    record["device"] = None
    path.write_text(json.dumps(record))
    shutil.rmtree("published")
    assert main(["publish"]) == 0
    assert f"{path} was changed after it was written" in capsys.readouterr().err
    assert "record of train" in gaps(capsys)


def test_stage_that_ran_again_alike_leaves_a_sound_release(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("published")
    for stage in ("prompts", "publish"):
        assert main([stage]) == 0
    assert len(list(Path("runs/prompts").glob("*.json"))) == 2
    assert gaps(capsys) == {}


def test_markup_of_a_store_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("published/aliases/latest.json")
    alias = json.loads(path.read_text())
    alias["history"][0]["who"] = "[/red] \x1b[31m[bold"
    path.write_text(json.dumps(alias))
    assert main(["release", "history", "latest"]) == 0
    told = capsys.readouterr().out
    assert "[/red]" in told
    assert "\x1b" not in told
    Path("published/aliases/[red].json").write_text("{}")
    for command in (["release", "list"], ["audit", "show", "latest"], ["audit", "verify", release()]):
        main(command)
        assert "Traceback" not in capsys.readouterr().err
    assert read_alias(open_store(STORE), "latest").release == find(open_store(STORE), release())
