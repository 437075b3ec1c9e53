"""How networks are kept and run changes nothing that they compute beyond rounding; every family's real classes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from distar.bench.measure import peak_bytes
from distar.diffusion import networks
from distar.diffusion.adapters import merge_adapters
from distar.diffusion.denoiser import Denoiser
from distar.diffusion.families.family import Family
from distar.diffusion.families.params import ReferenceParams
from distar.diffusion.networks import (
    checkpoint_activations,
    checkpoint_decoder,
    compile_blocks,
    narrow_frozen,
    narrow_norms,
)
from distar.diffusion.params import LoraParams
from distar.diffusion.prompt import PromptEmbedding
from distar.errors import ParameterError
from distar.params import RuntimeParams
from distar.runtime import prepare_torch
from distar.training.distribution import distribute, whole_state
from distar.training.step import Batch, Trainable, assistant_step
from tests.references import REFERENCES

LORA = LoraParams(rank=3, alpha=6, target_modules=["to_q", "to_k", "to_v", "to_out.0", "proj_in"])


@pytest.fixture(scope="module", params=REFERENCES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, PromptEmbedding]:
    return load(request.param, tmp_path_factory.mktemp(request.param) / "reference")


def load(name: str, folder: Path) -> tuple[Family, PromptEmbedding]:
    torch.manual_seed(0)
    REFERENCES[name](folder)
    variant = "fp16" if name == "sdxl" else None
    params = TypeAdapter(ReferenceParams).validate_python(
        {"family": name, "source": "file://reference", "variant": variant}
    )
    encoder = params.build_text_encoder(folder)
    return params.build(folder, encoder.encode_null()), encoder.encode(["a red star", "a teal moon"])


@pytest.fixture
def family(loaded: tuple[Family, PromptEmbedding]) -> Family:
    return copy.deepcopy(loaded[0])


@pytest.fixture
def prompts(loaded: tuple[Family, PromptEmbedding]) -> PromptEmbedding:
    return loaded[1]


@pytest.fixture
def in_bf16() -> Iterator[Accelerator]:
    """One accelerator a process: what other tests use is put away for this one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield prepare_torch(RuntimeParams(num_threads=1, deterministic=True, flush_denormal=False), "bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


def estimate(denoiser: Denoiser, family: Family, prompts: PromptEmbedding) -> tuple[Tensor, Tensor]:
    """Return a network's guided estimate and its gradient in x_t."""
    x_t = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    x0 = denoiser.predict_x0(x_t, torch.tensor([100, 700]), prompts, guidance_scale=3.0)
    (gradient,) = torch.autograd.grad(x0.square().sum(), x_t)
    return x0.detach(), gradient


def test_narrowed_weights_give_what_autocast_gives_to_the_last_bit(family, prompts, in_bf16: Accelerator) -> None:
    reference = family.reference()
    with in_bf16.autocast():
        as_cast = estimate(reference, family, prompts)
        narrow_frozen(reference, torch.bfloat16)
        narrowed = estimate(reference, family, prompts)
    assert {parameter.dtype for parameter in reference.parameters()} == {torch.bfloat16, torch.float32}
    for one, other in zip(as_cast, narrowed, strict=True):
        assert torch.equal(one, other)


class _AsOnCuda(TorchFunctionMode):
    """Autocast widens what norms are given to fp32, as it does on CUDA and not on CPUs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in {nn.functional.group_norm, nn.functional.layer_norm} and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["group", "layer", "layer without weights"])
def test_narrow_norm_takes_and_returns_bf16_and_its_weights_train_in_fp32(kind: str, in_bf16: Accelerator) -> None:
    rng = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(4, 8) if kind == "group" else nn.LayerNorm(5, elementwise_affine=kind == "layer")
    for parameter in norm.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng)
    x = torch.randn(2, 8, 5, generator=rng).requires_grad_()
    exact, in_bfloat16 = norm(x), copy.deepcopy(norm).bfloat16()(x.bfloat16())
    with _AsOnCuda(), in_bf16.autocast():
        assert norm(x.bfloat16()).dtype == torch.float32
        narrow_norms(norm)
        returned = copy.deepcopy(norm)(x.bfloat16())
        norm(x.bfloat16()).float().square().sum().backward()
    assert torch.equal(norm(x), exact)
    assert returned.dtype == torch.bfloat16
    assert torch.equal(returned, in_bfloat16)
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in norm.parameters())


def test_narrow_norms_change_an_estimate_by_their_rounding_alone(family, prompts, in_bf16: Accelerator) -> None:
    reference = family.reference()
    exact = estimate(reference, family, prompts)
    state = {name: value.clone() for name, value in reference.state_dict().items()}
    narrow_norms(reference)
    for one, other in zip(exact, estimate(reference, family, prompts), strict=True):
        assert torch.equal(one, other)  # without autocast nothing changes
    assert all(torch.equal(value, state[name]) for name, value in reference.state_dict().items())
    with in_bf16.autocast():
        narrow = estimate(reference, family, prompts)
    for one, other in zip(narrow, exact, strict=True):
        assert 0 < (one - other).norm() < 0.05 * other.norm()


def test_pictures_are_decoded_to_fp32(family, in_bf16: Accelerator) -> None:
    latents = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), in_bf16.autocast():
        images = family.decode(latents)
    assert images.dtype == torch.float32
    assert not torch.equal(images, images.bfloat16().float())


def test_weights_in_training_are_not_narrowed(family) -> None:
    assistant = family.assistant()
    narrow_frozen(assistant, torch.bfloat16)
    assert {parameter.dtype for parameter in assistant.parameters()} == {torch.float32}


def test_update_in_bf16_is_seen_by_the_next(family, prompts, in_bf16: Accelerator) -> None:
    """Within one iteration: autocast must not go on with the weights of before."""
    rng = torch.Generator().manual_seed(0)
    shape = (2, *family.latent_shape)
    draw = (torch.randn(shape, generator=rng), torch.randn(shape, generator=rng), torch.tensor([100, 700]))
    batch = Batch(("a", "b"), prompts, *draw)
    generator, assistant = trainable(family.generator(625, "sigma", None)), trainable(family.assistant())
    with in_bf16.autocast():
        before, _ = assistant_step(assistant, generator, batch, 2)
        after, _ = assistant_step(assistant, generator, batch, 2)
    assert not torch.equal(before, after)


def trainable(module: nn.Module) -> Trainable:
    return Trainable(module, module, torch.optim.SGD(module.parameters(), lr=1e-2), max_grad_norm=1e9)


def test_adapters_begin_as_nothing_and_share_the_references_weights(family, prompts) -> None:
    expected = estimate(family.reference(), family, prompts)
    assistant = family.assistant(LORA, seed=1)
    in_memory = {parameter.data_ptr() for parameter in family.network.parameters()}
    frozen = [parameter for parameter in assistant.parameters() if not parameter.requires_grad]
    assert {parameter.data_ptr() for parameter in frozen} == in_memory
    for one, other in zip(estimate(assistant, family, prompts), expected, strict=True):
        torch.testing.assert_close(one, other)
    assert all("lora" in name for name in whole_state(assistant))


def test_merged_adapters_draw_what_adapters_draw_and_the_reference_stays(family, prompts) -> None:
    before = [tensor.clone() for tensor in family.network.state_dict().values()]
    adapted, plain = family.generator(625, "sigma", None, LORA, seed=1), family.generator(625, "sigma", None)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
        noise = torch.randn(2, *family.latent_shape, generator=torch.Generator().manual_seed(3))
        expected, untrained = adapted(noise, prompts), plain(noise, prompts)
        merge_adapters(plain, whole_state(adapted), LORA)
        merged = plain(noise, prompts)
    assert (expected - untrained).norm() > 0.01 * untrained.norm()
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)
    assert plain.state_dict().keys() == family.generator(625, "sigma", None).state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(before, family.network.state_dict().values(), strict=True))


def test_adapters_for_layers_that_are_not_there_are_refused(family) -> None:
    with pytest.raises(ParameterError, match=r"lora\.target_modules: .* ends in to_z"):
        family.assistant(LoraParams(rank=1, alpha=1, target_modules=["to_z"]))


def test_checkpointed_activations_and_channels_last_change_no_more_than_rounding(family, prompts) -> None:
    reference = family.reference()
    expected = estimate(reference, family, prompts)
    checkpoint_activations(family.network)
    assert all(torch.equal(a, b) for a, b in zip(estimate(reference, family, prompts), expected, strict=True))
    reference.to(memory_format=torch.channels_last)
    for one, other in zip(estimate(reference, family, prompts), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def decode_and_back(family: Family, latents: Tensor) -> tuple[Tensor, Tensor]:
    leaf = latents.clone().requires_grad_()
    images = family.decode(leaf)
    (gradient,) = torch.autograd.grad(images.square().sum(), leaf)
    return images.detach(), gradient


def test_checkpointed_decoder_gives_the_same_and_takes_less(family) -> None:
    latents = torch.randn(4, *family.latent_shape, generator=torch.Generator().manual_seed(1))
    expected, taken = (
        decode_and_back(family, latents),
        peak_bytes(lambda: decode_and_back(family, latents), [family], []),
    )
    checkpoint_decoder(family.autoencoder)
    assert all(torch.equal(a, b) for a, b in zip(decode_and_back(family, latents), expected, strict=True))
    assert peak_bytes(lambda: decode_and_back(family, latents), [family], []) < 0.8 * taken


class NothingSent(TorchFunctionMode):
    """Refuse to make tensors of the host's values: it would wait until a GPU has done all that came before."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert getattr(func, "__name__", "") not in {"tensor", "as_tensor", "from_numpy"}, "sent from the host"
        return func(*args, **(kwargs or {}))


def test_calls_send_nothing_from_the_host(family, prompts) -> None:
    x_t, timestep = torch.randn(2, *family.latent_shape), torch.tensor([100, 700])
    with NothingSent():
        family.reference().predict_x0(x_t, timestep, prompts, guidance_scale=3.0)
    with pytest.raises(AssertionError, match="sent from the host"), NothingSent():
        torch.tensor([1])


def test_one_process_asked_for_shards_keeps_its_network(family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assistant = family.assistant()
    assert distribute(assistant, [], Accelerator(cpu=True)) is assistant


def test_networks_stay_as_they_are_where_nothing_can_be_compiled(family, prompts) -> None:
    reference = family.reference()
    expected = estimate(reference, family, prompts)
    networks._why_not_compile.cache_clear()
    torch.compiler.reset()  # forget what other tests compiled
    without = inductor.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False})
    with without, pytest.warns(UserWarning, match=r"nothing can be compiled for cpu here.*C\+\+ compiler"):
        compile_blocks(family.network)
    networks._why_not_compile.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(estimate(reference, family, prompts), expected, strict=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_blocks_change_no_more_than_rounding(tmp_path: Path) -> None:
    family, prompts = load("pixart", tmp_path / "reference")
    reference = family.reference()
    expected = estimate(reference, family, prompts)
    compile_blocks(family.network)
    found = estimate(reference, family, prompts)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_unets_residual_blocks_are_left_to_run_as_they_are(family) -> None:
    compile_blocks(family.network)
    compiled = {type(block).__name__ for block in family.network.modules() if block._compiled_call_impl is not None}
    assert compiled == {"BasicTransformerBlock"}
