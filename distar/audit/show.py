"""`distar audit show`: a release, back to commit, parameters, prompts, models, environment, hardware and metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from distar import paths
from distar.audit.evidence import Evidence
from distar.audit.graph import Node
from distar.audit.origin import Origin, find_origin
from distar.audit.page import Code, Facts, Graph, Note, Page, Picture, Pictures, Rows, Section
from distar.audit.repository import Repository


@dataclass(frozen=True)
class Shown:
    """A release's lineage."""

    release: str
    store: str
    aliases: list[str]
    files: dict[str, dict[str, Any]]
    origin: Origin
    profile: str
    seed: int
    parameters: dict[str, Any]
    materials: list[dict[str, Any]]
    """resolvedDependencies of the statement: `name` begins with the role."""
    runs: list[dict[str, Any]]
    unrecorded: list[str]
    metrics: dict[str, Any]
    signed_by: list[str]


def show(evidence: Evidence, repository: Repository) -> Shown:
    """Gather a release's lineage from what is stated of it.

    Raises:
        ReleaseError: nothing is stated of it, or its metrics are damaged.
    """
    stated = evidence.stated
    return Shown(
        release=evidence.release,
        store=evidence.store.url,
        aliases=evidence.aliases,
        files=evidence.files,
        origin=find_origin(stated, repository),
        profile=stated.profile,
        seed=stated.seed,
        parameters=stated.parameters,
        materials=stated.materials,
        runs=stated.runs,
        unrecorded=stated.unrecorded,
        metrics=json.loads(evidence.read(paths.METRICS.name)),
        signed_by=evidence.best.keyids,
    )


def page_of(shown: Shown, evidence: Evidence) -> Page:
    """Lay a release's lineage out."""
    sections: list[Section] = [
        Facts("Where it comes from", _origin_facts(shown)),
        Graph("How it was made", *lineage_graph(shown)),
        Rows("Metrics, on prompts that training never saw", *metrics_table(shown.metrics)),
        Pictures("Samples", [Picture("the same prompts and noise", evidence.read(paths.SAMPLE_GRID.name))]),
        Rows("What it was made from", ("material", "from", "content"), _material_rows(shown)),
        Rows("Runs", ("stage", "began", "seconds", "device", "commit", "uncommitted"), _run_rows(shown)),
        *([Note(f"Not recorded here: {', '.join(shown.unrecorded)}.")] if shown.unrecorded else []),
        Facts("Environment", _environment_facts(shown)),
        Code("Every file that it was made from", _material_files(shown)),
        Code("All parameters", json.dumps(shown.parameters, indent=2, ensure_ascii=False)),
        Rows("Files", ("file", "bytes", "sha256"), [(n, str(p["bytes"]), p["sha256"]) for n, p in shown.files.items()]),
    ]
    return Page(f"Release {shown.release[:16]}", f"Profile {shown.profile}, in {shown.store}.", sections)


