"""What a release says of itself: licences, bill of materials, parameters; the same for the same content."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from ruamel.yaml import YAML

from distar import paths
from distar.__main__ import main
from distar.errors import ReleaseError
from distar.fetching import read_pins
from distar.params import load_params, lock_path
from distar.release.bom import BOM, write_bom
from distar.release.keys import generate_key
from distar.release.origins import Origin
from distar.release.package import Card, write_card, write_licences
from tests.miniature import edit, pin_sources

PROFILE = Path("profiles/mini.yaml")
RATE = {"mean": 0.5, "low": 0.25, "high": 0.75}
MEASURED = {"rewards": {"preference": {"mean": 0.125, "sem": 0.0}}, "diversity": 0.25}
METRICS: dict[str, Any] = {
    **dict.fromkeys(("generator", "initial", "reference"), MEASURED),
    "win_rate": {"vs_initial": RATE, "vs_reference": RATE},
}


@pytest.fixture
def ready(project: Path) -> Path:
    """Put in place what the stage `package` reads; the initial generator stands in for a trained one."""
    assert main(["prompts"]) == 0
    assert main(["reference"]) == 0
    shutil.copytree(paths.INITIAL_GENERATOR, paths.GENERATOR_WEIGHTS)
    paths.METRICS.write_text(json.dumps(METRICS))
    paths.REPORTS.mkdir()
    for file in (paths.REPORT_PAGE, paths.SAMPLE_GRID, paths.SCORES):
        file.touch()
    return project


def package() -> dict[str, bytes]:
    assert main(["package"]) == 0
    files = sorted(path for path in paths.RELEASE.rglob("*") if path.is_file())
    return {path.relative_to(paths.RELEASE).as_posix(): path.read_bytes() for path in files}


def strings(data: object) -> set[str]:
    if isinstance(data, dict):
        return set().union(*map(strings, data.values()))
    if isinstance(data, list):
        return set().union(*map(strings, data))
    return {str(data)}


def test_the_same_content_is_the_same_release(ready: Path) -> None:
    first = package()
    shutil.rmtree(paths.RELEASE)
    edit(Path("params.yaml"), "publish", "url", value="file://elsewhere")
    edit(Path("params.yaml"), "models", "mirror", value="file://mirror")
    assert package() == first
    edit(Path("params.yaml"), "seed", value=1)
    changed = package()
    assert {name for name in changed if changed[name] != first.get(name)} == {"params.yaml", "manifest.json"}


def test_the_release_tells_the_parameters_that_made_it(ready: Path) -> None:
    written = YAML(typ="safe").load(package()["params.yaml"])
    profile = YAML(typ="safe").load(PROFILE)
    assert (written.pop("profile"), written.pop("seed")) == ("mini", 0)
    assert written == load_params().profile.model_dump(mode="json")
    assert written.keys() == profile.keys()


def test_the_bill_is_valid_and_holds_every_pinned_file(ready: Path) -> None:
    files = package()
    text = files[BOM].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill, pins = json.loads(text), read_pins(lock_path("mini"))
    held = strings(bill)
    assert {str(pin["sha256"]) for source in pins.values() for pin in source.values()} <= held
    assert set(pins) <= held
    release = bill["metadata"]["component"]
    manifest = json.loads(files["manifest.json"])["files"]
    weights = {name: pin["sha256"] for name, pin in manifest.items() if name.endswith(".safetensors")}
    assert {part["name"]: part["hashes"][0]["content"] for part in release["components"]} == weights
    assert len(weights) == 3
    assert release["modelCard"]["modelParameters"]["modelArchitecture"] == "UNet2DConditionModel"
    components = {component["bom-ref"]: component for component in bill["components"]}
    models = ["reference", "initial_generator", "rewards/preference", "rewards/matching", "rewards/judge"]
    prompts = ["prompts/train", "prompts/evaluation"]
    assert list(components) == models + prompts
    assert [components[name]["type"] for name in models] == ["machine-learning-model"] * len(models)
    assert [components[name]["type"] for name in prompts] == ["data"] * len(prompts)
    sets = json.loads(files["card.json"])
    for name in ("train", "evaluation"):
        assert components[f"prompts/{name}"]["hashes"][0]["content"] == sets[name]["sha256"]
    assert bill["dependencies"][0] == {"ref": "release", "dependsOn": models + prompts}


def test_licences_are_listed_and_the_texts_of_what_the_release_holds_are_in_it(ready: Path) -> None:
    edit(PROFILE, "package", "licences", "file://models/judge", value="unknown")
    files = package()
    page = files["LICENCES.md"].decode()
    assert files["licences/reference/LICENSE.md"] == Path("models/reference/LICENSE.md").read_bytes()
    assert "| reference | file://models/reference |  | apache-2.0 | licences/reference/LICENSE.md |" in page
    assert "| rewards/judge | file://models/judge |  | unknown |  |" in page
    assert "| prompts/train | file://prompts/train.txt |  | Apache-2.0 |  |" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 5 + 2


def test_a_reference_that_ships_no_licence_text_is_packaged(ready: Path) -> None:
    Path("models/reference/LICENSE.md").unlink()
    pin_sources(ready)
    assert main(["reference"]) == 0
    assert not [name for name in package() if name.startswith("licences/")]


def test_a_release_is_published_signed_and_the_audit_trusts_the_key(ready: Path, capsys: Any) -> None:
    package()
    edit(Path("params.yaml"), "publish", "signing_key", value="key")
    assert main(["publish"]) == 1
    assert "key: No such file" in capsys.readouterr().err
    assert not Path("published").exists()
    keyid = generate_key(Path("key"))
    assert main(["publish"]) == 0
    capsys.readouterr()

    def signatures() -> dict[str, str]:
        main(["audit", "verify", "latest", "--json"])
        checks = json.loads(capsys.readouterr().out)["checks"]
        return {check["what"]: check["outcome"] for check in checks if keyid in check["what"]}

    names = (f"provenance by {keyid}", f"model signature by {keyid}")
    assert signatures() == dict.fromkeys(names, "note")
    edit(Path("params.yaml"), "publish", "trusted_keys", value=["key.pub"])
    assert signatures() == dict.fromkeys(names, "holds")


@pytest.mark.parametrize("stage", ["prompts", "package"])
def test_a_source_without_licence_and_a_licence_without_source_are_told(
    project: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    edit(PROFILE, "initial_generator", "source", value="hf://owner/name@" + "0" * 40)
    assert main([stage]) == 1
    message = capsys.readouterr().err
    assert "mini.yaml: package.licences says nothing of hf://owner/name@000" in message
    edit(PROFILE, "initial_generator", "source", value="reference")
    assert main([stage]) == 1
    message = capsys.readouterr().err
    assert "mini.yaml: package.licences names file://models/initial_generator, which no model is from" in message


def test_a_private_key_among_the_parameters_is_refused_and_not_repeated(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIGHsecret\n-----END PRIVATE KEY-----\n"
    edit(Path("params.yaml"), "publish", "signing_key", value=key)
    assert main(["prompts"]) == 1
    message = capsys.readouterr().err
    assert "params.yaml: publish.signing_key: got a private key itself, expected the path of its file" in message
    assert "MIGHsecret" not in message


# Releases whose origins are on the hub

REVISION = "0123456789abcdef" * 2 + "01234567"


def a_card(**changes: Any) -> Card:
    pins: Any = {"weights": {"sha256": "a" * 64, "bytes": 1}}
    origins = [
        Origin("reference", "model", f"hf://owner/base@{REVISION}", "openrail++", pins),
        Origin("initial_generator", "model", f"hf://other/one-step@{REVISION}/unet.bin", "cc-by-nc-4.0", pins),
        Origin("rewards/pick", "model", f"hf://owner/pick@{REVISION}", "unknown", pins),
        Origin("prompts/train", "data", f"hf://datasets/owner/captions@{REVISION}", "CC-BY-4.0", pins),
        Origin("prompts/evaluation", "data", "file://prompts/mine.txt", "mine, all mine", {}, sha256="b" * 64),
    ]
    values: dict[str, Any] = {
        "name": "release",
        "licence": "openrail++",
        "notice": "A notice.",
        "profile": "mini",
        "timestep": 625,
        "noise_scale": "sigma",
        "network": "unet",
        "call_options": {},
        "example_prompt": "a red star",
        "metrics": METRICS,
        "compare_by": "preference",
        "origins": origins,
    }
    return Card(**values | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    return tmp_path


@pytest.mark.parametrize(
    "prompt",
    [
        "a red star",
        "\U0001f31f a red star \U0001f469\u200d\U0001f680",
        'it\'s a "red" star \\ \\n \\N{DIGIT ONE}',
        "a red star\n\r\t\0\x85\u2028end",
        "{{ card }} {% raw %} {# x #} # %s {0}",
        "``` a `b` ```` c",
        "\u202ea red star\u202c \u200f\u05d0 \u0639\u0631\u0628\u064a \u7528\u6237",
        "</code><script>&amp;",
    ],
)
def test_the_cards_code_holds_the_prompt_as_it_is(prompt: str, folder: Path) -> None:
    write_card(
        a_card(example_prompt=prompt, call_options={"clean_caption": False, "mode": "a 'b'"}), folder / "README.md"
    )
    card = (folder / "README.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    assert "```" not in snippet
    assert snippet.isascii() or all(char.isprintable() or char == "\n" for char in snippet)
    (call,) = [
        node
        for node in ast.walk(ast.parse(snippet))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "pipeline"
    ]
    assert ast.literal_eval(call.args[0]) == prompt
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    assert (ast.literal_eval(options["clean_caption"]), ast.literal_eval(options["mode"])) == (False, "a 'b'")


def test_the_card_names_repositories_of_the_hub(folder: Path) -> None:
    write_card(a_card(), folder / "README.md")
    metadata = YAML(typ="safe").load((folder / "README.md").read_text().split("---")[1])
    assert metadata["base_model"] == ["owner/base", "other/one-step"]
    assert metadata["datasets"] == ["owner/captions"]
    captions = Origin("prompts/train", "data", f"hf://owner/model@{REVISION}/captions.txt", "mit", {})  # no data set
    write_card(a_card(origins=[captions]), folder / "README.md")
    metadata = YAML(typ="safe").load((folder / "README.md").read_text().split("---")[1])
    assert metadata.keys() == {"license", "library_name", "pipeline_tag", "tags"}


def test_revisions_and_licences_of_the_hub_are_told(folder: Path) -> None:
    card = a_card()
    write_licences(card, folder)
    write_bom(card, folder)
    page = (folder / "LICENCES.md").read_text()
    assert f"| initial_generator | other/one-step | {REVISION} | cc-by-nc-4.0 |  |" in page
    components = {part["bom-ref"]: part for part in json.loads((folder / BOM).read_text())["components"]}
    assert components["rewards/pick"]["version"] == REVISION
    assert components["rewards/pick"]["name"] == "owner/pick"
    licences = {name: part["licenses"][0]["license"] for name, part in components.items()}
    assert licences == {
        "reference": {"name": "openrail++"},
        "initial_generator": {"id": "CC-BY-NC-4.0"},
        "rewards/pick": {"name": "unknown"},
        "prompts/train": {"id": "CC-BY-4.0"},
        "prompts/evaluation": {"name": "mine, all mine"},
    }


def test_a_source_is_named_by_a_uri(folder: Path) -> None:
    origins = [Origin("reference", "model", "file://our models/100% référence #1", "mit", {})]
    write_bom(a_card(origins=origins), folder)
    (component,) = json.loads((folder / BOM).read_text())["components"]
    assert component["externalReferences"][0]["url"] == "file://our%20models/100%25%20r%C3%A9f%C3%A9rence%20%231"


def test_a_bill_that_would_not_be_valid_is_not_written(folder: Path) -> None:
    broken: Any = {"weights": {"sha256": "no hash", "bytes": 1}}
    origins = [Origin("reference", "model", "file://reference", "mit", broken)]
    with pytest.raises(ReleaseError, match="would not be valid CycloneDX"):
        write_bom(a_card(origins=origins), folder)
    assert not (folder / BOM).exists()
