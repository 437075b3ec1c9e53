"""The report: one self-contained page and one picture, the same bytes whenever the same run is reported."""

from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from pydantic import RootModel
from torch import Tensor

from distar.documents import content_of, read_json, validated
from distar.errors import DistarError
from distar.evaluation.captions import LINE_HEIGHT, draw_caption, wrap
from distar.evaluation.published import Comparison

_THUMBNAIL, _CAPTION_LINES = 128, 5
_SYSTEM_COLOURS = {"reference": "#7d8597", "initial": "#d4a017", "generator": "#1f7a5c"}


@dataclass(frozen=True)
class SystemPictures:
    """What one system drew of the report's prompts."""

    key: str
    title: str
    images: UInt8[Tensor, "n 3 h w"]


@dataclass(frozen=True)
class Lineage:
    """What the run was made of: every parameter, and the sha256 of every input."""

    parameters: dict[str, object]
    hashes: dict[str, str]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows."""

    profile: str
    notice: str
    prompts: list[str]
    pictures: list[SystemPictures]
    metrics: dict
    compare_by: str
    published: list[Comparison]
    probes_path: Path
    probe_reference_path: Path
    lineage: Lineage


def write_page(report: Report, path: Path) -> None:
    """Write the report as one HTML file that loads nothing from elsewhere."""
    environment = Environment(
        loader=PackageLoader("distar.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(
        report=report,
        rows=list(
            zip(
                report.prompts,
                *[[_data_uri(_to_pil(image)) for image in system.images] for system in report.pictures],
                strict=True,
            )
        ),
        table=_metrics_table(report),
        win_rate=report.metrics["win_rate"],
        win_rates=report.metrics["win_rates"],
        published=report.published,
        curves=_curves(report),
        parameters=json.dumps(report.lineage.parameters, indent=2, ensure_ascii=False),
    )
    path.write_text(page, encoding="utf-8")


def write_grid(report: Report, path: Path) -> None:
    """Write the samples as one picture: a column for each prompt, its caption above, and a row for each system."""
    side, label, margin = _THUMBNAIL, 22, 4
    captions = [wrap(prompt, side - 2 * margin, _CAPTION_LINES) for prompt in report.prompts]
    caption = margin + LINE_HEIGHT * max(2, *map(len, captions))
    font = ImageFont.load_default(13)
    grid = Image.new("RGB", (len(report.prompts) * side, caption + len(report.pictures) * (side + label)), "white")
    draw = ImageDraw.Draw(grid)
    for column, lines in enumerate(captions):
        draw_caption(draw, column * side + margin, 2, side - 2 * margin, lines)
    for row, system in enumerate(report.pictures):
        top = caption + row * (side + label)
        draw.text((4, top + 3), system.title, fill=_SYSTEM_COLOURS[system.key], font=font)
        for column, image in enumerate(system.images):
            grid.paste(_to_pil(image).resize((side, side), Image.Resampling.LANCZOS), (column * side, top + label))
    grid.save(path)


def _metrics_table(report: Report) -> dict[str, list[str]]:
    """Lay the metrics out: a line for each figure, a cell for each system."""
    systems = [report.metrics[system.key] for system in report.pictures]
    lines = {f"reward: {name}": [_estimate(s["rewards"][name]) for s in systems] for name in systems[0]["rewards"]}
    for label, rewards in systems[0].get("by_label", {}).items():
        for name in rewards:
            lines[f"reward: {name}, {label}"] = [_estimate(s["by_label"][label][name]) for s in systems]
    for name in (key for key, value in systems[0].items() if isinstance(value, float)):
        lines[name.replace("_", " ")] = [f"{s[name]:.3f}" if s[name] >= 0.01 else f"{s[name]:.2e}" for s in systems]
    if "fid" in systems[0]:
        fid = systems[0]["fid"]
        biased = ", too high: fewer pictures than the features have dimensions" if fid["biased"] else ""
        lines[f"FID ({fid['num_images']} pictures{biased})"] = [f"{s['fid']['distance']:.2f}" for s in systems]
    return lines


def _estimate(estimate: dict[str, float | None]) -> str:
    error = "" if estimate["sem"] is None else f" ± {estimate['sem']:.3f}"
    return f"{estimate['mean']:.3f}{error}"


class _Levels(RootModel[dict[str, float]]):
    """What the reference comes to, by the probe's columns."""


def _curves(report: Report) -> str:
    """Plot the rewards, diversity and saturation that the probes saw, as inline SVG; dashed, the reference's level."""
    with report.probes_path.open() as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return ""  # nothing was trained
    path = report.probe_reference_path
    content = read_json(content_of(path, DistarError, "run `dvc repro -f train`"), str(path), DistarError)
    reference = validated(_Levels, content, str(path), DistarError).root
    iterations = [int(row["iteration"]) for row in rows]
    names = [name for name in rows[0] if name.startswith("reward_") and not name.endswith("_std")]
    names += ["diversity", "saturation"]
    with matplotlib.rc_context({"svg.hashsalt": "distar", "font.size": 9, "axes.spines.top": False}):
        figure = Figure(figsize=(3.1 * len(names), 2.5), layout="constrained")
        for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
            axes.plot(iterations, [float(row[name]) for row in rows], color=_SYSTEM_COLOURS["generator"])
            axes.axhline(reference[name], color=_SYSTEM_COLOURS["reference"], linestyle="--", linewidth=1)
            axes.set_title(name.replace("_", " "))
            axes.set_xlabel("iteration")
            axes.spines["right"].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().partition("<svg")[1] + buffer.getvalue().partition("<svg")[2]


def _to_pil(image: UInt8[Tensor, "3 h w"]) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
