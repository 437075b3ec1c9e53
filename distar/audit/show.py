"""`distar audit show`: a release, back to commit, parameters, prompts, models, environment, hardware and metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx

from distar import paths
from distar.audit.evidence import Evidence, Trust
from distar.audit.graph import Node
from distar.audit.origin import Origin, find_origin
from distar.audit.page import Code, Facts, Graph, Note, Page, Picture, Pictures, Rows, Section
from distar.audit.repository import Repository
from distar.evaluation.summary import read_released_metrics

_MOST_NODES = 80  # of a lineage that is drawn; a sound one has about twenty


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
    trust: Trust
    not_gone_by: list[str]
    """Names of statements about the release that are beside the one shown: unsigned, older, or by other keys."""


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
        metrics=read_released_metrics(evidence.read(paths.METRICS.name), f"{paths.METRICS.name} of {evidence.release}"),
        signed_by=evidence.best.keyids,
        trust=evidence.best.trust,
        not_gone_by=[
            *(one.name for one in evidence.statements.readable if one != evidence.best),
            *(one.name for one in evidence.statements.unreadable),
        ],
    )


def page_of(shown: Shown, evidence: Evidence) -> Page:
    """Lay a release's lineage out."""
    sections: list[Section] = [
        Facts("Where it comes from", _origin_facts(shown)),
        _graph(shown),
        Rows("Metrics, on prompts that training never saw", *metrics_table(shown.metrics)),
        Pictures("Samples", [Picture("the same prompts and noise", evidence.read(paths.SAMPLE_GRID.name))]),
        Rows("What it was made from", ("material", "from", "content"), _material_rows(shown)),
        Rows("Runs", ("stage", "began", "seconds", "device", "commit", "uncommitted"), _run_rows(shown)),
        *([Note(f"Not recorded here: {', '.join(shown.unrecorded)}.")] if shown.unrecorded else []),
        *([Note(f"Other statements, not gone by: {', '.join(shown.not_gone_by)}.")] if shown.not_gone_by else []),
        Facts("Environment", _environment_facts(shown)),
        Code("Every file that it was made from", _material_files(shown)),
        Code("All parameters", json.dumps(shown.parameters, indent=2, ensure_ascii=False)),
        Rows("Files", ("file", "bytes", "sha256"), [(n, str(p["bytes"]), p["sha256"]) for n, p in shown.files.items()]),
    ]
    return Page(f"Release {shown.release[:16]}", f"Profile {shown.profile}, in {shown.store}.", sections)


def metrics_table(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Lay the means out: a row for each figure, a column for each system."""
    systems = {name: figures for name, figures in metrics.items() if isinstance(figures, dict) and "rewards" in figures}
    rewards = dict.fromkeys(name for figures in systems.values() for name in figures["rewards"])
    rows = [
        [f"reward: {name}", *(_figure(figures["rewards"].get(name, {}).get("mean")) for figures in systems.values())]
        for name in rewards
    ]
    figures = dict.fromkeys(n for one in systems.values() for n, value in one.items() if isinstance(value, float))
    rows += [[name.replace("_", " "), *(_figure(one.get(name)) for one in systems.values())] for name in figures]
    return ["", *systems], rows


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"


def _graph(shown: Shown) -> Section:
    """Draw the lineage, unless what is stated of it cannot be drawn."""
    nodes, edges = lineage_graph(shown)
    graph = nx.DiGraph(edges)
    if not nx.is_directed_acyclic_graph(graph):
        circle = " → ".join(start for start, _ in nx.find_cycle(graph))
        return Note(f"The lineage is not drawn: what is stated of it runs in a circle: {circle}.")
    if len(nodes) > _MOST_NODES:
        return Note(f"The lineage is not drawn: it has {len(nodes)} parts.")
    reduced = nx.transitive_reduction(graph)
    return Graph("How it was made", nodes, sorted(reduced.edges))


def lineage_graph(shown: Shown) -> tuple[list[Node], list[tuple[str, str]]]:
    """Return nodes and edges, of which some may be implied by longer ways."""
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
    return nodes, sorted({(start, end) for start, end in edges if {start, end} <= keys})


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
        "signed by": _signed_by(shown),
    }


def _signed_by(shown: Shown) -> str:
    match shown.trust:
        case "trusted":
            return f"{', '.join(shown.signed_by)}: trusted, and it holds"
        case "not checked":
            return f"{', '.join(shown.signed_by)}, as it says: no trusted key is given, so nobody checked"
        case _:
            return "nobody: whoever may write to the store could have put it there"


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
