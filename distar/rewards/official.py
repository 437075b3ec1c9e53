"""HPSv2 and ImageReward as their authors' own packages compute them: what published figures are compared with.

Neither package runs as it is beside current transformers, and both load from the network. Here each is imported with
what it lacks put beside it, unchanged in what it computes, and reads the files that the project fetched and checked.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from distar.errors import ParameterError
from distar.rewards.hpsv2 import read_architecture, read_weights
from distar.rewards.image_reward import (
    NUM_TOKENS,
    load_tokenizer,
    read_text_config,
    vision_sizes,
)
from distar.rewards.params import (
    BERT_VOCABULARY,
    IMAGE_REWARD_CONFIG,
    IMAGE_REWARD_WEIGHTS,
    HPSv2,
    ImageReward,
    RewardParams,
)
from distar.rewards.reward import Reward
from distar.rewards.weights import load_strictly, read_checkpoint


def build_official(params: RewardParams, folder: Path) -> Reward:
    """Load a reward as its authors' package computes it; the port, where there is no such package.

    Raises:
        ParameterError: the package cannot do what the parameters ask for.
        ModelFileError: a file is missing or is not what it should be.
    """
    match params:
        case HPSv2(antialias=False):
            raise ParameterError(
                "hpsv2: antialias is false, but the official package antialiases with this torchvision; "
                "set antialias to true, or leave the official backend"
            )
        case HPSv2():
            return OfficialHPSv2(folder, params.version)
        case ImageReward():
            return OfficialImageReward(folder)
        case _:
            return params.build(folder)


class OfficialHPSv2(Reward):
    """Score 8-bit pictures with the `hpsv2` package's model, preprocessing and tokenizer; not differentiable."""

    def __init__(self, folder: Path, version: str) -> None:
        super().__init__()
        package = _import_hpsv2()
        self.model: Any = package.model.CLIP(**read_architecture(folder), output_dict=True)
        path, weights = read_weights(folder, version)
        load_strictly(self.model, weights, path)
        self.preprocess: Any = package.transform.image_transform(
            self.model.visual.image_size, is_train=False, resize_longest_max=True
        )
        self.tokenize: Any = package.tokenizer.tokenize
        self.encode: Any = package.tokenizer._tokenizer.encode
        self.max_tokens = self.model.positional_embedding.shape[0]
        self.freeze()

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score each image against its own prompt, one at a time; on a GPU in half precision, as the package does."""
        device = images.device
        scores = []
        for picture, prompt in zip(to_pictures(images), prompts, strict=True):
            pixels = self.preprocess(picture)[None].to(device)
            tokens = self.tokenize([prompt], context_length=self.max_tokens).to(device)
            with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                features = self.model(pixels, tokens)
                scores.append((features["image_features"] @ features["text_features"].T)[0, 0])
        return torch.stack(scores).float()

    def num_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt, the special ones included, before it is cut."""
        return len(self.encode(prompt)) + 2


class OfficialImageReward(Reward):
    """Score 8-bit pictures with the `ImageReward` package's own `score`; not differentiable."""

    max_tokens = NUM_TOKENS

    def __init__(self, folder: Path) -> None:
        super().__init__()
        path = folder / "model" / IMAGE_REWARD_WEIGHTS
        weights = read_checkpoint(path)
        config = folder / "model" / IMAGE_REWARD_CONFIG
        text = read_text_config(config)
        tokenizer = load_tokenizer(folder / "vocabulary" / BERT_VOCABULARY, text["vocab_size"])
        vision = vision_sizes(weights, path)
        package = _import_image_reward()

        def create_vit(*_: Any) -> tuple[Any, int]:
            encoder = package.vit.VisionTransformer(
                img_size=vision["image_size"],
                patch_size=vision["patch_size"],
                embed_dim=vision["hidden_size"],
                depth=vision["num_hidden_layers"],
                num_heads=vision["num_attention_heads"],
                mlp_ratio=vision["intermediate_size"] / vision["hidden_size"],
            )
            return encoder, vision["hidden_size"]

        head = package.model.MLP
        with (
            _replaced(package.pretrain, init_tokenizer=lambda: tokenizer, create_vit=create_vit),
            _replaced(package.model, MLP=lambda _: head(text["hidden_size"])),
        ):
            self.model: Any = package.model.ImageReward(med_config=str(config))
        load_strictly(self.model, weights, path)
        self.tokenizer: Any = tokenizer
        self.freeze()

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Score each image against its own prompt, one at a time, in fp32 as the package does."""
        self.model.device = images.device
        pairs = zip(to_pictures(images), prompts, strict=True)
        with torch.autocast(images.device.type, enabled=False):
            scores = [self.model.score(prompt, image) for image, prompt in pairs]
        return torch.tensor(scores, device=images.device)

    def num_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt, the special ones included, before it is cut."""
        return len(self.tokenizer(prompt, verbose=False).input_ids)


