"""The published models' own configurations, as data: their networks can be built without their weights.

A configuration file has a section for each component of the pipeline; `network` is the denoising network.
"""

from __future__ import annotations

import json
from importlib import import_module
from importlib.resources import files
from typing import Any

import torch
from torch import nn


def published_component(family: str, component: str, device: str) -> nn.Module:
    """Build a component of a published model at its real size, with random weights.

    Args:
        family: `sd15`, `sdxl` or `pixart`.
        component: `network`, `vae`, `text_encoder` or, for SDXL, `text_encoder_2`.
        device: where; `meta` allocates nothing.
    """
    config = published_configuration(family)[component]
    class_name = config.pop("_class_name")
    with torch.device(device):
        if component.startswith("text_encoder"):
            transformers: Any = import_module("transformers")
            model_class = getattr(transformers, class_name)
            return model_class(model_class.config_class(**config))
        diffusers: Any = import_module("diffusers")
        return getattr(diffusers, class_name).from_config(config)


def published_configuration(family: str) -> dict[str, dict[str, Any]]:
    """Read a published model's configuration, one section a component."""
    path = files("distar.diffusion.families") / "configs" / f"{family}.json"
    return json.loads(path.read_text(encoding="utf-8"))
