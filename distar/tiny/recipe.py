"""The recipe of the models under `models/tiny`: its parameters, and what its steps share.

Weights are rounded to fp16 as they are saved, and every later step loads them from there: what is
trained against is exactly what is shipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import CLIPTokenizer

from distar.atomic import written_whole
from distar.diffusion.parametrization import Prediction
from distar.seeding import derive_seed, generator
from distar.tiny.dataset import Imperfect, Pictures, draw_imperfect, render_pictures
from distar.tiny.fitting import FitParams
from distar.tiny.world import TEMPLATES, split_subjects
from distar.training.params import TrainParams


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


class PreferenceRecipe(ClipRecipe):
    """A CLIPModel that is trained on captions before it is trained on choices."""

    pretraining: FitParams


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
    preference: PreferenceRecipe
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
            with written_whole(path) as partial:  # steps that run side by side share it
                torch.save(vars(made), partial)
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


def caption_tokens(tokenizer: CLIPTokenizer, pictures: Pictures) -> Tensor:
    """Tokenize every picture's caption in every template; shape (n, templates, tokens)."""
    known = {
        subject: [subject.caption(template) for template in range(len(TEMPLATES))]
        for subject in dict.fromkeys(scene.subject for scene in pictures.scenes)
    }
    flat = [caption for captions in known.values() for caption in captions]
    ids = tokenizer(flat, padding="max_length", return_tensors="pt").input_ids.unflatten(0, (-1, len(TEMPLATES)))
    position = {subject: i for i, subject in enumerate(known)}
    return ids[[position[scene.subject] for scene in pictures.scenes]]
