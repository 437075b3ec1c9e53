"""What a network's output means: the only place that knows eps-, v- and x0-prediction apart.

With x_t = alpha x0 + sigma eps and v = alpha eps − sigma x0 (Salimans & Ho 2022, arXiv 2202.00512, app. D).
The names of the kinds are those of a diffusers scheduler's `prediction_type`.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]

Latents = Float[Tensor, "b c h w"]
PerSample = Float[Tensor, "b 1 1 1"]


def to_x0(output: Latents, x_t: Latents, alpha: PerSample, sigma: PerSample, kind: Prediction) -> Latents:
    """Turn a network's output into its estimate of the data x0."""
    match kind:
        case "epsilon":
            return (x_t - sigma * output) / alpha
        case "v_prediction":
            return alpha * x_t - sigma * output
        case "sample":
            return output


def from_x0(x0: Latents, x_t: Latents, alpha: PerSample, sigma: PerSample, kind: Prediction) -> Latents:
    """Turn an estimate of x0 into the network output of the given kind; the inverse of `to_x0`."""
    match kind:
        case "epsilon":
            return x0_to_eps(x0, x_t, alpha, sigma)
        case "v_prediction":
            return (alpha * x_t - x0) / sigma
        case "sample":
            return x0


def x0_to_eps(x0: Latents, x_t: Latents, alpha: PerSample, sigma: PerSample) -> Latents:
    """Return the noise that leads from x0 to x_t: (x_t − alpha x0) / sigma."""
    return (x_t - alpha * x0) / sigma


def x0_to_score(x0: Latents, x_t: Latents, alpha: PerSample, sigma: PerSample) -> Latents:
    """Return the score ∇ log p_t(x_t) that the posterior mean x0 implies: (alpha x0 − x_t) / sigma² (Tweedie)."""
    return (alpha * x0 - x_t) / sigma**2
