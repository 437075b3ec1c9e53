"""The tiny reference: text encoder and denoiser, written as a `StableDiffusionPipeline`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from distar.diffusion.assistant import Assistant
from distar.diffusion.families.sd15 import call_unet
from distar.diffusion.prompt import PromptEmbedding
from distar.diffusion.schedule import Schedule
from distar.tiny.autoencoder import encode_all
from distar.tiny.clip import text_config
from distar.tiny.fitting import fit
from distar.tiny.recipe import Kitchen, caption_tokens
from distar.tiny.renderer import RESOLUTION
from distar.tiny.world import TEMPLATES


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
        CLIPTextConfig(**text_config(tokenizer, text.hidden_size, text.num_layers, text.num_heads, text.max_tokens))
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
    mean, std = encode_all(vae, kitchen.pictures)
    tokens = caption_tokens(tokenizer, kitchen.pictures)
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
    components: dict[str, Any] = {
        "vae": copy.deepcopy(vae).half(),
        "text_encoder": trained.text_encoder,
        "tokenizer": tokenizer,
        "unet": trained.denoiser.network,
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
    }
    StableDiffusionPipeline(**components, requires_safety_checker=False).save_pretrained(folder)


class _TextToImage(nn.Module):
    def __init__(self, text_encoder: CLIPTextModel, denoiser: Assistant) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.denoiser = denoiser
