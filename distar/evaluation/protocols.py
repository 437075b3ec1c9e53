"""Evaluation protocols: which prompt sets fit one, and how a set's scores become one figure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from distar.errors import PromptError
from distar.evaluation.metrics import Estimate
from distar.evaluation.params import Protocol
from distar.prompts import HPSV2_STYLES


def check_prompt_set(protocol: Protocol, labels: Sequence[str | None]) -> None:
    """Refuse prompts on which the protocol's figures would mean something else.

    Raises:
        PromptError: their labels are not the protocol's.
    """
    got = {label or "none" for label in labels}
    if protocol == "hpsv2" and got != set(HPSV2_STYLES):
        raise PromptError(
            f"evaluate.protocol is hpsv2: the evaluation prompts must have the labels {', '.join(HPSV2_STYLES)}, "
            f"got {', '.join(sorted(got))}; take the HPSv2 benchmark as prompts.evaluation, or protocol prompts"
        )
    if protocol == "parti" and None in labels:
        raise PromptError(
            f"evaluate.protocol is parti: every evaluation prompt must have its category as label, "
            f"{labels.count(None)} of {len(labels)} have none; take PartiPrompts as prompts.evaluation, "
            "or protocol prompts"
        )


def estimate(protocol: Protocol, scores: Float[Tensor, " n"], labels: Sequence[str | None]) -> Estimate:
    """Estimate the mean score of a prompt set: for hpsv2 of the four styles' means, else of the prompts."""
    if protocol == "hpsv2":
        return Estimate.of_groups(list(estimate_by_label(scores, labels).values()))
    return Estimate.of(scores)


def estimate_by_label(scores: Float[Tensor, " n"], labels: Sequence[str | None]) -> dict[str, Estimate]:
    """Estimate the mean score of each label's prompts, in the labels' alphabetical order."""
    names = sorted({label for label in labels if label is not None})
    return {name: Estimate.of(scores[torch.tensor([label == name for label in labels])]) for name in names}
