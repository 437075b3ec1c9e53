"""The audit of a miniature project that DVC ran: what it shows, what it finds, what it makes again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distar import paths
from distar.__main__ import STAGES, main
from distar.hashing import sha256_of
from distar.release.keys import generate_key, load_signer
from distar.release.releases import find, read_release
from distar.release.signing import (
    choose_statements,
    envelope_from_bytes,
    envelope_of,
    envelope_to_bytes,
    sign_release,
)
from distar.release.storage import open_store
from tests.flow.test_kill import wait_for
from tests.miniature import edit, git, run_dvc

PROFILE = Path("profiles/mini.yaml")
STORE = "file://published"


@pytest.fixture(autouse=True)
def _in_the_project(reproduced: Path) -> None:
    """Every test works in a copy of the project."""


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    status = main(["audit", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def gaps(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """Verify `latest` and return the gaps, by what they are about."""
    status, verified = asked(capsys, "verify", "latest", *arguments)
    assert status == (1 if verified["gaps"] else 0)
    return {gap["what"]: gap["detail"] for gap in verified["gaps"]}


def latest() -> str:
    return find(open_store(STORE), "latest")


def sign_by(key: str) -> None:
    store = open_store(STORE)
    names = choose_statements(store, latest(), [])
    sign_release(store, latest(), read_release(store, latest()), load_signer(key), names)


def blob_of(path: str) -> Path:
    return Path("published/blobs/sha256") / str(read_release(open_store(STORE), latest())[path]["sha256"])


def commit_all(message: str) -> str:
    git(Path(), "add", "-A")
    git(Path(), "commit", "-qm", message)
    return git(Path(), "rev-parse", "HEAD").strip()


def test_show_goes_back_to_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status, shown = asked(capsys, "show", "latest")
    assert status == 0
    assert (shown["release"], shown["aliases"]) == (latest(), ["latest"])
    began, recorded = git(Path(), "log", "--reverse", "--format=%H").split()
    assert shown["origin"] == {"commit": began, "differences": [], "missing": [], "recorded_by": [recorded]}
    assert shown["parameters"]["train"]["num_steps"] == 4
    materials = {entry["name"]: entry["digest"] for entry in shown["materials"]}
    card = json.loads(paths.PROMPTS_CARD.read_text())
    assert materials["prompts/train"]["sha256"] == card["train"]["sha256"]
    assert materials["rewards/judge/model.safetensors"]["sha256"] == sha256_of(Path("models/judge/model.safetensors"))
    assert [run["stage"] for run in shown["runs"]] == [stage for stage in STAGES if stage != "publish"]
    assert shown["metrics"] == json.loads(paths.METRICS.read_text())
    assert shown["unrecorded"] == []


def test_a_release_is_found_by_its_beginning_and_by_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    weights = read_release(open_store(STORE), latest())["unet/diffusion_pytorch_model.safetensors"]["sha256"]
    for text in (latest()[:8], str(weights), str(weights)[:12]):
        assert asked(capsys, "show", text)[1]["release"] == latest()
    assert main(["audit", "show", "0123456789abcdef"]) == 1
    told = capsys.readouterr().err
    assert "no release begins with 0123456789abcdef, and no file begins so" in told
    assert "distar audit forward" in told


def test_a_sound_release_has_no_gap(capsys: pytest.CaptureFixture[str]) -> None:
    assert gaps(capsys) == {}
    assert main(["audit", "verify", "latest"]) == 0
    told = capsys.readouterr().out
    assert "Everything holds." in told
    assert "not signed: whoever may write to the store" in told


def test_a_flipped_byte_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    blob = blob_of("unet/diffusion_pytorch_model.safetensors")
    content = bytearray(blob.read_bytes())
    content[1000] ^= 1
    blob.write_bytes(content)
    found = gaps(capsys)
    assert list(found) == ["file unet/diffusion_pytorch_model.safetensors"]
    assert found.popitem()[1].startswith("content: expected")


def test_a_removed_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    blob_of("metrics.json").unlink()
    assert "nothing" in gaps(capsys)["file metrics.json"]


def test_a_swapped_manifest_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Path(f"published/releases/{latest()}.json")
    files = json.loads(manifest.read_text())["files"]
    files["model_index.json"] = files["metrics.json"]
    manifest.write_text(json.dumps({"files": files}))
    assert list(gaps(capsys)) == ["manifest", "files", "signatures", "provenance"]


def test_parameters_that_no_commit_has_are_named_until_they_are_committed(capsys: pytest.CaptureFixture[str]) -> None:
    edit(PROFILE, "train", "reward_scale", value=0.5)
    edit(Path("params.yaml"), "seed", value=3)
    run_dvc(Path(), "repro")
    found = gaps(capsys)
    head = git(Path(), "rev-parse", "HEAD")[:12]
    assert found["commit: profiles/mini.yaml: train.reward_scale"] == f"the run had 0.5, commit {head} has 1.0"
    assert found["commit: params.yaml: seed"] == f"the run had 3, commit {head} has 0"
    assert found["dvc.lock"].startswith("no commit's dvc.lock records this release")
    recorded = commit_all("Another seed")
    assert gaps(capsys) == {}
    assert asked(capsys, "show", "latest")[1]["origin"]["commit"] == recorded


def test_parameters_edited_after_the_fact_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A release whose params.yaml was edited, packaged anew and given the old provenance."""
    path = paths.RELEASE / "params.yaml"
    edit(path, "train", "reward_scale", value=7.0)
    manifest = json.loads((paths.RELEASE / "manifest.json").read_text())
    manifest["files"]["params.yaml"] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (paths.RELEASE / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    assert main(["publish"]) == 0  # it states provenance itself: what the runs had is another thing than this
    assert "the provenance says 7.0, dvc.lock, train says 1.0" in gaps(capsys)["parameter train.reward_scale"]
    forged = latest()

    shutil.rmtree(f"published/attestations/{forged}")
    original = next(path for path in Path("published/attestations").iterdir() if path.name != forged)
    shutil.copytree(original, f"published/attestations/{forged}")
    found = gaps(capsys)
    assert any("it does not count: it is about another release" in detail for detail in found.values())
    assert "there is no statement that counts" in found["statement"]


def test_an_unsigned_release_is_a_gap_for_those_who_trust_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    generate_key(Path("key"))
    generate_key(Path("other"))
    trusting = ("--key", "key.pub")
    assert "not signed" in gaps(capsys, *trusting)["provenance"]

    sign_by("key")
    assert gaps(capsys, *trusting) == {}
    assert gaps(capsys) == {}
    assert gaps(capsys, "--key", "other.pub").keys() == {"signature", "statement"}
    assert gaps(capsys, "--key", "other.pub", *trusting) == {}


def test_a_wrong_signature_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    generate_key(Path("key"))
    sign_by("key")
    envelope_path = next(Path(f"published/attestations/{latest()}").glob("*.intoto.json"))
    envelope = envelope_from_bytes(envelope_path.read_bytes(), "")
    statement = json.loads(envelope.payload)
    statement["predicate"]["buildDefinition"]["externalParameters"]["seed"] = 99
    forged = envelope_of(statement)
    forged.signatures = envelope.signatures
    envelope_path.write_bytes(envelope_to_bytes(forged))  # under the old name
    assert any(detail.startswith("invalid") for detail in gaps(capsys, "--key", "key.pub").values())
    envelope_path.unlink()
    envelope_path.with_name(f"{hashlib.sha256(forged.payload).hexdigest()}.intoto.json").write_bytes(
        envelope_to_bytes(forged)
    )
    found = gaps(capsys, "--key", "key.pub")
    assert any("does not hold" in detail for detail in found.values())
    assert "statement" in found  # what it says is not gone by
    assert "parameter seed" in gaps(capsys)


def test_a_release_without_provenance_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(f"published/attestations/{latest()}")
    assert list(gaps(capsys)) == ["provenance", "statement"]
    assert main(["audit", "show", "latest"]) == 1
    assert "nothing is stated of how release" in capsys.readouterr().err


def test_a_missing_commit_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    commit = asked(capsys, "show", "latest")[1]["origin"]["commit"]
    shutil.rmtree(".git")
    git(Path(), "init", "-q")
    git(Path(), "add", "-A")
    git(Path(), "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "History rewritten")
    assert gaps(capsys)["commit"] == f"{commit} is not in this repository; fetch it, or ask who has it"


def test_a_stage_that_left_no_record_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("runs/train")
    shutil.rmtree("published")
    assert main(["publish"]) == 0
    assert list(gaps(capsys)) == ["record of train"]


def test_forward_finds_releases_commits_and_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    first = latest()
    git(Path(), "switch", "-qc", "warmer")
    edit(PROFILE, "train", "reward_scale", value=0.5)
    run_dvc(Path(), "repro")
    commit_all("Less reward")
    second = latest()
    card = json.loads(paths.PROMPTS_CARD.read_text())
    hashes = {
        "prompts": card["train"]["sha256"],
        "reference": sha256_of(Path("models/reference/vae/diffusion_pytorch_model.safetensors")),
        "reward": sha256_of(Path("models/judge/model.safetensors")),
    }
    for role, sha256 in hashes.items():
        _, made = asked(capsys, "forward", f"--{role}", sha256[:12])
        assert {one["release"] for one in made["releases"]} == {first, second}, role
        refs = {ref for one in made["commits"] for ref in one["refs"]}
        assert refs == {"main", "warmer"}, role
    assert main(["audit", "forward", "--prompts", hashes["reward"]]) == 1
    assert "it is known in another role" in capsys.readouterr().err
    Path(f"published/releases/{first}.json").write_text("{}")
    _, made = asked(capsys, "forward", "--reward", hashes["reward"])
    assert {one["release"] for one in made["releases"]} == {first, second}  # what is stated of it is sound
    shutil.rmtree(f"published/attestations/{first}")
    _, made = asked(capsys, "forward", "--reward", hashes["reward"])
    assert [one["release"] for one in made["releases"]] == [second]
    assert made["unknown"] == {first: "nothing is stated of it"}


@pytest.mark.parametrize("text", ["", "zz", "0ab4", "0AB4A58494886021"])
def test_a_recall_of_what_is_no_hash_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "forward", "--prompts", text]) == 1
    assert f"--prompts: got {text!r}, expected a hash" in capsys.readouterr().err


