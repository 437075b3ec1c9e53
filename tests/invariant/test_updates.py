"""What must hold of every update, whatever the parameters: who moves, who doesn't, and how batches may be cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.overrides import TorchFunctionMode

from distar.diffusion.families.family import Family
from distar.diffusion.families.params import SD15
from distar.divergences.comparison import ScoreDivergence
from distar.divergences.params import KL, L2, PseudoHuber, WeightingParams
from distar.training.monitors import Interval
from distar.training.step import Batch, Objective, Trainable, assistant_step, generator_step

FLAT = WeightingParams(alpha_power=0.0, sigma_power=0.0)
DIVERGENCES: dict[str, ScoreDivergence] = {
    "kl": KL(kind="kl", space="x0", weighting=FLAT, normalize=True).build(),
    "l2": L2(kind="l2", space="x0", weighting=FLAT, path_term=False, normalize=True).build(),
    "pseudo_huber": PseudoHuber(kind="pseudo_huber", space="x0", c=0.03, weighting=FLAT, path_term=False).build(),
}
B = 4
REFERENCE = SD15(family="sd15", source="file://reference", variant=None)


@pytest.fixture(scope="module")
def family(miniature_models: Path) -> Family:
    folder = miniature_models / "reference"
    return REFERENCE.build(folder, REFERENCE.build_text_encoder(folder).encode_null())


@pytest.fixture
def batch(family: Family, miniature_models: Path) -> Batch:
    rng = torch.Generator().manual_seed(3)
    prompts = ("a red star", "a teal moon", "a red moon", "a teal star")
    shape = (B, *family.latent_shape)
    return Batch(
        prompts,
        REFERENCE.build_text_encoder(miniature_models / "reference").encode(prompts),
        torch.randn(shape, generator=rng),
        torch.randn(shape, generator=rng),
        torch.tensor([50, 300, 600, 950]),
    )


@pytest.fixture
def players(family: Family) -> tuple[Trainable, Trainable]:
    generator, assistant = family.generator(625, "sigma", None), family.assistant()
    with torch.no_grad():
        for parameter in assistant.network.parameters():  # away from the reference, where the divergence is flat
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return trainable(generator), trainable(assistant)


def trainable(module: nn.Module) -> Trainable:
    return Trainable(module, module, torch.optim.SGD(module.parameters(), lr=1e-2), max_grad_norm=1e9)


def objective(name: str, family: Family) -> Objective:
    def brightness(x0: torch.Tensor, prompts: object) -> torch.Tensor:
        return family.decode(x0).flatten(1).mean(1)

    return Objective(DIVERGENCES[name], brightness, 10.0, 2.0, "in")


def snapshot(*modules: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_only_the_network_whose_turn_it_is_moves(name, family, players, batch) -> None:
    generator, assistant = players
    reference = family.reference()
    everything_else = snapshot(family)
    before = snapshot(generator.module), snapshot(assistant.module)

    assistant_step(assistant, generator, batch, B)
    assert same(snapshot(generator.module), before[0])
    assert not same(snapshot(assistant.module), before[1])
    middle = snapshot(assistant.module)

    generator_step(generator, assistant, reference, batch, objective(name, family), B, B, B)
    assert not same(snapshot(generator.module), before[0])
    assert same(snapshot(assistant.module), middle)

    assert same(snapshot(family), everything_else)
    assert all(parameter.grad is None for parameter in [*family.parameters(), *assistant.module.parameters()])
    assert all(parameter.requires_grad for parameter in assistant.module.parameters())


def test_assistants_loss_is_the_papers(family, batch) -> None:
    """‖ε_ψ(x_t, t, c) − ε‖² for a network that predicts ε, computed with the network itself."""
    assistant = family.assistant()
    with torch.no_grad():
        losses = assistant.denoising_loss(batch.noise, batch.eps, batch.timestep, batch.embedding)
        x_t = assistant.schedule.add_noise(batch.noise, batch.eps, batch.timestep)
        hidden_states = batch.embedding.tensors["hidden_states"]
        predicted = assistant.network(x_t, batch.timestep, encoder_hidden_states=hidden_states).sample
    torch.testing.assert_close(losses, (predicted - batch.eps).square().flatten(1).mean(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "frozen_size", "reward_size"), [(1, 1, 1), (3, 2, 1), (B, 3, 2), (B, 1, B)])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_micro_batches_equal_one_batch(name, size, frozen_size, reward_size, family, batch) -> None:
    updated = []
    for sizes in ((B, B, B), (size, frozen_size, reward_size)):
        torch.manual_seed(0)
        generator, assistant = trainable(family.generator(625, "sigma", None)), trainable(family.assistant())
        losses, _ = assistant_step(assistant, generator, batch, sizes[0])
        values = generator_step(generator, assistant, family.reference(), batch, objective(name, family), *sizes)
        updated.append([losses, values["reward"], *snapshot(generator.module, assistant.module)])
    for whole, cut in zip(*updated, strict=True):
        torch.testing.assert_close(whole, cut, rtol=1e-4, atol=1e-5)


READING = {"item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__", "equal"}


class NothingRead(TorchFunctionMode):
    """Refuse what makes the host wait for a device: to read a value of a tensor."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert getattr(func, "__name__", "") not in READING, f"{func.__name__} reads from the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_updates_read_nothing_from_the_device(name, family, players, batch) -> None:
    generator, assistant = players
    interval = Interval(torch.device("cpu"))
    with NothingRead():
        losses, norm = assistant_step(assistant, generator, batch, 2)
        interval.add({"assistant_loss": losses.mean(), "assistant_grad_norm": norm})
        interval.add_assistant_losses(losses, batch.timestep, 1000)
        interval.add(generator_step(generator, assistant, family.reference(), batch, objective(name, family), 2, 2, 1))
    with pytest.raises(AssertionError, match="reads from the device"), NothingRead():
        interval.means(Accelerator(cpu=True))
