"""What dvc.yaml says of each stage: the one list of what a stage reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from distar.documents import content_of, read_yaml, validated
from distar.errors import ParameterError

DVC_YAML = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")

_Entry = str | Annotated[dict[str, Any], Field(min_length=1, max_length=1)]  # a path, or a path with settings


class _WrittenStage(TypedDict):
    """A stage as dvc.yaml has it, as far as it is read here."""

    deps: NotRequired[list[_Entry]]
    outs: NotRequired[list[_Entry]]
    metrics: NotRequired[list[_Entry]]
    params: NotRequired[list[str | dict[str, list[str] | None]]]


class _Written(TypedDict):
    stages: dict[str, _WrittenStage]


class _Shared(TypedDict):
    profile: str


class _LockedStage(TypedDict):
    """A stage as dvc.lock has it; every stage's entries are kept whole beside this check."""

    deps: NotRequired[list[dict[str, Any]]]
    outs: NotRequired[list[dict[str, Any]]]
    params: NotRequired[dict[str, dict[str, Any]]]


class _Lock(TypedDict):
    stages: NotRequired[dict[str, _LockedStage]]


@dataclass(frozen=True)
class Stage:
    """A stage's inputs, outputs (metrics among them) and parameters; a file without keys is read whole."""

    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    parameters: dict[Path, tuple[str, ...]]

    def parameter_values(self) -> dict[str, dict[str, Any]]:
        """Return the values of the stage's parameters, by file and key.

        Raises:
            ParameterError: a file cannot be read, or lacks one.
        """
        values = {}
        for path, keys in self.parameters.items():
            content = _read(path)
            values[path.as_posix()] = {key: _at(content, key, path) for key in keys} if keys else content
        return values


def read_stages(folder: Path = Path()) -> dict[str, Stage]:
    """Read a project's dvc.yaml for the profile of its params.yaml.

    Raises:
        ParameterError: one of the two does not exist, or is not what it should be.
    """
    shared, pipeline = folder / "params.yaml", folder / DVC_YAML
    profile = validated(_Shared, _read(shared), str(shared), ParameterError)["profile"]
    written = validated(_Written, _read(pipeline), str(pipeline), ParameterError)["stages"]

    def path(entry: str | dict[str, Any]) -> Path:
        name = entry if isinstance(entry, str) else next(iter(entry))
        return Path(name.replace("${profile}", profile))

    def parameters(entries: list[str | dict[str, list[str] | None]]) -> dict[Path, tuple[str, ...]]:
        found: dict[Path, tuple[str, ...]] = {}
        for entry in entries:
            if isinstance(entry, str):
                found[Path("params.yaml")] = (*found.get(Path("params.yaml"), ()), entry)
            else:
                found |= {path(name): tuple(keys or ()) for name, keys in entry.items()}
        return found

    return {
        name: Stage(
            inputs=tuple(path(entry) for entry in stage.get("deps", ())),
            outputs=tuple(path(entry) for entry in (*stage.get("outs", ()), *stage.get("metrics", ()))),
            parameters=parameters(stage.get("params", [])),
        )
        for name, stage in written.items()
    }


def read_dvc_lock(path: Path = DVC_LOCK) -> dict[str, dict[str, Any]]:
    """Read the stages of a dvc.lock; none if there is no such file, as where stages are run by hand.

    Raises:
        ParameterError: it is not what DVC writes.
    """
    if not path.exists():
        return {}
    content = read_yaml(content_of(path, ParameterError, "run `dvc repro`"), str(path), ParameterError)
    validated(_Lock, content, str(path), ParameterError)
    return content.get("stages", {})


def _read(path: Path) -> Any:
    return read_yaml(content_of(path, ParameterError, "run from the project's top folder"), str(path), ParameterError)


def _at(content: Any, key: str, path: Path) -> Any:
    place = content
    for part in key.split("."):
        if not isinstance(place, dict) or part not in place:
            raise ParameterError(f"{path}: {key}: this parameter, which {DVC_YAML} names, is missing; add it")
        place = place[part]
    return place
