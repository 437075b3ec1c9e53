"""The two updates of Diff-Instruct*: `assistant_step` and `generator_step`. No input or output here.

Sums and means: a generator loss sums over a sample's dimensions and averages over the batch, so that
`reward_scale` weighs one picture's reward against one picture's whole divergence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from distar.diffusion.assistant import Assistant
from distar.diffusion.generator import OneStepGenerator
from distar.diffusion.prompt import PromptEmbedding
from distar.diffusion.reference import Reference
from distar.divergences.comparison import Comparison, ScoreDivergence
from distar.training.distribution import without_exchange
from distar.training.params import Guidance

RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]
"""Decode latents and score them: (x0, prompts) -> score of each sample, differentiable in x0."""

Differentiated = tuple[Float[Tensor, "b c h w"], dict[str, Float[Tensor, ""]]]
"""The gradient in x0 of samples' losses, and what is worth logging of them, summed over the samples."""


@dataclass(frozen=True)
class Batch:
    """What one update draws: prompts, the generator's noise z, and the diffusion noise eps at time t."""

    prompts: tuple[str, ...]
    embedding: PromptEmbedding
    noise: Float[Tensor, "b c h w"]
    eps: Float[Tensor, "b c h w"]
    timestep: Int[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.prompts)

    def to(self, device: torch.device) -> Batch:
        """Move to a device, embeddings widened to fp32; a GPU copies while the host goes on."""
        embedding = self.embedding.to(dtype=torch.float32)
        if device.type != "cuda":
            return Batch(self.prompts, embedding.to(device), *(x.to(device) for x in self._drawn))
        pinned = PromptEmbedding({name: tensor.pin_memory() for name, tensor in embedding.tensors.items()})
        drawn = (x.pin_memory().to(device, non_blocking=True) for x in self._drawn)
        return Batch(self.prompts, pinned.to(device, non_blocking=True), *drawn)

    @property
    def _drawn(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.noise, self.eps, self.timestep

    def micro_batches(self, size: int) -> list[Batch]:
        """Split into parts of at most `size` samples."""
        bounds = [slice(i, i + size) for i in range(0, len(self), size)]
        return [Batch(self.prompts[s], self.embedding[s], self.noise[s], self.eps[s], self.timestep[s]) for s in bounds]


@dataclass(frozen=True)
class Objective:
    """L(θ) = E{ −α_rew r(x0, c) + divergence + guidance reward } (arXiv 2410.20898, eq. 3.5 and 3.9)."""

    divergence: ScoreDivergence
    reward: RewardFunction | None
    reward_scale: float
    guidance_scale: float
    guidance: Guidance


ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Trainable(Generic[ModuleT]):
    """A network in training: the module itself, the module as wrapped for distribution, its optimizer and clip.

    Several processes each add the mean of their samples' gradients; `forward` exchanges them for the mean of all.
    """

    module: ModuleT
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    max_grad_norm: float

    def update(self) -> Float[Tensor, ""]:
        """Clip the gradients, take one optimizer step, forget the gradients; return their norm before the clip."""
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm


def assistant_step(
    assistant: Trainable[Assistant], generator: Trainable[OneStepGenerator], batch: Batch, micro_batch_size: int
) -> tuple[Float[Tensor, " b"], Float[Tensor, ""]]:
    """Fit the assistant to the generator's samples: ‖eps_ψ(alpha x0 + sigma eps, t, c) − eps‖², x0 held constant.

    Returns the samples' losses and the gradient's norm before the clip.
    """
    per_sample = []
    for part, exchange in _micro_batches(batch, micro_batch_size, assistant):
        with torch.no_grad():
            x0 = generator.module(part.noise, part.embedding)
        with exchange:
            losses = assistant.module.denoising_loss(x0, part.eps, part.timestep, part.embedding, assistant.forward)
            (losses.sum() / len(batch)).backward()
        per_sample.append(losses.detach())
    return torch.cat(per_sample), assistant.update()


def generator_step(
    generator: Trainable[OneStepGenerator],
    assistant: Trainable[Assistant],
    reference: Reference,
    batch: Batch,
    objective: Objective,
    micro_batch_size: int,
    frozen_micro_batch_size: int,
    reward_micro_batch_size: int,
) -> dict[str, Float[Tensor, ""]]:
    """Move the generator down the gradient of the Diff-Instruct* loss, the assistant held constant.

    The generator takes `micro_batch_size` samples at once and its graph is held; the others take as many of them as
    `generator_loss` says, and hold no graph longer. No forward pass is made twice.
    """
    totals: dict[str, Tensor] = {}
    for part, exchange in _micro_batches(batch, micro_batch_size, generator):
        with exchange:
            x0 = generator.forward(part.noise, part.embedding)
            with frozen(assistant.module):
                gradient, values = generator_loss(
                    x0, assistant.module, reference, part, objective, frozen_micro_batch_size, reward_micro_batch_size
                )
            x0.backward(gradient / len(batch))
        totals = _added(totals, values)
    means = {name: total / len(batch) for name, total in totals.items()}
    return means | {"generator_grad_norm": generator.update()}


def generator_loss(
    x0: Float[Tensor, "b c h w"],
    assistant: Assistant,
    reference: Reference,
    batch: Batch,
    objective: Objective,
    frozen_micro_batch_size: int,
    reward_micro_batch_size: int,
) -> Differentiated:
    """Compute ∂L/∂x0 of the samples' losses, and what is worth logging of them.

    Assistant and reference take `frozen_micro_batch_size` samples at once, decoder and reward
    `reward_micro_batch_size`: the first are of latents, whose small pieces are slow; the others of pictures,
    whose activations take the most memory.
    """
    gradient, values = _in_parts(
        lambda x0, part: divergence_gradient(x0, assistant, reference, part, objective),
        x0,
        batch,
        frozen_micro_batch_size,
    )
    reward = objective.reward
    if reward is None:
        return gradient, values
    by_reward, rewards = _in_parts(
        lambda x0, part: reward_gradient(x0, part.prompts, reward, objective.reward_scale),
        x0,
        batch,
        reward_micro_batch_size,
    )
    return gradient + by_reward, values | rewards


def divergence_gradient(
    x0: Float[Tensor, "b c h w"], assistant: Assistant, reference: Reference, batch: Batch, objective: Objective
) -> Differentiated:
    """Compute ∂/∂x0 of the divergence, and of the guidance reward where guidance is outside.

    They are a function of (x0, f_ψ, f_ref), and both estimates depend on x0 through x_t. Its partial
    derivatives are taken with all three as leaves; those by f_ψ and f_ref then go back through one
    network after the other into x_t, and from there into x0 by the factor alpha.
    """
    x0 = x0.detach()
    alpha, sigma = assistant.schedule.alpha_sigma(batch.timestep)
    x_t = alpha * x0 + sigma * batch.eps
    through_scores = objective.divergence.differentiates_scores
    inside = objective.guidance == "in"

    x_t_leaf = x_t.clone().requires_grad_(through_scores)
    with torch.set_grad_enabled(through_scores):
        assistant_x0 = assistant.predict_x0(x_t_leaf, batch.timestep, batch.embedding)
        if inside or objective.guidance_scale == 1.0:
            scale = objective.guidance_scale if inside else 1.0
            reference_x0 = reference.predict_x0(x_t_leaf, batch.timestep, batch.embedding, scale)
            guidance_direction = torch.zeros_like(x0)
        else:
            reference_x0, unconditional_x0 = reference.predict_x0_pair(x_t_leaf, batch.timestep, batch.embedding)
            guidance_direction = (objective.guidance_scale - 1) * (reference_x0 - unconditional_x0).detach()

    leaves = [tensor.detach().requires_grad_() for tensor in (x0, assistant_x0, reference_x0)]
    comparison = Comparison(leaves[0], batch.eps, alpha, sigma, assistant_x0=leaves[1], reference_x0=leaves[2])
    divergence = objective.divergence.loss(comparison)
    # DI*-OUT's implicit reward: α_cfg w sg[s_ref(x_t|c) − s_ref(x_t|∅)]ᵀ x_t with α_cfg = κ − 1
    guidance = -objective.divergence.guidance_reward(comparison, guidance_direction)
    x0_gradient, by_assistant, by_reference = torch.autograd.grad(
        (divergence + guidance).sum(), leaves, allow_unused=True, materialize_grads=True
    )
    if through_scores:
        (through_reference,) = torch.autograd.grad(reference_x0, x_t_leaf, by_reference)
        (through_assistant,) = torch.autograd.grad(assistant_x0, x_t_leaf, by_assistant)
        x0_gradient = x0_gradient + alpha * (through_reference + through_assistant)

    values = {"divergence_loss": divergence.sum(), "guidance_loss": guidance.sum()}
    values["divergence_gradient"] = _norms(x0_gradient).sum()
    values["score_gap"] = _norms(comparison.score_difference("x0")).sum()
    values["guidance_to_gap"] = (
        _norms(guidance_direction) / _norms(comparison.score_difference("x0")).clamp_min(1e-12)
    ).sum()
    return x0_gradient, {name: value.detach() for name, value in values.items()}


def reward_gradient(
    x0: Float[Tensor, "b c h w"], prompts: Sequence[str], reward: RewardFunction, reward_scale: float
) -> Differentiated:
    """Compute ∂/∂x0 of −α_rew r(x0, c)."""
    leaf = x0.detach().clone().requires_grad_()
    rewards = reward(leaf, prompts)
    (gradient,) = torch.autograd.grad(-reward_scale * rewards.sum(), leaf)
    return gradient, {"reward": rewards.sum().detach(), "reward_gradient": _norms(gradient).sum()}


def _in_parts(
    differentiate: Callable[[Tensor, Batch], Differentiated], x0: Float[Tensor, "b c h w"], batch: Batch, size: int
) -> Differentiated:
    gradients, totals = [], {}
    for part, x0_part in zip(batch.micro_batches(size), x0.split(size), strict=True):
        gradient, values = differentiate(x0_part, part)
        gradients.append(gradient)
        totals = _added(totals, values)
    return torch.cat(gradients), totals


def _added(totals: dict[str, Tensor], values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: totals[name] + value if name in totals else value for name, value in values.items()}


def _micro_batches(
    batch: Batch, size: int, trained: Trainable
) -> Iterator[tuple[Batch, AbstractContextManager[object]]]:
    """Cut a batch; with each part goes the context of its forward and backward: the last exchanges gradients."""
    *earlier, last = batch.micro_batches(size)
    for part in earlier:
        yield part, without_exchange(trained.forward)
    yield last, nullcontext()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Keep autograd from computing gradients of a module's parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _norms(x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    return x.detach().flatten(1).norm(dim=1)
