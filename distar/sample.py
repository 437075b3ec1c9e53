"""`distar sample`: draw pictures of one prompt with the trained generator."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from distar import paths
from distar.atomic import written_whole
from distar.errors import ModelFileError, StorageError
from distar.evaluation.sampling import Requests, draw_images, many_steps, one_step
from distar.loading import load_family, load_generator, load_text_encoder
from distar.params import load_params
from distar.runtime import prepare_torch

_MIN_SIDE = 256


def sample(prompt: str, out: Path, num_images: int, seed: int, compare: bool) -> None:
    """Draw `num_images` pictures side by side; with `compare`, the reference's below them.

    Raises:
        ModelFileError: there is no trained generator yet.
        StorageError: `out` cannot be written.
    """
    if not paths.GENERATOR_WEIGHTS.is_dir():
        raise ModelFileError(f"{paths.GENERATOR_WEIGHTS} does not exist; train a generator first, with `dvc repro`")
    params = load_params()
    settings = params.profile.evaluate
    accelerator = prepare_torch(params.profile.runtime, settings.precision)
    family = load_family(params, accelerator.device)
    systems = {"one step": one_step(load_generator(params, family, paths.GENERATOR_WEIGHTS))}
    if compare:
        sampling = settings.reference
        systems["reference"] = many_steps(family.reference(), sampling.num_steps, sampling.guidance_scale)
    encoded = load_text_encoder(params, accelerator.device).encode([prompt])
    requests = Requests.make([prompt], encoded, num_images, family.latent_shape, seed, "sample")
    with accelerator.autocast():
        rows = [draw_images(name, draw, family, requests, settings.batch_size) for name, draw in systems.items()]
    _save(rows, out)


def _save(rows: list[Tensor], out: Path) -> None:
    side = rows[0].shape[-1]
    picture = torch.cat([torch.cat(list(images), dim=2) for images in rows], dim=1)
    image = Image.fromarray(picture.permute(1, 2, 0).numpy())
    if side < _MIN_SIDE:
        factor = _MIN_SIDE // side
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
    try:
        with written_whole(out) as path:
            image.save(path, "PNG")
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from error
