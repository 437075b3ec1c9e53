"""Which divergences there are, and what each is told; nothing here computes.

`build` imports the divergence's own file: half of the stages read parameters and no tensor, and would wait for torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from distar.divergences.comparison import ScoreDivergence

Space = Literal["score", "x0"]
"""Where scores are compared. In "score" space y = s_ψ − s̃_ref; in "x0" space y = f_ψ − f̃_ref, which leaves
out the factor alpha/sigma² between the two."""


class WeightingParams(BaseModel):
    """The weight w(t) = alpha_t^alpha_power · sigma_t^sigma_power of the divergence at time t."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    alpha_power: float
    sigma_power: float


class ScoreDivergenceParams(BaseModel, ABC):
    """What all divergences are told: where scores are compared, and how times are weighed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    space: Space
    weighting: WeightingParams

    @abstractmethod
    def build(self) -> ScoreDivergence:
        """Make the divergence."""


class KL(ScoreDivergenceParams):
    """The integral KL divergence of Diff-Instruct and DI++.

    `normalize` weighs each sample by the inverse of its mean distance from the reference's estimate, as DMD does.
    """

    kind: Literal["kl"]
    normalize: bool

    def build(self) -> ScoreDivergence:
        """Make the divergence."""
        from distar.divergences.kl import KLDivergence

        return KLDivergence(self)


class L2(ScoreDivergenceParams):
    """The squared-L2 score divergence: SiD's.

    With `path_term`, w(t) d(y) is added, which completes the gradient by the dependence of the sampling path on θ.
    `normalize` weighs each sample by the inverse of its mean distance from the reference's estimate.
    """

    kind: Literal["l2"]
    path_term: bool
    normalize: bool

    def build(self) -> ScoreDivergence:
        """Make the divergence."""
        from distar.divergences.l2 import L2Divergence

        return L2Divergence(self)


class PseudoHuber(ScoreDivergenceParams):
    """The pseudo-Huber score divergence: the one of DI* and SIM.

    `c` is given in `space`; the paper does not publish its value. With `path_term`, w(t) d(y) is added,
    which completes the gradient by the dependence of the sampling path on θ.
    """

    kind: Literal["pseudo_huber"]
    c: float = Field(gt=0)
    path_term: bool

    def build(self) -> ScoreDivergence:
        """Make the divergence."""
        from distar.divergences.pseudo_huber import PseudoHuberDivergence

        return PseudoHuberDivergence(self)


DivergenceParams = Annotated[KL | L2 | PseudoHuber, Field(discriminator="kind")]
