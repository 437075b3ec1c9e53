"""What a statement says of a release, as the audit and the exports read it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from distar.documents import Count, Sha256, Timestamp, validated
from distar.errors import ReleaseError
from distar.hashing import sha256_of
from distar.lineage.provenance import BUILD_TYPE, MANIFEST_SUBJECT, Statement
from distar.lineage.runs import Commit, Record, RecordForm

_MOST_RUNS = 100  # a pipeline has about ten stages
_OF_OTHERS = {"dvc_lock", "parameters"}  # DVC's own tables, and the profile's sections


def _uri(text: str) -> str:
    urlsplit(text)  # raises ValueError
    return text


class _Sha256Form(TypedDict):
    sha256: Sha256


class _SubjectForm(TypedDict):
    name: str
    digest: _Sha256Form


class _PackageForm(TypedDict):
    name: str
    licence: str
    notice: str


class _ParametersForm(TypedDict):
    package: _PackageForm


class _ExternalForm(TypedDict):
    profile: str
    seed: Count
    parameters: _ParametersForm


_Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]  # as DVC writes it, of a file or a folder


class _EntryForm(TypedDict):
    path: str
    md5: NotRequired[_Md5]
    size: NotRequired[Count]
    nfiles: NotRequired[Count]


class _StageForm(TypedDict):
    cmd: NotRequired[str | list[str]]
    deps: NotRequired[list[_EntryForm]]
    outs: NotRequired[list[_EntryForm]]
    params: NotRequired[dict[str, dict[str, Any]]]


class _InternalForm(TypedDict):
    runs: Annotated[list[RecordForm], Field(max_length=_MOST_RUNS)]
    unrecorded: list[str]
    dvc_lock: dict[str, _StageForm]


class _DigestForm(TypedDict):
    sha256: NotRequired[Sha256]
    gitCommit: NotRequired[Commit]


class _AnnotationsForm(TypedDict):
    licence: NotRequired[str]
    num_prompts: NotRequired[Count]
    stages: NotRequired[list[str]]
    changed: NotRequired[list[str]]


class _MaterialForm(TypedDict):
    name: str
    uri: Annotated[str, AfterValidator(_uri)]
    digest: _DigestForm
    annotations: NotRequired[_AnnotationsForm]


def _with_its_hash(material: _MaterialForm) -> _MaterialForm:
    expected = "gitCommit" if material["name"] == "code" else "sha256"
    if expected not in material["digest"]:
        raise ValueError(f"expected a digest with {expected}")
    return material


class _DefinitionForm(TypedDict):
    buildType: str
    externalParameters: _ExternalForm
    internalParameters: _InternalForm
    resolvedDependencies: list[Annotated[_MaterialForm, AfterValidator(_with_its_hash)]]


class _VersionsForm(TypedDict):
    distar: str
    dvc: str


class _BuilderForm(TypedDict):
    id: str
    version: _VersionsForm


class _MetadataForm(TypedDict):
    invocationId: NotRequired[str]
    startedOn: NotRequired[Timestamp]
    finishedOn: NotRequired[Timestamp]


class _DetailsForm(TypedDict):
    builder: _BuilderForm
    metadata: _MetadataForm


class _PredicateForm(TypedDict):
    buildDefinition: _DefinitionForm
    runDetails: _DetailsForm


class _StatementForm(TypedDict):
    _type: str
    subject: Annotated[list[_SubjectForm], Field(min_length=1)]
    predicateType: str
    predicate: _PredicateForm


@dataclass(frozen=True)
class Stated:
    """A release: its files' sha256 by path (the manifest among them), parameters, runs in order, and materials.

    `materials` are resolvedDependencies, `dvc_lock` the stages of dvc.lock; times are ISO 8601, empty without runs.
    `unknown` are the paths of fields that nothing of this project writes.
    """

    release_id: str
    files: dict[str, str]
    profile: str
    seed: int
    parameters: dict[str, Any]
    runs: list[Record]
    unrecorded: list[str]
    dvc_lock: dict[str, Any]
    materials: list[dict[str, Any]]
    versions: dict[str, str]
    started: str
    ended: str
    unknown: list[str]

    @classmethod
    def read(cls, statement: Any) -> Stated:
        """Read a statement.

        Raises:
            ReleaseError: it is no statement of a release of this project.
        """
        known = validated(_StatementForm, statement, "the statement", ReleaseError)
        definition = statement["predicate"]["buildDefinition"]
        if definition["buildType"] != BUILD_TYPE:
            raise ReleaseError(
                f"the statement's buildType is {definition['buildType']!r}; expected {BUILD_TYPE!r}: "
                "take the statement of a release that this project published"
            )
        external, internal = definition["externalParameters"], definition["internalParameters"]
        files = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
        if len(files) < len(statement["subject"]) or MANIFEST_SUBJECT not in files:
            raise ReleaseError(f"the statement's subjects name a file twice, or not {MANIFEST_SUBJECT}")
        details = statement["predicate"]["runDetails"]
        return cls(
            release_id=files[MANIFEST_SUBJECT],
            files=files,
            profile=external["profile"],
            seed=external["seed"],
            parameters=external["parameters"],
            runs=internal["runs"],
            unrecorded=internal["unrecorded"],
            dvc_lock=internal["dvc_lock"],
            materials=definition["resolvedDependencies"],
            versions=details["builder"]["version"],
            started=details["metadata"].get("startedOn", ""),
            ended=details["metadata"].get("finishedOn", ""),
            unknown=list(_left_out(statement, known)),
        )

    @classmethod
    def read_with_runs(cls, statement: Statement) -> Stated:
        """Read a statement that tells of runs and their time, as an export needs it.

        Raises:
            ReleaseError: as `read`, or there is no run, so that there is nothing to export, or no time.
        """
        stated = cls.read(statement)
        if not stated.runs:
            raise ReleaseError(
                f"release {stated.release_id} has no recorded run, so there is no lineage to export; "
                "package and publish it where its records (runs/) are"
            )
        if not stated.started or not stated.ended:
            raise ReleaseError(
                f"what is stated of release {stated.release_id} tells of runs, but not when they began and ended; "
                "see `distar audit verify`"
            )
        return stated

    @property
    def all_parameters(self) -> dict[str, Any]:
        """The release's params.yaml: `profile`, `seed` and the profile's sections."""
        return {"profile": self.profile, "seed": self.seed, **self.parameters}

    @property
    def licence(self) -> str:
        """The licence that the release was packaged under."""
        return self.parameters["package"]["licence"]

    def files_in(self, folder: Path) -> dict[str, Path]:
        """Find the release's files in `folder`, each with the content that is stated.

        Raises:
            ReleaseError: one is missing or another.
        """
        found = {name: folder / name for name in self.files}
        for name, path in found.items():
            if not path.is_file():
                raise ReleaseError(
                    f"{path} does not exist, but is part of release {self.release_id}; download it again"
                )
            if (got := sha256_of(path)) != self.files[name]:
                raise ReleaseError(
                    f"{path}: expected sha256 {self.files[name]}, got {got}: it is not the file of release "
                    f"{self.release_id}; download the release again"
                )
        return found


def _left_out(value: Any, known: Any, above: str = "") -> Iterator[str]:
    """Name the fields that a document's form leaves out."""
    match value, known:
        case dict(), dict():
            for name, content in value.items():
                if name not in known:
                    yield f"{above}{name}"
                elif name not in _OF_OTHERS:
                    yield from _left_out(content, known[name], f"{above}{name}.")
        case list(), list():
            for position, (content, one) in enumerate(zip(value, known, strict=True)):
                yield from _left_out(content, one, f"{above}{position}.")
        case _:
            pass


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Name each value of a tree by its path, as in `train.optimizer.eps`; lists and tables of sources are values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        named = isinstance(value, Mapping) and value and all(re.fullmatch(r"[\w.-]+", part) for part in value)
        flat |= flattened(value, f"{name}.") if named else {name: value}
    return flat


def commit_of(record: Record) -> str | None:
    """Return the commit that a stage ran at, if git knew."""
    return record["git"]["commit"] if record["git"] else None


def repository_of(record: Record) -> str | None:
    """Return the URL of the repository that a stage ran in; git itself also takes `host:path` and plain folders.

    None stands for a run without git or remote, and for a remote of which no URL can be made.
    """
    remote = record["git"]["remote"] if record["git"] else None
    if remote is None:
        return None
    host, separator, path = remote.partition(":")
    named_by_host = separator and "/" not in host
    url = remote if "://" in remote else f"ssh://{host}/{path}" if named_by_host else f"file://{remote}"
    return url if _is_uri(url) else None


def _is_uri(text: str) -> bool:
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True
