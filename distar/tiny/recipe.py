"""The recipe that made the models under `models/tiny`: each step writes its model's folder and can be resumed.

    autoencoder -> tokenizer -> reference -> matching -> classifier -> preference -> initial generator

Weights are rounded to fp16 as they are saved, and every later step loads them from there: what is
trained against is exactly what is shipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_model
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from distar.diffusion.assistant import Assistant
from distar.diffusion.families.sd15 import SD15, call_unet, write_pipeline
from distar.diffusion.parametrization import Prediction
from distar.diffusion.prompt import PromptEmbedding
from distar.diffusion.schedule import Schedule
from distar.errors import ParameterError
from distar.hashing import pin_folder
from distar.params import lock_path, read_strict
from distar.progress import track
from distar.prompts import read_source
from distar.rewards.attributes import AttributeClassifier
from distar.rewards.clip_score import CLIPScore
from distar.rewards.pickscore import PickScore
from distar.seeding import derive_seed, generator
from distar.tiny.annotator import preference_probability, utility
from distar.tiny.dataset import Imperfect, Pictures, draw_imperfect, render_pictures
from distar.tiny.fitting import FitParams, fit
from distar.tiny.renderer import RESOLUTION
from distar.tiny.world import BACKGROUNDS, COLOURS, SHAPES, TEMPLATES, split_subjects, subjects
from distar.training.checkpoint import WorkDirectory
from distar.training.loop import PromptData, Training
from distar.training.params import TrainParams

MODELS_DIR = Path("models/tiny")
WORK_DIR = Path(".distar/tiny")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class AutoencoderRecipe(_Strict):
    """AutoencoderKL and its loss."""

    block_out_channels: list[int]
    layers_per_block: int = Field(gt=0)
    latent_channels: int = Field(gt=0)
    norm_num_groups: int = Field(gt=0)
    mse_weight: float = Field(ge=0)
    kl_weight: float = Field(ge=0)
    fit: FitParams


class TextEncoderRecipe(_Strict):
    """CLIPTextModel, trained together with the denoiser."""

    hidden_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    max_tokens: int = Field(gt=0)


class DenoiserRecipe(_Strict):
    """UNet2DConditionModel; attention at its coarsest level."""

    prediction: Prediction
    block_out_channels: list[int]
    layers_per_block: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    norm_num_groups: int = Field(gt=0)
    prompt_dropout: float = Field(ge=0, lt=1)
    fit: FitParams


class ClipRecipe(_Strict):
    """A CLIPModel; both towers have the same size."""

    hidden_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    projection_dim: int = Field(gt=0)
    fit: FitParams


class ClassifierRecipe(_Strict):
    """The judge's convolutional classifier."""

    channels: list[int]
    fit: FitParams


class Recipe(_Strict):
    """Everything that `distar tiny build` depends on; read from `models/tiny/recipe.yaml`."""

    seed: int
    num_threads: int = Field(gt=0)
    pictures_per_subject: int = Field(gt=0)
    autoencoder: AutoencoderRecipe
    text_encoder: TextEncoderRecipe
    denoiser: DenoiserRecipe
    preference: ClipRecipe
    matching: ClipRecipe
    classifier: ClassifierRecipe
    initial_generator: TrainParams