def test_diff_tells_parameters_metrics_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    first = latest()
    edit(PROFILE, "train", "reward_scale", value=0.5)
    run_dvc(Path(), "repro")
    _, found = asked(capsys, "diff", first, "latest")
    assert found["parameters"] == [{"name": "train.reward_scale", "a": 1.0, "b": 0.5}]
    assert [one["name"] for one in found["materials"]] == [
        "code"
    ]  # the first was run before its dvc.lock was committed
    metrics = {one["name"]: (one["a"], one["b"]) for one in found["metrics"]}
    assert metrics["initial.rewards.preference.mean"][0] == metrics["initial.rewards.preference.mean"][1]
    assert metrics["generator.rewards.preference.mean"][0] != metrics["generator.rewards.preference.mean"][1]
    assert "unet/diffusion_pytorch_model.safetensors" in {one["name"] for one in found["files"]}
    assert main(["audit", "diff", first, "latest", "--html", "diff.html"]) == 0
    assert Path("diff.html").read_text().count("data:image/png") == 2


def test_pages_load_nothing_from_elsewhere() -> None:
    assert main(["audit", "show", "latest", "--html", "show.html"]) == 0
    assert main(["audit", "verify", "latest", "--html", "verify.html"]) == 0
    prompts = json.loads(paths.PROMPTS_CARD.read_text())["train"]["sha256"]
    assert main(["audit", "forward", "--prompts", prompts, "--html", "forward.html"]) == 0
    for path in Path().glob("*.html"):
        assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*', path.read_text()) == []
    shown = Path("show.html").read_text()
    assert shown.count("<svg") == 1
    assert latest() in shown


