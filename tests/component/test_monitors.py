"""What stops a run because its networks do not move, on real networks: whole ones, and adapters on convolutions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from distar.__main__ import main
from distar.diffusion.families.family import Family
from distar.diffusion.families.params import SD15
from distar.diffusion.params import LoraParams
from distar.errors import TrainingError
from distar.params import load_params
from distar.stages import train
from distar.training.monitors import Movement, check_moved
from distar.training.optimizer import build_optimizer
from distar.training.params import MonitorParams, OptimizerParams
from tests.miniature import edit

PROFILE = Path("profiles/mini.yaml")
ON_CONVOLUTIONS = LoraParams(rank=2, alpha=2, target_modules=["conv1", "conv2", "conv_shortcut"])
LIMITS = MonitorParams(
    log_every=1,
    probe_every=1,
    num_probe_prompts=2,
    num_probe_reference_steps=1,
    max_latent_rms_ratio=2.0,
    max_reward_excess=8.0,
    min_moved=0.2,
)


@pytest.fixture(scope="module")
def family(miniature_models: Path) -> Family:
    reference = SD15(family="sd15", source="file://reference", variant=None)
    folder = miniature_models / "reference"
    return reference.build(folder, reference.build_text_encoder(folder).encode_null())


def optimizer(learning_rate: float, weight_decay: float) -> OptimizerParams:
    return OptimizerParams(
        kind="adamw",
        learning_rate=learning_rate,
        betas=[0.0, 0.99],
        eps=1e-8,
        weight_decay=weight_decay,
        max_grad_norm=1.0,
    )


class Updates:
    """Updates of a trained network, and what the monitor says after each."""

    def __init__(
        self, family: Family, lora: LoraParams | None, learning_rate: float = 1e-4, weight_decay: float = 0.0
    ) -> None:
        self.family = family
        self.network = family.assistant(lora, seed=0)
        self.optimizer = build_optimizer(self.network.parameters(), optimizer(learning_rate, weight_decay))
        self.movement = Movement("assistant", self.network, self.optimizer, Accelerator(cpu=True))

    def update(self, loss_of=lambda losses: losses.sum()) -> dict[str, float]:
        x0, eps = torch.randn(2, 2, *self.family.latent_shape, generator=torch.Generator().manual_seed(0))
        prompt = self.network.null_prompt.expand(2)
        loss_of(self.network.denoising_loss(x0, eps, torch.tensor([100, 700]), prompt)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.movement.figures()


def test_adapters_on_convolutions_pass_after_one_update(family) -> None:
    updates = Updates(family, ON_CONVOLUTIONS)
    trained = {name: p for name, p in updates.network.named_parameters() if p.requires_grad}
    share = sum(p.numel() for name, p in trained.items() if "lora_B" in name) / sum(p.numel() for p in trained.values())
    assert share < LIMITS.min_moved  # what the first update alone can move
    for iteration in (1, 2, 3):
        figures = updates.update()
        check_moved(figures, LIMITS, iteration)
        assert figures["assistant_moved"] > 0.9


@pytest.mark.parametrize("lora", [None, ON_CONVOLUTIONS])
def test_network_without_gradient_is_stopped_at_once(family, lora: LoraParams | None) -> None:
    """Weight decay moves every weight; it does not count."""
    with pytest.raises(TrainingError, match=r"updates do nothing at iteration 1: of the assistant's parameters 0.0%"):
        check_moved(Updates(family, lora, weight_decay=0.01).update(lambda losses: 0.0 * losses.sum()), LIMITS, 1)


@pytest.mark.parametrize("lora", [None, ON_CONVOLUTIONS])
def test_updates_lost_in_rounding_are_stopped_at_once(family, lora: LoraParams | None) -> None:
    updates = Updates(family, lora, learning_rate=1e-30)
    if lora is not None:  # zero alone takes in any update, however small
        with torch.no_grad():
            for name, parameter in updates.network.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.1)
        updates.movement.figures()
    with pytest.raises(TrainingError, match=r"updates do nothing at iteration 1"):
        check_moved(updates.update(), LIMITS, 1)


def test_network_that_gradients_barely_reach_is_stopped_later(family) -> None:
    updates = Updates(family, None)
    bias = updates.network.network.get_parameter("conv_out.bias")

    def of_one_bias(losses: Tensor) -> Tensor:
        return bias.square().sum() + 0.0 * losses.sum()

    check_moved(updates.update(of_one_bias), LIMITS, 1)
    with pytest.raises(TrainingError, match=r"updates do nothing at iteration 2: of the assistant's parameters 0.0%"):
        check_moved(updates.update(of_one_bias), LIMITS, 2)


def test_run_with_adapters_on_convolutions_ends_well(project: Path) -> None:
    lora = {"rank": 2, "alpha": 2, "target_modules": ["conv1", "conv2", "conv_shortcut"]}
    edit(PROFILE, "train", "generator", "lora", value=lora)
    edit(PROFILE, "train", "assistant", "lora", value=lora)
    for stage in ("prompts", "reference", "rewards", "embeddings"):
        assert main([stage]) == 0
    assert load_params().profile.train.monitors.log_every == 1
    train.run()