def metrics_table(metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Lay the means out: a row for each figure, a column for each system."""
    systems = [name for name, figures in metrics.items() if "rewards" in figures]
    first = metrics[systems[0]]
    rows = [
        [f"reward: {name}", *(f"{metrics[system]['rewards'][name]['mean']:.4f}" for system in systems)]
        for name in first["rewards"]
    ]
    figures = (name for name, value in first.items() if isinstance(value, float))
    rows += [[name.replace("_", " "), *(f"{metrics[system][name]:.4f}" for system in systems)] for name in figures]
    return ["", *systems], rows


def lineage_graph(shown: Shown) -> tuple[list[Node], list[tuple[str, str]]]:
    """Return nodes and edges; an edge that a longer way implies is left out."""
    materials = _by_role(shown.materials)
    nodes = [
        *(Node("commit", "commit", "commit", commit[:12], commit) for commit in [shown.origin.commit] if commit),
        Node("parameters", "parameters", "parameters", f"seed {shown.seed}", f"profile {shown.profile}"),
        *(
            Node("environment", "environment", "environment", entry["digest"]["sha256"][:12], entry["uri"])
            for entry in materials.pop("environment", [])[:1]
        ),
        *(_material_node(role, entries) for role, entries in materials.items() if role != "code"),
    ]
    runs = {run["stage"]: run for run in shown.runs}
    nodes += [
        Node(f"stage {name}", "stage", name, f"{run['seconds']:.0f} s", f"{run['started']}, {_device(run)}")
        for name, run in runs.items()
    ]
    nodes += [Node(f"stage {name}", "stage", name, "not recorded", "no record") for name in shown.unrecorded]
    nodes.append(Node("release", "release", "release", shown.release[:12], shown.release))

    makers = {path: name for name, run in runs.items() for path in run["outputs"]}
    edges = [
        (f"stage {makers[path]}", f"stage {name}")
        for name, run in runs.items()
        for path in run["inputs"]
        if path in makers
    ]
    fetched = {"prompts": "prompts", "reference": "reference", "initial_generator": "reference", "fid": "rewards"}
    edges += [(f"material {role}", f"stage {fetched.get(role.split('/')[0], 'rewards')}") for role in materials]
    edges += [("parameters", f"stage {name}") for name, run in runs.items() if run["parameters"]]
    edges += [
        ("environment", f"stage {name}") for name, run in runs.items() if run["inputs"].get("requirements/lock.txt")
    ]
    edges += [("commit", "parameters"), ("commit", "environment"), ("stage package", "release")]
    keys = {node.key for node in nodes}
    return nodes, _reduced({(start, end) for start, end in edges if {start, end} <= keys})


def _reduced(edges: set[tuple[str, str]]) -> list[tuple[str, str]]:
    after: dict[str, set[str]] = {}
    for start, end in edges:
        after.setdefault(start, set()).add(end)

    def reaches(start: str, end: str) -> bool:
        return start == end or any(reaches(following, end) for following in after.get(start, ()))

    return sorted(
        (start, end) for start, end in edges if not any(other != end and reaches(other, end) for other in after[start])
    )


def _by_role(materials: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Gather materials by what they are: `reference`, `prompts/train`, `rewards/NAME` and so on."""
    roles: dict[str, list[dict[str, Any]]] = {}
    for entry in materials:
        parts = entry["name"].split("/")
        roles.setdefault("/".join(parts[: 2 if parts[0] in {"prompts", "rewards"} else 1]), []).append(entry)
    return roles


def _material_node(role: str, entries: list[dict[str, Any]]) -> Node:
    kind, name = role.partition("/")[0], role.replace("_", " ").replace("/", ": ")
    detail = entries[0]["digest"]["sha256"][:12] if len(entries) == 1 else f"{len(entries)} files"
    kinds = {"prompts": "prompts", "rewards": "reward", "fid": "reward"}
    tooltip = "\n".join(f"{entry['uri']} {entry['digest']['sha256']}" for entry in entries)
    return Node(f"material {role}", kinds.get(kind, "reference"), name, detail, tooltip)  # type: ignore[arg-type]


def _origin_facts(shown: Shown) -> dict[str, str]:
    code = [entry for entry in shown.materials if entry["name"] == "code"]
    origin = shown.origin
    if origin.commit is None:
        commit = f"not here: {', '.join(origin.missing)}" if origin.missing else "unknown: the runs were not in git"
    else:
        commit = origin.commit + (f", but {len(origin.differences)} things differed" if origin.differences else "")
    return {
        "release": shown.release,
        "aliases": ", ".join(shown.aliases) or "none",
        "commit": commit,
        **({"from": code[0]["uri"]} if code else {}),
        "recorded by": ", ".join(origin.recorded_by) or "no commit's dvc.lock here",
        "profile, seed": f"{shown.profile}, {shown.seed}",
        "signed by": ", ".join(shown.signed_by) or "nobody: whoever may write to the store could have put it there",
    }


def _material_rows(shown: Shown) -> list[tuple[str, str, str]]:
    """Tell each material with its source, without the files' own names, and its hash or how many files it has."""
    rows = []
    for role, entries in _by_role(shown.materials).items():
        if role in {"code", "environment"}:
            continue
        suffix = entries[0]["name"].removeprefix(role)
        source = entries[0]["uri"].removesuffix(suffix) if suffix else entries[0]["uri"]
        content = entries[0]["digest"]["sha256"] if len(entries) == 1 else f"{len(entries)} files"
        rows.append((role, source, content))
    return rows


def _material_files(shown: Shown) -> str:
    entries = (entry for entry in shown.materials if entry["name"] not in {"code", "environment"})
    return "\n".join(f"{entry['digest']['sha256']}  {entry['uri']}" for entry in entries)


def _run_rows(shown: Shown) -> list[tuple[str, ...]]:
    return [
        (
            run["stage"],
            run["started"][:19].replace("T", " "),
            f"{run['cost_seconds']:.1f}",
            _device(run),
            run["git"]["commit"][:12] if run["git"] else "-",
            ", ".join(run["git"]["changed"]) if run["git"] else "",
        )
        for run in shown.runs
    ]


def _device(run: dict[str, Any]) -> str:
    return run["device"]["class"] if run["device"] else "-"


def _environment_facts(shown: Shown) -> dict[str, str]:
    if not shown.runs:
        return {}
    environment, machine = shown.runs[-1]["environment"], shown.runs[-1]["machine"]
    return {
        "lock": str(environment["lock"]),
        "Python": environment["python"],
        "libraries": ", ".join(f"{name} {number}" for name, number in environment["libraries"].items()),
        "system": environment["system"],
        "machine": f"{machine['host']}, {machine['cores']} cores of {machine['cpu']}",
        "flow run": next((run["flow_run"] for run in shown.runs if run["flow_run"]), "none: run by hand"),
    }
