"""Lineage as a Workflow Run RO-Crate (w3id.org/ro/wfrun, Provenance Run Crate 0.5): a folder that explains itself.

    ro-crate-metadata.json      what follows, described
    dvc.yaml                    the workflow
    statement.json              the release's in-toto statement, whole
    release/                    the release's files

Inputs and intermediate results are named by address and sha256; they are not in the crate.
"""

from __future__ import annotations

import json
import mimetypes
import os
import shutil
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from rocrate.model import ComputerLanguage, ContextEntity, Entity, SoftwareApplication
from rocrate.rocrate import ROCrate

from distar.atomic import written_whole
from distar.errors import ParameterError, StorageError
from distar.git import run_git
from distar.lineage.pipeline import DVC_YAML
from distar.lineage.provenance import Statement
from distar.lineage.runs import Record
from distar.lineage.stated import Stated, commit_of, flattened, repository_of
from distar.secrets import without_secrets

_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_WORKFLOW_PROFILE = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
_TERMS = "https://w3id.org/ro/terms/workflow-run/context"
_FORMATS = {".yaml": "application/yaml", ".md": "text/markdown"}  # what Python 3.11 knows on some systems only
_SCALARS = {bool: "Boolean", int: "Integer", float: "Float"}
_RELEASE = "release/"


def write_crate(release_folder: Path, statement: Statement, folder: Path) -> None:
    """Write a release, and how it came to be, into `folder` as a crate, whole or not at all.

    The release's files become hard links where the file system allows, for they may have many gigabytes; otherwise
    copies. The workflow is dvc.yaml at the commit that packaged the release, or as it stands if git has no such commit.

    Raises:
        ParameterError: there is no dvc.yaml here.
        ReleaseError: the statement holds no run, or the release's files are not those that it states.
        StorageError: the folder exists, or there is no space left.
    """
    statement = without_secrets(statement)
    stated = Stated.read_with_runs(statement)
    if folder.exists():
        raise StorageError(f"{folder} exists; give a folder that does not, for a crate holds nothing else")
    files = stated.files_in(release_folder)
    with written_whole(folder) as partial:
        placed = {name: partial / _RELEASE / name for name in files}
        for name, path in files.items():
            _link(path.resolve(), placed[name])
        _Crate(stated, statement, placed).crate.write(partial)  # what is in its place already is left there


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


