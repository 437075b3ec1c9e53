"""What all families of reference models share: loading, decoding, the three players, and the release's layout."""

from __future__ import annotations

import copy
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from distar.diffusion.adapters import LoraParams, add_adapters, sharing_weights
from distar.diffusion.assistant import Assistant
from distar.diffusion.denoiser import Denoiser, NetworkCall
from distar.diffusion.generator import NoiseScale, OneStepGenerator
from distar.diffusion.parametrization import Prediction
from distar.diffusion.prompt import PromptEmbedding
from distar.diffusion.reference import Reference
from distar.diffusion.schedule import Schedule
from distar.errors import ModelFileError
from distar.imports import lasting_imports
from distar.model_files import LICENCE_TEXTS, ModelFiles


class ReferenceModel(BaseModel, ABC):
    """A reference model in the hub's layout of a diffusers pipeline.

    `variant` chooses between a component's files where the repository holds several, such as `fp16`.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    network_name: ClassVar[str] = "unet"
    """The pipeline's name of its denoising network."""
    tokenizer_names: ClassVar[tuple[str, ...]] = ("tokenizer",)
    text_encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder",)
    text_weights: ClassVar[str] = "model"
    """How a text encoder's files of weights begin; a pattern where they come in parts, with an index."""
    call_options: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the plain pipeline's call without which it would draw something else."""

    source: str
    variant: Literal["fp16"] | None

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """Return the files that are needed: configurations, tokenizers, one file of weights a component; licences."""
        suffix = f".{self.variant}" if self.variant else ""
        networks, encoders = (self.network_name, "vae"), self.text_encoder_names
        needed = ["model_index.json", "scheduler/scheduler_config.json"]
        needed += [f"{name}/config.json" for name in (*networks, *encoders)]
        needed += [f"{name}/diffusion_pytorch_model{suffix}.safetensors" for name in networks]
        needed += [f"{name}/{self.text_weights}{suffix}.safetensors" for name in encoders]
        needed += [f"{name}/*" for name in self.tokenizer_names]
        optional = [f"{name}/model.safetensors.index.json" for name in encoders]
        return {"": ModelFiles(self.source, tuple(needed), optional=(*optional, *LICENCE_TEXTS))}

    def networks(self, folder: Path) -> tuple[Any, Any, Any]:
        """Load the denoising network and the autoencoder, in fp32, and the scheduler."""
        with lasting_imports():
            from diffusers.utils import logging  # to encode prompts takes transformers alone

        logging.disable_progress_bar()  # of loading and saving weights: a stage has its own
        network, autoencoder = (self._load_model(folder, name) for name in (self.network_name, "vae"))
        return network, autoencoder, component_class(folder, "scheduler").from_pretrained(folder / "scheduler")

    def text_models(self, folder: Path) -> tuple[list[Any], list[Any]]:
        """Load the text encoders, in fp32, and their tokenizers."""
        encoders = [self._load_model(folder, name) for name in self.text_encoder_names]
        tokenizers = [
            component_class(folder, name).from_pretrained(folder / name, local_files_only=True)
            for name in self.tokenizer_names
        ]
        return encoders, tokenizers

    def _load_model(self, folder: Path, name: str) -> Any:
        return component_class(folder, name).from_pretrained(
            folder / name, dtype=torch.float32, variant=self.variant, local_files_only=True
        )

    @abstractmethod
    def build(self, folder: Path, null_prompt: PromptEmbedding) -> Family:
        """Load everything but the text encoders from a folder, in fp32.

        Args:
            folder: the pipeline.
            null_prompt: the embedding of "no prompt", a batch of one.
        """

    @abstractmethod
    def build_text_encoder(self, folder: Path) -> TextEncoder:
        """Load the text encoders and their tokenizers from a folder, in fp32."""

    def write_pipeline(self, reference_dir: Path, weights_dir: Path, folder: Path) -> None:
        """Write the reference's pipeline with a generator's network and `LCMScheduler`, for plain diffusers.

        All but the network is copied from the reference's own files, so that their hashes tell where they come from.

        Args:
            reference_dir: the reference's pipeline.
            weights_dir: the generator's network, as `Family.save_generator` writes it.
            folder: where to write; must not exist.
        """
        from diffusers import LCMScheduler

        index = read_index(reference_dir)
        kept = ("vae", *self.tokenizer_names, *self.text_encoder_names)
        for name in kept:
            _copy_component(reference_dir / name, folder / name, self.variant)
        shutil.copytree(weights_dir, folder / self.network_name, copy_function=shutil.copyfile)
        scheduler = json.loads((reference_dir / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        written: Any = LCMScheduler.from_config(scheduler, clip_sample=False)
        written.save_pretrained(folder / "scheduler")
        parts = {name: entry for name, entry in index.items() if isinstance(entry, list)}
        settings = {name: entry for name, entry in index.items() if not isinstance(entry, list)}
        components = {
            name: entry if name in (*kept, self.network_name) else [None, None] for name, entry in parts.items()
        }
        components["scheduler"] = ["diffusers", "LCMScheduler"]
        if "requires_safety_checker" in settings:
            settings["requires_safety_checker"] = False
        text = json.dumps(settings | components, indent=2, sort_keys=True) + "\n"
        (folder / "model_index.json").write_text(text, encoding="utf-8")


class TextEncoder(nn.Module, ABC):
    """A family's frozen text encoders with their tokenizers.

    `tokenizers` maps each tokenizer's name to it and to the number of tokens that its encoder reads.
    """

    tokenizers: Mapping[str, tuple[Any, int]]

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> PromptEmbedding:
        """Encode prompts as the family's denoiser wants them."""

    def encode_null(self) -> PromptEmbedding:
        """Encode "no prompt", a batch of one."""
        return self.encode([""])

    def tokenize(self, name: str, prompts: Sequence[str]) -> Any:
        """Tokenize prompts to tensors of the encoder's length, shape (b, tokens), as diffusers' pipelines do."""
        tokenizer, max_tokens = self.tokenizers[name]
        return tokenizer(
            self.normalise(prompts), padding="max_length", truncation=True, max_length=max_tokens, return_tensors="pt"
        )

    def num_tokens(self, name: str, prompts: Sequence[str]) -> list[int]:
        """Count each prompt's tokens for a tokenizer, the special ones included, before it is cut."""
        tokenizer, _ = self.tokenizers[name]
        return [len(ids) for ids in tokenizer(self.normalise(prompts), truncation=False, verbose=False).input_ids]

    def normalise(self, prompts: Sequence[str]) -> list[str]:
        """Rewrite prompts as the family's pipeline does before it tokenizes them."""
        return list(prompts)

    def freeze(self) -> None:
        """Switch off training for good; to be called once the weights are in place."""
        self.requires_grad_(False)
        self.eval()


class Family(nn.Module, ABC):
    """A family's denoising network, autoencoder and schedule, and how to call them.

    All are frozen; `assistant` and `generator` are made from copies of the denoising network.

    Args:
        network: the reference's denoising network.
        autoencoder: a diffusers `AutoencoderKL`.
        scheduler: the reference's scheduler, of which betas and the meaning of the output are taken.
        null_prompt: the embedding of "no prompt", a batch of one.
    """

    def __init__(
        self, network: nn.Module, autoencoder: nn.Module, scheduler: Any, null_prompt: PromptEmbedding
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.autoencoder: Any = autoencoder
        self.schedule = Schedule(scheduler.alphas_cumprod.double())
        self.prediction: Prediction = scheduler.config.prediction_type
        self._null_prompt = null_prompt
        self.requires_grad_(False)
        self.eval()

    @property
    @abstractmethod
    def call(self) -> NetworkCall:
        """How the network is called."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        size = self.network.config.sample_size
        return self.network.config.in_channels, size, size

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels a latent is wide."""
        return 2 ** (len(self.autoencoder.config.block_out_channels) - 1)

    @property
    def device(self) -> torch.device:
        """Where the components are."""
        return self.network.device

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Decode latents to images in [0, 1], differentiably; in fp32 if autocast computes in less.

        The clamp lets gradients through unchanged: a hard one would leave saturated pixels without any.
        """
        decoded = self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample
        # steps of bf16 are as wide as those of 8 bits, and halving them is exact in fp32 alone
        images = decoded.to(torch.promote_types(decoded.dtype, torch.float32)) / 2 + 0.5
        return images + (images.clamp(0, 1) - images).detach()

    def reference(self) -> Reference:
        """Make the frozen reference; it shares its weights with this object."""
        return Reference(*self._denoiser_parts(self.network))

    def assistant(self, lora: LoraParams | None = None, seed: int = 0) -> Assistant:
        """Make a trainable assistant that starts from the reference.

        With `lora` it is adapters on the reference's own weights, drawn from `seed`.

        Raises:
            ParameterError: the network has no layers as `lora` names them.
        """
        return Assistant(*self._denoiser_parts(self._trainable_network(None, lora, seed)))

    def generator(
        self,
        timestep: int,
        noise_scale: NoiseScale,
        weights_dir: Path | None,
        lora: LoraParams | None = None,
        seed: int = 0,
    ) -> OneStepGenerator:
        """Make a trainable one-step generator from the weights in `weights_dir`, or from the reference if None.

        With `lora` it is adapters, drawn from `seed`, on those weights; the reference's are not copied for it.

        Raises:
            ModelFileError: the folder does not hold one file of weights, or they are not this network's.
            ParameterError: the network has no layers as `lora` names them.
        """
        denoiser = Denoiser(*self._denoiser_parts(self._trainable_network(weights_dir, lora, seed)))
        return OneStepGenerator(denoiser, timestep, noise_scale)

    def _trainable_network(self, weights_dir: Path | None, lora: LoraParams | None, seed: int) -> nn.Module:
        shared = weights_dir is None and lora is not None
        network = sharing_weights(self.network) if shared else copy.deepcopy(self.network)
        if weights_dir is not None:
            load_weights(network, weights_dir)
        if lora is None:
            return network.requires_grad_(True)
        add_adapters(network, lora, seed)
        return network

    def save_generator(self, generator: OneStepGenerator, weights_dir: Path) -> None:
        """Write a generator's network in diffusers' layout, as one file; `generator` reads it back."""
        cast("Any", generator.denoiser.network).save_pretrained(weights_dir, max_shard_size="100GB")

    def _denoiser_parts(
        self, network: nn.Module
    ) -> tuple[nn.Module, NetworkCall, Schedule, Prediction, PromptEmbedding]:
        schedule = self.schedule.to(self.device, torch.float32)
        null_prompt = self._null_prompt.to(self.device, torch.float32)
        return network, self.call, schedule, self.prediction, null_prompt


def read_index(folder: Path) -> dict[str, Any]:
    """Read a pipeline's `model_index.json`: its own class, and the library and class of each component.

    Raises:
        ModelFileError: it is missing or not JSON.
    """
    path = folder / "model_index.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist; run `dvc repro reference`, which fetches it") from None
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path} is not JSON ({error}); run `dvc repro -f reference`") from error


def component_class(folder: Path, name: str) -> Any:
    """Return the class of a pipeline's component.

    Raises:
        ModelFileError: the pipeline has no such component, or not one of diffusers or transformers.
    """
    entry = read_index(folder).get(name)
    match entry:
        case ["diffusers" | "transformers" as library, str(class_name)]:
            with lasting_imports():
                return getattr(import_module(library), class_name)  # the library imports it just then
        case _:
            raise ModelFileError(
                f"{folder}/model_index.json: {name} is {entry}, expected a class of diffusers or transformers; is "
                "`reference.family` the one of this pipeline?"
            )


def load_weights(network: nn.Module, folder: Path) -> None:
    """Load a network's state dict from the one `.safetensors` or pickled `.bin` file of a folder, strictly.

    Raises:
        ModelFileError: there is not exactly one such file, or its names or shapes are not the network's.
    """
    from safetensors.torch import load_file

    files = sorted(path for path in folder.iterdir() if path.suffix in {".safetensors", ".bin"})
    if len(files) != 1:
        raise ModelFileError(
            f"{folder} holds {len(files)} files of weights ({', '.join(f.name for f in files) or 'none'}), and one is "
            "expected; let the source name the file itself, as in hf://owner/name@REVISION/unet/FILE.safetensors"
        )
    if files[0].suffix == ".bin":
        state = torch.load(files[0], map_location="cpu", weights_only=True)
    else:
        state = load_file(files[0])
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelFileError(f"{files[0]} does not hold the reference's network: {error}") from error


def _copy_component(source: Path, target: Path, variant: str | None) -> None:
    """Copy a component; a variant's weights get the plain name, under which diffusers looks for them unasked.

    transformers loads a text encoder in the type that its configuration names: it must be that of the other networks.
    """
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        name = path.name.replace(f".{variant}.", ".") if variant else path.name
        shutil.copyfile(path, target / name)
    config_path = target / "config.json"
    if config_path.exists():
        config = json.loads(config_path.read_text(encoding="utf-8"))
        for key in config.keys() & {"dtype", "torch_dtype"}:
            config[key] = "float32"
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
