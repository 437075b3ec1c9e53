"""What dvc.yaml says of each stage: the one list of what a stage reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from distar.errors import ParameterError

DVC_YAML = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")


@dataclass(frozen=True)
class Stage:
    """A stage's inputs, outputs (metrics among them) and parameters; a file without keys is read whole."""

    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    parameters: dict[Path, tuple[str, ...]]

    def parameter_values(self) -> dict[str, dict[str, Any]]:
        """Return the values of the stage's parameters, by file and key."""
        values = {}
        for path, keys in self.parameters.items():
            content = _read(path)
            values[path.as_posix()] = {key: _at(content, key) for key in keys} if keys else content
        return values


def read_stages(folder: Path = Path()) -> dict[str, Stage]:
    """Read a project's dvc.yaml for the profile of its params.yaml.

    Raises:
        ParameterError: one of the two does not exist.
    """
    profile = _read(folder / "params.yaml")["profile"]

    def path(entry: str | dict) -> Path:
        name = entry if isinstance(entry, str) else next(iter(entry))
        return Path(name.replace("${profile}", profile))

    def parameters(entries: list) -> dict[Path, tuple[str, ...]]:
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
        for name, stage in _read(folder / DVC_YAML)["stages"].items()
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"{path} does not exist; run from the project's top folder") from None


def _at(content: dict[str, Any], key: str) -> Any:
    place: Any = content
    for part in key.split("."):
        place = place[part]
    return place