def test_reproduce_gives_the_same_release_and_leaves_the_workspace_alone(capsys: pytest.CaptureFixture[str]) -> None:
    edit(PROFILE, "package", "notice", value="not committed, and no business of the release")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and ".git/" not in str(path)}
    status, reproduced = asked(capsys, "reproduce", "latest")
    assert status == 0
    assert reproduced["reproduction"] == reproduced["release"] == latest()
    assert (reproduced["files"], reproduced["environment"]) == ([], [])
    after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and ".git/" not in str(path)}
    assert {path for path in after if after[path] != before.get(path)} - cache(after) == set()
    assert before.keys() <= after.keys()
    assert git(Path(), "worktree", "list").count("\n") == 1


def cache(files: dict[Path, bytes]) -> set[Path]:
    return {path for path in files if path.parts[:1] == (".dvc",)}


def test_a_killed_reproduction_leaves_nothing_running(reproduced: Path, tmp_path: Path) -> None:
    def processes() -> list[str]:
        """Return the commands of what works below this test's own temporary folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink().is_relative_to(tmp_path / "temporary"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it ended meanwhile
                continue
        return found

    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "distar", "audit", "reproduce", "latest"]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path / "temporary")}) as audit:
        assert wait_for(lambda: any("distar prompts" in running for running in processes()), 120)
        audit.kill()
    assert wait_for(lambda: processes() == [], 20), processes()


def test_what_no_commit_holds_is_not_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    edit(PROFILE, "package", "notice", value="not committed")
    run_dvc(Path(), "repro")
    assert main(["audit", "reproduce", "latest"]) == 1
    told = capsys.readouterr().err
    assert "cannot be reproduced: no commit here holds what made it (profiles/mini.yaml: package.notice" in told


def test_an_experiment_that_released_something_is_not_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    run_dvc(Path(), "exp", "run", "-S", "profiles/mini.yaml:train.reward_scale=0.5")
    (name,) = git(Path(), "for-each-ref", "--format=%(refname)", "refs/exps/*/*/*").split()
    git(Path(), "checkout", "-q", "--", ".")
    commit, tree = git(Path(), "rev-parse", f"{name}", f"{name}^{{tree}}").split()
    old = {"GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z"}
    aged = subprocess.run(
        ["git", "commit-tree", "-p", f"{commit}^", "-m", "experiment", tree],
        env={**os.environ, **old}, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    git(Path(), "update-ref", name, aged)
    assert gaps(capsys) == {}  # the experiment holds the parameters
    assert [one["place"] for one in asked(capsys, "prune")[1] if one["kind"] == "experiment"] == []
    shutil.rmtree("published")
    assert [one["place"] for one in asked(capsys, "prune")[1] if one["kind"] == "experiment"] == [name]