@dataclass(frozen=True)
class Kitchen:
    """Where the recipe is carried out: parameters, the folder of results and the folder of work."""

    recipe: Recipe
    models_dir: Path
    work_dir: Path

    @cached_property
    def pictures(self) -> Pictures:
        """The pictures that models may be trained on: no subject of the `unseen` split is among them."""
        subjects = split_subjects("train") + split_subjects("evaluation")
        return render_pictures(subjects, self.recipe.pictures_per_subject, self.recipe.seed)

    @cached_property
    def autoencoder(self) -> AutoencoderKL:
        """The autoencoder as it is shipped: rounded to fp16, computed in fp32."""
        folder = self.models_dir / "reference" / "vae"
        return AutoencoderKL.from_pretrained(folder, dtype=torch.float32).requires_grad_(False).eval()

    @cached_property
    def imperfect(self) -> Imperfect:
        """Every picture as a generator might draw it; made once, kept in the work folder."""
        path = self.work_dir / "imperfect.pt"
        if not path.exists():
            made = draw_imperfect(self.pictures, self.autoencoder, self.draws("imperfect"))
            torch.save(vars(made), path)
        return Imperfect(**torch.load(path, weights_only=True))

    def seen_images(self, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return pictures, half of them as a generator might draw them, and how corrupt each is."""
        drawn = torch.rand(len(index), generator=rng) < 0.5
        images = torch.where(
            drawn.view(-1, 1, 1, 1), self.imperfect.pixels[index].float() / 255, self.pictures.images(index)
        )
        return images, torch.where(drawn, self.imperfect.corruption[index], 0.0)

    def batch_index(self, purpose: str, step: int, batch_size: int) -> Tensor:
        """Choose the pictures of one step."""
        return torch.randint(len(self.pictures), (batch_size,), generator=self.draws(purpose, step))

    def draws(self, purpose: str, step: int = 0) -> torch.Generator:
        """Make the generator of one purpose at one step."""
        return generator(self.recipe.seed, purpose, step)

    def start(self, purpose: str) -> None:
        """Seed the global generator, from which the libraries initialise weights."""
        torch.manual_seed(derive_seed(self.recipe.seed, purpose, "initial weights"))


def build_autoencoder(kitchen: Kitchen) -> None:
    """Train the autoencoder on clean pictures: 8 MSE + L1 + a weak KL."""
    params = kitchen.recipe.autoencoder
    num_levels = len(params.block_out_channels)
    kitchen.start("autoencoder")
    config: dict[str, Any] = {
        "sample_size": RESOLUTION,
        "block_out_channels": tuple(params.block_out_channels),
        "layers_per_block": params.layers_per_block,
        "latent_channels": params.latent_channels,
        "norm_num_groups": params.norm_num_groups,
        "down_block_types": ("DownEncoderBlock2D",) * num_levels,
        "up_block_types": ("UpDecoderBlock2D",) * num_levels,
    }

    def loss_at(autoencoder: AutoencoderKL, step: int) -> Tensor:
        index = kitchen.batch_index("autoencoder", step, params.fit.batch_size)
        pixels = kitchen.pictures.images(index) * 2 - 1
        posterior: Any = autoencoder.encode(pixels, return_dict=False)[0]
        latents = posterior.sample(generator=kitchen.draws("autoencoder noise", step))
        (decoded,) = autoencoder.decode(latents, return_dict=False)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return params.mse_weight * F.mse_loss(decoded, pixels) + F.l1_loss(decoded, pixels) + params.kl_weight * kl

    trained = fit("autoencoder", AutoencoderKL(**config), loss_at, params.fit, kitchen.work_dir)
    with torch.no_grad():
        sample = kitchen.pictures.images(kitchen.batch_index("latent scale", 0, 512)) * 2 - 1
        latents = trained.encode(sample, return_dict=False)[0].mean
    trained.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    trained.half().save_pretrained(kitchen.models_dir / "reference" / "vae")


def build_tokenizer(kitchen: Kitchen) -> None:
    """Learn the merges of the world's captions over CLIP's full byte alphabet: any text can be encoded."""
    captions = [subject.caption(template) for subject in subjects() for template in range(len(TEMPLATES))]
    splitter = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    learner.train_from_iterator(captions, BpeTrainer(end_of_word_suffix="</w>", show_progress=False))
    merges: Any = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]

    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    tokens += [token for token in dict.fromkeys("".join(pair) for pair in merges) if token not in set(tokens)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        model_max_length=kitchen.recipe.text_encoder.max_tokens,
    )
    for folder in ("reference/tokenizer", "preference", "matching"):
        tokenizer.save_pretrained(kitchen.models_dir / folder)


def build_reference(kitchen: Kitchen) -> None:
    """Train text encoder and denoiser together, and write the pipeline."""
    text, params = kitchen.recipe.text_encoder, kitchen.recipe.denoiser
    folder = kitchen.models_dir / "reference"
    vae = kitchen.autoencoder
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=params.prediction,
        clip_sample=False,  # diffusers' default is True, and washes latents out
        set_alpha_to_one=False,
        steps_offset=1,
    )
    kitchen.start("reference")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(**_text_config(tokenizer, text.hidden_size, text.num_layers, text.num_heads, text.max_tokens))
    )
    channels = params.block_out_channels
    config: dict[str, Any] = {
        "sample_size": RESOLUTION // 2 ** (len(kitchen.recipe.autoencoder.block_out_channels) - 1),
        "in_channels": kitchen.recipe.autoencoder.latent_channels,
        "out_channels": kitchen.recipe.autoencoder.latent_channels,
        "block_out_channels": tuple(channels),
        "layers_per_block": params.layers_per_block,
        "cross_attention_dim": text.hidden_size,
        "attention_head_dim": params.num_heads,
        "norm_num_groups": params.norm_num_groups,
        "down_block_types": ("DownBlock2D",) * (len(channels) - 1) + ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (len(channels) - 1),
    }
    model = _TextToImage(
        text_encoder,
        Assistant(
            UNet2DConditionModel(**config),
            call_unet,
            Schedule(scheduler.alphas_cumprod),
            params.prediction,
            PromptEmbedding({}),
        ),
    )
    mean, std = _encode_all(vae, kitchen.pictures)
    tokens = _caption_tokens(tokenizer, kitchen.pictures)
    null_tokens = tokenizer("", padding="max_length", return_tensors="pt").input_ids

    def loss_at(model: _TextToImage, step: int) -> Tensor:
        index = kitchen.batch_index("reference", step, params.fit.batch_size)
        rng = kitchen.draws("reference noise", step)
        x0 = mean[index] + std[index] * torch.randn(mean[index].shape, generator=rng)
        eps = torch.randn(x0.shape, generator=rng)
        timestep = torch.randint(model.denoiser.schedule.num_timesteps, (len(x0),), generator=rng)
        template = torch.randint(len(TEMPLATES), (len(x0),), generator=rng)
        dropped = torch.rand(len(x0), 1, generator=rng) < params.prompt_dropout
        input_ids = torch.where(dropped, null_tokens, tokens[index, template])
        prompt = PromptEmbedding({"hidden_states": model.text_encoder(input_ids)[0]})
        return model.denoiser.denoising_loss(x0, eps, timestep, prompt).mean()

    trained = fit("reference", model, loss_at, params.fit, kitchen.work_dir).half()
    write_pipeline(folder, vae.half(), trained.text_encoder, tokenizer, trained.denoiser.network, scheduler)


def build_matching(kitchen: Kitchen) -> None:
    """Train the judge's CLIP on captions and pictures alone: contrastive, never shown a preference."""
    params = kitchen.recipe.matching
    model, tokenizer = _new_clip(kitchen, "matching", params)
    tokens = _caption_tokens(tokenizer, kitchen.pictures)
    _, subject = kitchen.pictures.labels.unique(dim=0, return_inverse=True)

    def loss_at(clip: CLIPModel, step: int) -> Tensor:
        index = kitchen.batch_index("matching", step, params.fit.batch_size)
        rng = kitchen.draws("matching captions", step)
        template = torch.randint(len(TEMPLATES), (len(index),), generator=rng)
        images, _ = kitchen.seen_images(index, rng)
        logits = _clip_logits(clip, images, tokens[index, template])
        same = (subject[index][:, None] == subject[index][None]).float()
        target = same / same.sum(1, keepdim=True)  # two pictures of one subject fit both captions
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    trained = fit("matching", model, loss_at, params.fit, kitchen.work_dir)
    trained.half().save_pretrained(kitchen.models_dir / "matching")


def build_classifier(kitchen: Kitchen) -> None:
    """Train the judge's classifier of shape, colour and background."""
    params = kitchen.recipe.classifier
    attributes = {"shape": list(SHAPES), "colour": list(COLOURS), "background": list(BACKGROUNDS)}
    kitchen.start("classifier")
    model = AttributeClassifier(params.channels, attributes)

    def loss_at(classifier: AttributeClassifier, step: int) -> Tensor:
        index = kitchen.batch_index("classifier", step, params.fit.batch_size)
        images, _ = kitchen.seen_images(index, kitchen.draws("classifier noise", step))
        labels = kitchen.pictures.labels[index]
        logits = classifier(images)
        return torch.stack([F.cross_entropy(logits[name], labels[:, i]) for i, name in enumerate(attributes)]).sum()

    trained = fit("classifier", model, loss_at, params.fit, kitchen.work_dir)
    folder = kitchen.models_dir / "judge"
    folder.mkdir(parents=True, exist_ok=True)
    save_model(trained.half(), str(folder / "model.safetensors"))
    config = {"channels": params.channels, "attributes": attributes}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def build_preference(kitchen: Kitchen) -> None:
    """Train the preference reward on the simulated annotator's choices between two pictures for a caption."""
    params = kitchen.recipe.preference
    model, tokenizer = _new_clip(kitchen, "preference", params)
    tokens = _caption_tokens(tokenizer, kitchen.pictures)
    scenes = kitchen.pictures.scenes
    similar = _Neighbours(kitchen.pictures.labels)

    def loss_at(clip: CLIPModel, step: int) -> Tensor:
        size = params.fit.batch_size
        rng = kitchen.draws("preference", step)
        wanted = kitchen.batch_index("preference caption", step, size)
        shown = torch.stack([similar.draw(wanted, rng), similar.draw(wanted, rng)], dim=1)
        images, corruption = kitchen.seen_images(shown.flatten(), rng)
        utilities = [
            utility(scenes[wanted[i // 2]].subject, scenes[j], corruption[i].item())
            for i, j in enumerate(shown.flatten().tolist())
        ]
        first = torch.tensor(
            [preference_probability(a, b) for a, b in zip(utilities[::2], utilities[1::2], strict=True)]
        )
        chosen = torch.bernoulli(first, generator=rng)
        template = torch.randint(len(TEMPLATES), (size,), generator=rng)
        scores = _clip_scores(clip, images.unflatten(0, (size, 2)), tokens[wanted, template])
        return F.binary_cross_entropy_with_logits(scores[:, 0] - scores[:, 1], chosen)

    trained = fit("preference", model, loss_at, params.fit, kitchen.work_dir)
    trained.half().save_pretrained(kitchen.models_dir / "preference")


def build_initial_generator(kitchen: Kitchen) -> None:
    """Distil the reference into one step by SIM: Diff-Instruct*'s own training without a reward."""
    params = kitchen.recipe.initial_generator
    family = SD15(family="sd15", source="file://reference").build(kitchen.models_dir / "reference")
    matching = CLIPScore(kind="clip_score", source="file://matching").build(kitchen.models_dir / "matching")
    preference = PickScore(kind="pickscore", source="file://preference").build(kitchen.models_dir / "preference")
    prompts = read_source(kitchen.models_dir / "prompts" / "train.txt", None).prompts
    training = Training(
        params,
        kitchen.recipe.seed,
        family,
        family.generator(params.generator.timestep, params.generator.noise_scale, None),
        PromptData(prompts, family.encode_prompts(prompts)),
        {"matching": matching, "preference": preference},
        matching,
        Accelerator(cpu=True),
    )
    fingerprint = hashlib.sha256(kitchen.recipe.model_dump_json().encode()).hexdigest()
    with WorkDirectory(kitchen.work_dir / "initial_generator", fingerprint) as work_dir:
        trained = training.run(work_dir)
    family.save_generator(trained.generator.half(), kitchen.models_dir / "initial_generator")


def pin(kitchen: Kitchen) -> None:
    """Pin the sha256 of every model file in the profile's lock, which the fetching stages check."""
    folders = ("reference", "initial_generator", "preference", "matching", "judge")
    pins = {f"file://{kitchen.models_dir / name}": pin_folder(kitchen.models_dir / name) for name in folders}
    lock_path("tiny").write_text(json.dumps(pins, indent=2) + "\n", encoding="utf-8")


class _TextToImage(nn.Module):
    def __init__(self, text_encoder: CLIPTextModel, denoiser: Assistant) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.denoiser = denoiser


class _Neighbours:
    """Draw pictures for a caption: most of its own subject, the rest of subjects with one attribute changed, or any."""

    def __init__(self, labels: Tensor) -> None:
        self._by_label: dict[tuple[int, ...], list[int]] = {}
        for i, label in enumerate(labels.tolist()):
            self._by_label.setdefault(tuple(label), []).append(i)
        self._labels = labels.tolist()
        self._sizes = (len(SHAPES), len(COLOURS), len(BACKGROUNDS))

    def draw(self, wanted: Tensor, rng: torch.Generator) -> Tensor:
        chosen = []
        for i in wanted.tolist():
            label = list(self._labels[i])
            for attribute, size in enumerate(self._sizes):
                if torch.rand((), generator=rng) < 0.2:
                    label[attribute] = int(torch.randint(size, (), generator=rng))
            pictures = self._by_label.get(tuple(label)) or self._by_label[tuple(self._labels[i])]
            chosen.append(pictures[int(torch.randint(len(pictures), (), generator=rng))])
        return torch.tensor(chosen)


def _new_clip(kitchen: Kitchen, name: str, params: ClipRecipe) -> tuple[CLIPModel, CLIPTokenizer]:
    folder = kitchen.models_dir / name
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    size = {"hidden_size": params.hidden_size, "num_layers": params.num_layers, "num_heads": params.num_heads}
    text = _text_config(tokenizer, **size, max_tokens=kitchen.recipe.text_encoder.max_tokens)
    vision = {
        "hidden_size": params.hidden_size,
        "intermediate_size": 4 * params.hidden_size,
        "num_hidden_layers": params.num_layers,
        "num_attention_heads": params.num_heads,
        "image_size": RESOLUTION,
        "patch_size": params.patch_size,
    }
    kitchen.start(name)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=params.projection_dim)
    preprocessing = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": RESOLUTION}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n", encoding="utf-8")
    return CLIPModel(config), tokenizer


def _text_config(
    tokenizer: CLIPTokenizer, hidden_size: int, num_layers: int, num_heads: int, max_tokens: int
) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "projection_dim": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "max_position_embeddings": max_tokens,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _clip_features(clip: Any, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pictures = clip.get_image_features(pixel_values=(images - 0.5) / 0.25).pooler_output
    texts = clip.get_text_features(input_ids=tokens).pooler_output
    return F.normalize(pictures, dim=-1), F.normalize(texts, dim=-1), clip.logit_scale.exp()


def _clip_logits(clip: CLIPModel, images: Tensor, tokens: Tensor) -> Tensor:
    pictures, texts, scale = _clip_features(clip, images, tokens)
    return scale * pictures @ texts.T


def _clip_scores(clip: CLIPModel, images: Tensor, tokens: Tensor) -> Tensor:
    pictures, texts, scale = _clip_features(clip, images.flatten(0, 1), tokens)
    return scale * (pictures.unflatten(0, images.shape[:2]) * texts[:, None]).sum(-1)


def _caption_tokens(tokenizer: CLIPTokenizer, pictures: Pictures) -> Tensor:
    """Tokenize every picture's caption in every template; shape (n, templates, tokens)."""
    known = {
        subject: [subject.caption(template) for template in range(len(TEMPLATES))]
        for subject in dict.fromkeys(scene.subject for scene in pictures.scenes)
    }
    flat = [caption for captions in known.values() for caption in captions]
    ids = tokenizer(flat, padding="max_length", return_tensors="pt").input_ids.unflatten(0, (-1, len(TEMPLATES)))
    position = {subject: i for i, subject in enumerate(known)}
    return ids[[position[scene.subject] for scene in pictures.scenes]]


@torch.no_grad()
def _encode_all(vae: AutoencoderKL, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Encode every picture; mean and standard deviation of its scaled latents."""
    means, stds = [], []
    with track("encode pictures", len(pictures)) as progress:
        for index in torch.arange(len(pictures)).split(256):
            (posterior,) = vae.encode(pictures.images(index) * 2 - 1, return_dict=False)
            means.append(posterior.mean * vae.config["scaling_factor"])
            stds.append(posterior.std * vae.config["scaling_factor"])
            progress.advance(len(index))
    return torch.cat(means), torch.cat(stds)


def write_prompts(kitchen: Kitchen) -> None:
    """Write the prompt files: training in every template, evaluation in one each, in shuffled order."""
    rng = np.random.default_rng(derive_seed(kitchen.recipe.seed, "prompts"))
    train = [s.caption(template) for s in split_subjects("train") for template in range(len(TEMPLATES))]
    evaluation = [
        s.caption(int(rng.integers(len(TEMPLATES)))) for s in split_subjects("evaluation") + split_subjects("unseen")
    ]
    folder = kitchen.models_dir / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    for name, captions in (("train", train), ("evaluation", evaluation)):
        text = "\n".join(captions[i] for i in rng.permutation(len(captions)))
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


STEPS: dict[str, Callable[[Kitchen], None]] = {
    "prompts": write_prompts,
    "autoencoder": build_autoencoder,
    "tokenizer": build_tokenizer,
    "reference": build_reference,
    "classifier": build_classifier,
    "preference": build_preference,
    "matching": build_matching,
    "initial_generator": build_initial_generator,
    "pin": pin,
}


def build(only: str | None = None, models_dir: Path = MODELS_DIR, work_dir: Path = WORK_DIR) -> None:
    """Carry out the recipe, or one step of it; a step that was interrupted goes on where it stood.

    Raises:
        ParameterError: the recipe is wrong, or `only` is no step of it.
    """
    if only is not None and only not in STEPS:
        raise ParameterError(f"tiny build --only: got {only!r}; the steps are {', '.join(STEPS)}")
    recipe = read_strict(models_dir / "recipe.yaml", Recipe)
    torch.set_num_threads(recipe.num_threads)
    torch.set_flush_denormal(True)
    work_dir.mkdir(parents=True, exist_ok=True)
    kitchen = Kitchen(recipe, models_dir, work_dir)
    for name, step in STEPS.items():
        if name == only or (only is None and not (work_dir / f"{name}.done").exists()):
            step(kitchen)
            (work_dir / f"{name}.done").touch()