def to_pictures(images: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    """Round images in [0, 1] to 8 bits."""
    levels = (images.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in levels]


@cache
def _import_hpsv2() -> SimpleNamespace:
    """Import hpsv2's copy of open_clip.

    Its wheel lacks the vocabulary that its tokenizer reads beside itself; open_clip ships the identical file, so the
    tokenizer is told that it stands there. It also imports a name of `turtle`, which needs Tk, and does not use it.
    """
    import open_clip.tokenizer

    name = "hpsv2.src.open_clip.tokenizer"
    tokenizer = ModuleType(name)
    tokenizer.__file__ = open_clip.tokenizer.__file__
    turtle: Any = ModuleType("turtle")
    turtle.forward = None
    with _undisturbed(), _stood_in(turtle):
        folder = Path(importlib.import_module("hpsv2").__path__[0])
        SourceFileLoader(name, str(folder / "src" / "open_clip" / "tokenizer.py")).exec_module(tokenizer)
        sys.modules[name] = tokenizer
        model = importlib.import_module("hpsv2.src.open_clip.model")
        transform = importlib.import_module("hpsv2.src.open_clip.transform")
    return SimpleNamespace(model=model, transform=transform, tokenizer=tokenizer)


@cache
def _import_image_reward() -> SimpleNamespace:
    """Import the ImageReward package with what has left transformers since put back.

    `clip` (for a score that is not used here) and `ReFL` (a training script) are imported but not needed.
    """
    from transformers import modeling_utils, pytorch_utils

    moved = {
        "apply_chunking_to_forward": pytorch_utils.apply_chunking_to_forward,
        "prune_linear_layer": pytorch_utils.prune_linear_layer,
        "find_pruneable_heads_and_indices": None,  # gone altogether; pruning, its one user, does not happen here
    }
    with (
        _undisturbed(),
        _stood_in(ModuleType("clip"), ModuleType("ImageReward.ReFL")),
        _replaced(modeling_utils, **moved),
    ):
        model = importlib.import_module("ImageReward.ImageReward")
        blip = "ImageReward.models.BLIP"
        pretrain, med, vit = (importlib.import_module(f"{blip}.{name}") for name in ("blip_pretrain", "med", "vit"))
    med.BertModel.all_tied_weights_keys = {}
    med.BertModel.get_head_mask = lambda _model, _mask, num_layers: [None] * num_layers  # ImageReward masks none
    med.BertModel.invert_attention_mask = _inverted
    return SimpleNamespace(model=model, pretrain=pretrain, vit=vit)


def _inverted(model: Any, mask: Tensor) -> Float[Tensor, "b 1 1 n"]:
    """Turn a mask of ones and zeros into what is added to attention scores."""
    return (1 - mask[:, None, None, :].to(model.dtype)) * torch.finfo(model.dtype).min


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the filters of warnings and the loudness of transformers, which the packages change as they are imported."""
    from transformers import logging

    verbosity = logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)


@contextmanager
def _stood_in(*modules: ModuleType) -> Iterator[None]:
    """Let modules be imported in place of those of their names."""
    before = {module.__name__: sys.modules.get(module.__name__) for module in modules}
    sys.modules.update({module.__name__: module for module in modules})
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextmanager
def _replaced(module: Any, **attributes: Any) -> Iterator[None]:
    """Give a module other attributes for a while."""
    before = {name: getattr(module, name) for name in attributes if hasattr(module, name)}
    for name, value in attributes.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name in attributes:
            if name in before:
                setattr(module, name, before[name])
            else:
                delattr(module, name)
