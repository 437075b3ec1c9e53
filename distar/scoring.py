"""`distar score`: draw with a release, in one step, and score what it draws with the project's rewards.

Everything that draws is the release's own, as those who download it have it; what scores is the project's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from rich.console import RenderableType
from rich.table import Table

from distar import paths
from distar.diffusion.families.family import Family
from distar.diffusion.families.params import ReferenceParams
from distar.diffusion.prompt import PromptEmbedding
from distar.errors import PromptError, ReleaseError
from distar.evaluation.gate import Evaluated
from distar.evaluation.params import Protocol
from distar.evaluation.protocols import estimate
from distar.evaluation.sampling import Draw, Requests, draw_batch, one_step
from distar.evaluation.summary import read_metrics
from distar.hashing import fingerprint
from distar.loading import load_scorers
from distar.params import Params, load_params
from distar.progress import track
from distar.prompts import load_labels, load_prompts
from distar.prompts.cleaning import clean
from distar.runtime import prepare_torch
from distar.training.params import GeneratorParams

Figures = dict[str, float | None]


@dataclass(frozen=True)
class PromptScores:
    """How the picture of one prompt scores; `released`: what the release states of it, if all prompts are the same."""

    prompt: str
    label: str | None
    scores: dict[str, float]
    released: dict[str, float]


@dataclass(frozen=True)
class Scored:
    """How a release's pictures score: `mean` and `sem` of each reward, and on the profile's prompts of the judge.

    Attributes:
        prompts: the file that they are of, or None: the profile's evaluation prompts.
        protocol: how the means are taken: `hpsv2`, of the four styles' means, or else of the prompts.
        compare_by: the reward that systems are compared by.
        scorer: a hash of that reward's settings and files, and of how it is computed and averaged.
        released: the same figures as the release states them of itself, where they were made in the same way.
        by_prompt: what these are the means of, in the order of the prompts.
    """

    prompts: str | None
    num_prompts: int
    protocol: Protocol
    compare_by: str
    scorer: str
    scores: dict[str, Figures]
    released: dict[str, Figures]
    by_prompt: list[PromptScores]


@dataclass(frozen=True)
class _Release:
    """What a release says of itself."""

    folder: Path
    params: dict[str, Any]
    metrics: dict[str, Any]
    evaluated: Evaluated

    @classmethod
    def read(cls, folder: Path) -> _Release:
        try:
            evaluated = Evaluated.read(lambda name: (folder / name).read_bytes())
            return cls(folder, evaluated.parameters, read_metrics(folder / paths.METRICS.name), evaluated)
        except FileNotFoundError as error:
            raise ReleaseError(
                f"{error.filename} does not exist; name the folder of a release: `distar release download` makes one"
            ) from None

    def load(self, prompts: tuple[str, ...], device: torch.device) -> tuple[Family, Draw, PromptEmbedding]:
        """Load what draws, and encode the prompts; the text encoders are dropped before the networks are loaded."""
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(ReferenceParams)
            reference = adapter.validate_python({**self.params["reference"], "variant": None})  # files have plain names
            generator = GeneratorParams.model_validate(self.params["train"]["generator"])
            batch_size = self.params["embeddings"]["batch_size"]
        except (KeyError, ValidationError) as error:
            raise ReleaseError(
                f"{self.folder}/params.yaml is not understood by this version ({error}); check out the commit that "
                "`distar audit show` names, and score it there"
            ) from error
        encoder = reference.build_text_encoder(self.folder).to(device)
        batches = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
        encoded = PromptEmbedding.cat([encoder.encode(batch).to("cpu") for batch in batches])
        family = reference.build(self.folder, encoder.encode_null().to("cpu")).to(device)
        del encoder
        weights = self.folder / reference.network_name
        drawing = family.generator(generator.timestep, generator.noise_scale, weights).to(device)
        return family, one_step(drawing), encoded


def score(folder: Path, prompts_path: Path | None) -> Scored:
    """Draw one picture of each prompt with the release in a folder, and score them.

    On the profile's evaluation prompts the noise is the release's own evaluation's, and so are the pictures.

    Raises:
        ReleaseError: the folder holds no release that this version understands.
        PromptError: the prompt file does not exist, is not text or holds no prompt.
        ModelFileError: the rewards are not there.
    """
    release, params = _Release.read(folder), load_params()
    prompts, labels = _prompts(prompts_path)
    settings = params.profile.evaluate
    accelerator = prepare_torch(params.profile.runtime, settings.precision)
    scorers = load_scorers(params, accelerator.device)
    family, draw, encoded = release.load(prompts, accelerator.device)
    requests = Requests.make(prompts, encoded, 1, family.latent_shape, release.params["seed"], "evaluation")
    judges = [settings.judge] if settings.judge and prompts_path is None else []  # it may understand no others
    names = [*settings.rewards, *judges]
    batches: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    with track("score", len(requests)) as progress, torch.no_grad(), accelerator.autocast():
        for start in range(0, len(requests), settings.batch_size):
            batch = requests[start : start + settings.batch_size]
            images = draw_batch(draw, family, batch).to(family.device).float() / 255
            for name in names:
                batches[name].append(scorers[name](images, batch.prompts).cpu())
            progress.advance(len(batch))
    protocol = settings.protocol if prompts_path is None else "prompts"
    how = [
        params.profile.rewards[settings.compare_by].model_dump(mode="json"),
        settings.backend,
        settings.precision,
        protocol,
    ]
    scores, released = {name: torch.cat(batches[name]) for name in names}, _released(release, params)
    return Scored(
        prompts=None if prompts_path is None else str(prompts_path),
        num_prompts=len(prompts),
        protocol=protocol,
        compare_by=settings.compare_by,
        scorer=fingerprint(how, [paths.REWARDS / settings.compare_by])[:16],
        scores={name: dict(vars(estimate(protocol, values, labels))) for name, values in scores.items()},
        released=released,
        by_prompt=_by_prompt(prompts, labels, scores, release.evaluated, list(released)),
    )


def scored_table(scored: Scored) -> RenderableType:
    """Show the figures."""
    rows = Table("scored by", "mean", "standard error", "as released")
    for name, figures in scored.scores.items():
        error, released = figures["sem"], scored.released.get(name)
        cells = ["-" if value is None else f"{value:.4f}" for value in (error, released and released["mean"])]
        rows.add_row(name, f"{figures['mean']:.4f}", *cells)
    return rows


def _prompts(path: Path | None) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    if path is None:
        if not paths.EVALUATION_PROMPTS.is_file():
            raise PromptError(f"{paths.EVALUATION_PROMPTS} does not exist; run `dvc repro prompts`, or name a file")
        return load_prompts(paths.EVALUATION_PROMPTS), load_labels(paths.EVALUATION_PROMPTS)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} cannot be read ({error}); expected UTF-8 text, a prompt a line") from error
    prompts = tuple(prompt for prompt in map(clean, lines) if prompt)
    if not prompts:
        raise PromptError(f"{path} holds no prompt; expected one a line")
    return prompts, (None,) * len(prompts)


def _released(release: _Release, params: Params) -> dict[str, Figures]:
    """Return the rewards that the release states and that the project still computes, and averages, in the same way."""
    settings, then = params.profile.evaluate, release.evaluated.settings
    if any(then[name] != getattr(settings, name) for name in ("backend", "precision", "protocol")):
        return {}
    rewards = {name: reward.model_dump(mode="json") for name, reward in params.profile.rewards.items()}
    stated = release.metrics["generator"]["rewards"]
    return {
        name: figures for name, figures in stated.items() if release.params["rewards"].get(name) == rewards.get(name)
    }


def _by_prompt(
    prompts: Sequence[str],
    labels: Sequence[str | None],
    scores: Mapping[str, torch.Tensor],
    evaluated: Evaluated,
    released: Sequence[str],
) -> list[PromptScores]:
    """Set each prompt's scores beside those that the release states for it, where all its prompts were these."""
    now = {name: values.tolist() for name, values in scores.items()}
    same = (list(prompts), [label or "" for label in labels]) == (evaluated.prompts, evaluated.labels)
    stated = {name: evaluated.columns[f"generator_{name}"] for name in released} if same else {}
    return [
        PromptScores(
            prompt,
            label,
            {name: values[row] for name, values in now.items()},
            {name: value for name, values in stated.items() if (value := values[row]) is not None},
        )
        for row, (prompt, label) in enumerate(zip(prompts, labels, strict=True))
    ]
