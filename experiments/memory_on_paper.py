"""Count what an iteration of a published model takes in GPU memory, without a GPU and without computing.

Every network has its real size, and every operation is carried out on tensors that have shapes and no data; each is
followed from its making to its end. What a GPU takes besides (CUDA's own, fragmentation, workspaces) comes on top.

    python experiments/memory_on_paper.py sdxl --lora 64 --micro-batch-size 1
    python experiments/memory_on_paper.py sd15
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPConfig, CLIPModel

from distar.bench.iteration import unavoidable_parts
from distar.bench.measure import Part, peak_bytes
from distar.bench.subject import Subject
from distar.diffusion.adapters import LoraParams
from distar.diffusion.families import Family
from distar.diffusion.families.pixart import PixArtAlpha
from distar.diffusion.families.published import published_component, published_configuration
from distar.diffusion.families.sd15 import StableDiffusion15
from distar.diffusion.families.sdxl import StableDiffusionXL
from distar.diffusion.networks import checkpoint_activations, narrow_frozen
from distar.diffusion.prompt import PromptEmbedding
from distar.params import load_params
from distar.rewards.preprocess import CLIP_MEAN, CLIP_STD, Normalise, crop_centre, resize_short_side
from distar.rewards.reward import Reward
from distar.training.params import TrainParams
from distar.training.step import Batch, Trainable, assistant_step, generator_step

GB = 1e9
FAMILIES: dict[str, type[Family]] = {"sd15": StableDiffusion15, "sdxl": StableDiffusionXL, "pixart": PixArtAlpha}
STATES = {"adamw": 8, "adamw_fused": 8, "adamw_8bit": 2}
"""Bytes of an optimizer's states for each parameter."""
ADAPTED = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
VISION = {  # of ViT-L/14, as ImageReward's size; of ViT-H/14, as PickScore and HPSv2
    "sd15": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "sdxl": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16},
}


def main() -> None:
    """Count, and print the sum."""
    options = parser().parse_args()
    train = load_params(profile=options.profile).profile.train
    print(json.dumps(count(options, train), indent=2))


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("profile", choices=FAMILIES)
    arguments.add_argument("--lora", type=int, metavar="RANK", help="adapters in place of whole networks")
    arguments.add_argument("--own-initial-weights", action="store_true", help="with --lora: not the reference's")
    arguments.add_argument("--micro-batch-size", type=int, help="the profile's, unless given")
    arguments.add_argument("--optimizer", choices=STATES, help="the profile's, unless given")
    arguments.add_argument("--checkpointing", action="store_true", help="even if the profile does without")
    return arguments


def count(options: argparse.Namespace, train: TrainParams) -> dict[str, Any]:
    """Carry out an iteration and return gigabytes."""
    size = options.micro_batch_size or train.micro_batch_size
    family = build_family(options.profile)
    lora = LoraParams(rank=options.lora, alpha=options.lora, target_modules=ADAPTED) if options.lora else None
    generator = family.generator(train.generator.timestep, train.generator.noise_scale, None, lora)
    assistant, reference = family.assistant(lora), family.reference()
    if lora and options.own_initial_weights:
        for layer in generator.modules():
            layer._parameters = {name: copy.copy(parameter) for name, parameter in layer._parameters.items()}
    reward = ClipOfSize(VISION["sdxl" if options.profile == "sdxl" else "sd15"])
    networks = [family.network, generator.denoiser.network, assistant.network]
    for module in (*networks, reward):
        narrow_frozen(module, torch.bfloat16)
    checkpointing = train.gradient_checkpointing or options.checkpointing
    if checkpointing:
        for network in (*networks, family.autoencoder):
            checkpoint_activations(network)
    modules = [family, reward, generator, assistant]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        give_size(modules)
        for denoiser in (generator.denoiser, assistant, reference):
            denoiser.schedule = family.schedule.to("cpu", torch.float32)
            denoiser.null_prompt = encode(options.profile, 1)
        resident = bytes_of(*modules)
        players = trainable(generator), trainable(assistant)
        batch = draw(options.profile, family, size)
        subject = Subject(family, cast("Any", None), *players, reward, train)
        steps = [
            Part("assistant's update", lambda: assistant_step(players[1], players[0], batch, size)),
            Part(
                "generator's update",
                lambda: generator_step(
                    *players, reference, batch, subject.objective, size, train.frozen_micro_batch_size
                ),
            ),
            *unavoidable_parts(subject, reference, batch),
        ]
        peaks = {}
        for step in steps:
            step.prepare()
            peaks[step.name] = peak_bytes(step.run, modules, [])
    trained = [sum(p.numel() for p in player.parameters() if p.requires_grad) for player in (generator, assistant)]
    states = STATES[options.optimizer or train.generator.optimizer.kind] * sum(trained)
    average = 4 * trained[0]
    return {
        "micro_batch_size": size,
        "frozen_micro_batch_size": train.frozen_micro_batch_size,
        "gradient_checkpointing": checkpointing,
        "trained_parameters": dict(zip(("generator", "assistant"), trained, strict=True)),
        "gigabytes": {
            "weights": resident / GB,
            "optimizer_states": states / GB,
            "average": average / GB,
            "peak": (max(list(peaks.values())[:2]) + states + average) / GB,
        },
        "gigabytes_besides_weights": {name: (peak - resident) / GB for name, peak in peaks.items()},
    }


