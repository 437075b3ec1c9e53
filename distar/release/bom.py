"""The release's bill of materials: a CycloneDX ML-BOM of what it holds and what it derives from.

It holds no time and no random number, so the same release has the same bill. It is written as JSON and checked by the
library, which has no classes for model cards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from distar.errors import ReleaseError
from distar.fetching.source import Pin
from distar.hashing import pin_file
from distar.release.origins import Origin
from distar.release.package import Card

BOM = "bom.cdx.json"


def write_bom(card: Card, folder: Path) -> None:
    """Write the bill of a release folder, whose weights it hashes.

    Raises:
        ReleaseError: the bill would not be valid CycloneDX.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    weights = {path.relative_to(folder).as_posix(): pin_file(path) for path in sorted(folder.rglob("*.safetensors"))}
    release = {
        "type": "machine-learning-model",
        "bom-ref": "release",
        "name": card.name,
        "licenses": [_licence(card.licence)],
        "modelCard": _model_card(card, folder),
        "components": _files("release", weights),
    }
    names = [origin.name for origin in card.origins]
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": release},
        "components": [_component(origin) for origin in card.origins],
        "dependencies": [{"ref": "release", "dependsOn": names}, *({"ref": name} for name in names)],
    }
    text = json.dumps(bill, indent=2, ensure_ascii=False) + "\n"
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise ReleaseError(
            f"{BOM} would not be valid CycloneDX: {fault}; check the profile's `package` and its sources"
        )
    (folder / BOM).write_text(text, encoding="utf-8")


def _component(origin: Origin) -> dict[str, Any]:
    component = {
        "type": "data" if origin.kind == "data" else "machine-learning-model",
        "bom-ref": origin.name,
        "name": origin.name,
        "licenses": [_licence(origin.licence)],
        "externalReferences": [{"type": "distribution", "url": _as_uri(origin.source)}],
        "components": _files(origin.name, origin.files),
    }
    if origin.sha256:
        component["hashes"] = [{"alg": "SHA-256", "content": origin.sha256}]
    if origin.repository:
        component |= {"name": origin.repository.repository, "version": origin.repository.revision}
    return component


def _as_uri(source: str) -> str:
    """Quote what a source's path may hold and a URI's may not, such as spaces; the library does not check that."""
    return quote(source, safe="/:@")


def _files(owner: str, pins: Mapping[str, Pin]) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "bom-ref": f"{owner}#{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": pin["sha256"]}],
        }
        for name, pin in sorted(pins.items())
    ]


def _licence(text: str) -> dict[str, Any]:
    """Name a licence by its SPDX identifier, if it has one."""
    from cyclonedx.spdx import fixup_id

    identifier = fixup_id(text)
    return {"license": {"id": identifier} if identifier else {"name": text}}


def _model_card(card: Card, folder: Path) -> dict[str, Any]:
    network = json.loads((folder / card.network / "config.json").read_text(encoding="utf-8"))
    return {
        "modelParameters": {
            "approach": {"type": "reinforcement-learning"},
            "task": "text-to-image",
            "architectureFamily": "latent diffusion",
            "modelArchitecture": network["_class_name"],
            "datasets": [{"ref": origin.name} for origin in card.origins if origin.name == "prompts/train"],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "image"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": _performance(card.metrics)},
        "considerations": {"ethicalConsiderations": [{"name": card.notice}]},
    }


def _performance(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    figures = {name: reward["mean"] for name, reward in metrics["generator"]["rewards"].items()}
    figures["diversity"] = metrics["generator"]["diversity"]
    rates = [
        {
            "type": f"win_rate.{opponent}",
            "value": str(rate["mean"]),
            "confidenceInterval": {"lowerBound": str(rate["low"]), "upperBound": str(rate["high"])},
        }
        for opponent, rate in metrics["win_rate"].items()
    ]
    return [*({"type": name, "value": str(value)} for name, value in figures.items()), *rates]
