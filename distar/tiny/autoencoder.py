"""The tiny autoencoder: 64x64 pictures to 8x8 latents and back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from distar.progress import track
from distar.tiny.dataset import Pictures
from distar.tiny.fitting import fit
from distar.tiny.recipe import Kitchen
from distar.tiny.renderer import RESOLUTION


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


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Encode every picture; mean and standard deviation of its scaled latents."""
    means, stds = [], []
    with track("encode pictures", len(pictures)) as progress:
        for index in torch.arange(len(pictures)).split(256):
            (posterior,) = vae.encode(pictures.images(index) * 2 - 1, return_dict=False)
            means.append(posterior.mean * vae.config["scaling_factor"])
            stds.append(posterior.std * vae.config["scaling_factor"])
            progress.advance(len(index))
    return torch.cat(means), torch.cat(stds)