def build_family(name: str) -> Family:
    """Build a published model's networks without data."""
    configuration = published_configuration(name)
    scheduler = {k: v for k, v in configuration["scheduler"].items() if k != "_class_name"}
    return FAMILIES[name](
        published_component(name, "network", "meta"),
        published_component(name, "vae", "meta"),
        DDIMScheduler(**scheduler),
        encode(name, 1),
    )


def encode(name: str, size: int) -> PromptEmbedding:
    """Make embeddings of a published model's shapes."""
    match name:
        case "sdxl":
            return PromptEmbedding({"hidden_states": torch.zeros(size, 77, 2048), "pooled": torch.zeros(size, 1280)})
        case "pixart":
            mask = torch.ones(size, 120, dtype=torch.int64)
            return PromptEmbedding({"hidden_states": torch.zeros(size, 120, 4096), "attention_mask": mask})
        case _:
            return PromptEmbedding({"hidden_states": torch.zeros(size, 77, 768)})


def draw(name: str, family: Family, size: int) -> Batch:
    """Make a batch."""
    shape = (size, *family.latent_shape)
    return Batch(("",) * size, encode(name, size), torch.zeros(shape), torch.zeros(shape), torch.full((size,), 500))


class ClipOfSize(Reward):
    """A CLIP reward of a published size."""

    def __init__(self, vision: dict[str, int]) -> None:
        super().__init__()
        with torch.device("meta"):
            self.model: Any = CLIPModel(CLIPConfig(vision_config={**vision, "patch_size": 14}, projection_dim=1024))
        self.model.requires_grad_(False).eval()
        self._normalise = Normalise(CLIP_MEAN, CLIP_STD)
        self._text = torch.zeros(1, 1024)

    def forward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures, all against a prompt that is encoded already."""
        pixels = self._normalise(crop_centre(resize_short_side(images.float(), 224), 224))
        features = self.model.get_image_features(pixel_values=pixels).pooler_output.float()
        return (nn.functional.normalize(features, dim=1) * self._text).sum(1)


def trainable(module: Any) -> Trainable:
    """Give a network an optimizer without states: those are counted by hand."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return Trainable(module, module, torch.optim.SGD(trained, lr=0.0), 1.0)


def give_size(modules: Sequence[nn.Module]) -> None:
    """Put tensors with a size, and no data, in the place of those that have neither; what is shared stays so."""
    sized: dict[int, Tensor] = {}
    for module in (part for whole in modules for part in whole.modules()):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.device.type == "meta":
                    made = sized.setdefault(id(tensor), torch.empty(tensor.shape, dtype=tensor.dtype))
                    if isinstance(tensor, nn.Parameter) and not isinstance(made, nn.Parameter):
                        made = sized[id(tensor)] = nn.Parameter(made, tensor.requires_grad)
                    tensors[name] = made  # type: ignore[assignment]


def bytes_of(*modules: nn.Module) -> int:
    """Sum the bytes of modules' weights, those that they share once."""
    storages = {id(t.untyped_storage()): t.untyped_storage().nbytes() for m in modules for t in m.parameters()}
    return sum(storages.values())


if __name__ == "__main__":
    main()