class _Crate:
    """The description of one release, entity by entity."""

    def __init__(self, stated: Stated, statement: Statement, files: Mapping[str, Path]) -> None:
        self.stated = stated
        self.crate: Any = ROCrate(version="1.1")  # the library's annotations are too wide to be of use
        self.crate.metadata.extra_contexts.append(_TERMS)
        self.files = {name: self._add_file(name, path) for name, path in files.items()}
        self.release = self.crate.add_dataset(dest_path=_RELEASE, properties={"name": "The release"})
        self.release["hasPart"] = list(self.files.values())
        self.statement = self.crate.add_file(
            StringIO(json.dumps(statement, indent=2) + "\n"),
            "statement.json",
            properties={"name": "The release's in-toto statement", "encodingFormat": "application/json"},
        )
        self.parameters = self._add_parameters()
        self.materials = [self._add_material(material) for material in stated.materials]
        self.engine = self._application("https://dvc.org", "DVC", stated.versions["dvc"], url="https://dvc.org")
        self.workflow = self._add_workflow()
        self._describe_root()
        self._add_runs()

    def _describe_root(self) -> None:
        stated, root = self.stated, self.crate.root_dataset
        package = stated.parameters["package"]
        root["name"] = f"{package['name']} {stated.release_id[:16]}"
        root["description"] = (
            f"Release {stated.release_id} of distar, profile {stated.profile}, and the runs that made it. "
            f"{package['notice']}"
        )
        root["identifier"] = stated.release_id
        root["datePublished"] = stated.ended
        root["license"] = self._add("#licence", "CreativeWork", name=stated.licence, description=package["notice"])
        root["conformsTo"] = [
            self._add(profile, "CreativeWork", name=name, version=profile.rpartition("/")[2])
            for profile, name in _PROFILES.items()
        ]

    def _add_file(self, name: str, path: Path) -> Entity:
        properties = {
            "name": name,
            "encodingFormat": _format(name),
            "contentSize": str(path.stat().st_size),
            "sha256": self.stated.files[name],
        }
        return self.crate.add_file(path, f"{_RELEASE}{name}", properties=properties)

    def _add_workflow(self) -> Entity:
        language = self.crate.add(
            ComputerLanguage(
                self.crate,
                "#dvc-yaml",
                {"name": "DVC pipeline (dvc.yaml)", "alternateName": "DVC", "url": "https://dvc.org/doc"},
            )
        )
        packaged = self.stated.runs[-1]
        properties = {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            "name": "distar's pipeline",
            "encodingFormat": _format(DVC_YAML.name),
            "version": commit_of(packaged) or self.stated.versions["distar"],
            **_url(packaged),
        }
        text = StringIO(_workflow_text(packaged))
        workflow = self.crate.add_workflow(text, DVC_YAML.name, properties=properties, main=True, lang=language)
        workflow["conformsTo"] = self._add(
            _WORKFLOW_PROFILE, "CreativeWork", name="ComputationalWorkflow", version="1.0-RELEASE"
        )
        workflow["input"] = [value["exampleOfWork"] for value in self.parameters.values()]
        workflow["output"] = self._formal("release", "Dataset", self.release)
        return workflow

    def _add_parameters(self) -> dict[str, Entity]:
        values = {"profile": self.stated.profile, "seed": self.stated.seed, **flattened(self.stated.parameters)}
        return {name: self._add_parameter(name, value) for name, value in values.items()}

    def _add_parameter(self, name: str, value: Any) -> Entity:
        kind = _SCALARS.get(type(value), "Text")
        shown = value if isinstance(value, bool | int | float | str) else json.dumps(value)
        entity = self._add(f"#value/{name}", "PropertyValue", name=name, value=shown)
        self._formal(name, kind, entity)
        return entity

    def _formal(self, name: str, kind: str, example: Entity) -> Entity:
        formal = self._add(f"#parameter/{name}", "FormalParameter", name=name, additionalType=kind, workExample=example)
        example["exampleOfWork"] = formal
        return formal

    def _add_material(self, material: Mapping[str, Any]) -> Entity:
        described = {"name": material["name"], "identifier": material["uri"]}
        digest = material["digest"]
        key, value = ("sha256", digest["sha256"]) if "sha256" in digest else ("version", digest["gitCommit"])
        licence = material.get("annotations", {}).get("licence")
        more = {"license": licence} if licence else {}
        return self._add(f"#material/{material['name']}@{value}", "CreativeWork", **described, **{key: value}, **more)

    def _add_runs(self) -> None:
        stated = self.stated
        whole = self._add(
            "#run",
            "CreateAction",
            name=f"The run that made release {stated.release_id}",
            description=_missing(stated),
            instrument=self.workflow,
            startTime=stated.started,
            endTime=stated.ended,
            actionStatus="http://schema.org/CompletedActionStatus",
            object=[*self.parameters.values(), *self.materials],
            result=self.release,
            subjectOf=self.statement,
        )
        stages = [self._add_stage(position, record) for position, record in enumerate(stated.runs, start=1)]
        self.workflow["hasPart"] = [tool for tool, _, _, _ in stages]
        self.workflow["step"] = [step for _, step, _, _ in stages]
        organised = self._add(
            "#organise",
            "OrganizeAction",
            name="DVC orders the stages",
            instrument=self.engine,
            object=[control for _, _, control, _ in stages],
            result=whole,
            startTime=stated.started,
            endTime=stated.ended,
        )
        self.crate.root_dataset["mentions"] = [whole, *(action for _, _, _, action in stages), organised]

    def _add_stage(self, position: int, record: Record) -> tuple[Entity, Entity, Entity, Entity]:
        """Describe a stage as what runs (tool), its place (step), its start by DVC (control) and its run (action)."""
        stage = record["stage"]
        tool = self._application(f"#stage/{stage}", f"distar {stage}", self.stated.versions["distar"], **_url(record))
        step = self._add(f"#step/{stage}", "HowToStep", name=stage, position=str(position), workExample=tool)
        used = {name for content in record["parameters"].values() for name in flattened(content)}
        action = self._add(
            f"#run/{stage}",
            "CreateAction",
            name=f"Stage {stage}",
            description=_described(record),
            instrument=tool,
            startTime=record["started"],
            endTime=record["ended"],
            actionStatus="http://schema.org/CompletedActionStatus",
            object=[
                *self._contents(record["inputs"]),
                *(self.parameters[name] for name in sorted(used & self.parameters.keys())),
            ],
            result=self._contents(record["outputs"]),
            resourceUsage=[self._usage(stage, name, record[name]) for name in ("seconds", "cost_seconds")],
        )
        control = self._add(f"#control/{stage}", "ControlAction", name=stage, instrument=step, object=action)
        return tool, step, control, action

    def _usage(self, stage: str, name: str, seconds: float) -> Entity:
        return self._add(
            f"#usage/{stage}/{name}",
            "PropertyValue",
            name=name,
            value=seconds,
            unitCode="http://qudt.org/vocab/unit/SEC",
            propertyID=f"urn:distar:record:{name}",
        )

    def _contents(self, digests: Mapping[str, Mapping[str, Any] | None]) -> list[Entity]:
        return [self._content(place, digest) for place, digest in digests.items() if digest is not None]

    def _content(self, place: str, digest: Mapping[str, Any]) -> Entity:
        """Name a file or folder of the project; what is in the crate is named as it is there."""
        if place == "outputs/release":
            return self.release
        released = [file for file in self.files.values() if file["sha256"] == digest["sha256"]]
        if released:
            return released[0]
        return self._add(
            f"#content/{place}@{digest['sha256']}",
            "CreativeWork",
            name=place,
            sha256=digest["sha256"],
            size=str(digest["bytes"]),
        )

    def _application(self, place: str, name: str, version: str, **properties: str) -> Entity:
        properties = {"name": name, "softwareVersion": version, **properties}
        return self.crate.add(SoftwareApplication(self.crate, place, properties))

    def _add(self, place: str, kind: str, /, **properties: Any) -> Entity:
        """Add an entity; properties may be entities, and a list of one is that one, as the specification wants."""
        entity = self.crate.add(ContextEntity(self.crate, place, {"@type": kind}))
        for name, value in properties.items():
            entity[name] = value[0] if isinstance(value, list) and len(value) == 1 else value
        return entity


def _format(name: str) -> str:
    return _FORMATS.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _workflow_text(packaged: Record) -> str:
    """Return dvc.yaml as the stage that packaged the release had it, if git still knows."""
    git = packaged["git"]
    if git and DVC_YAML.as_posix() not in git["changed"]:
        shown = run_git("show", f"{git['commit']}:./{DVC_YAML}")
        if shown.returncode == 0:
            return shown.stdout.decode()
    if not DVC_YAML.exists():
        raise ParameterError(f"{DVC_YAML}, the workflow, does not exist; run from the project's top folder")
    return DVC_YAML.read_text(encoding="utf-8")


def _url(record: Record) -> dict[str, str]:
    repository = repository_of(record)
    return {"url": repository} if repository else {}


def _missing(stated: Stated) -> str:
    if not stated.unrecorded:
        return "Every stage is recorded."
    return f"Of these stages there is no record here: {', '.join(stated.unrecorded)}."


def _described(record: Record) -> str:
    device = record["device"]["name"] if record["device"] else "no device"
    return f"Run on {record['machine']['host']} with {device}, at commit {commit_of(record) or 'unknown'}."
