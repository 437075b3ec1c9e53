"""The published models at their real sizes, on the meta device: nothing is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distar.diffusion.families.published import published_component
from tests.references import as_published_clip, as_published_vae

PARAMETERS = {
    ("sd15", "network"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sd15", "text_encoder"): 123_060_480,
    ("sdxl", "network"): 2_567_463_684,
    ("sdxl", "vae"): 83_653_863,
    ("sdxl", "text_encoder"): 123_060_480,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("pixart", "network"): 610_856_096,
    ("pixart", "vae"): 83_653_863,
    ("pixart", "text_encoder"): 4_762_310_656,
}

Names = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    named = as_published_clip(state)
    return {name: value for name, value in named.items() if not name.endswith("position_ids")}


def unchanged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state


# component, precision, how the file names its tensors, the size of the published file in bytes
FILES: list[tuple[str, str, str, Names, int]] = [
    ("sd15", "network", "F32", unchanged, 3_438_167_540),
    ("sd15", "network", "F16", unchanged, 1_719_125_304),
    ("sd15", "vae", "F32", as_published_vae, 334_643_276),
    ("sd15", "text_encoder", "F32", as_published_clip, 492_265_874),
    ("sdxl", "network", "F32", unchanged, 10_270_077_736),
    ("sdxl", "network", "F16", unchanged, 5_135_149_760),
    ("sdxl", "vae", "F32", unchanged, 334_643_268),
    ("sdxl", "vae", "F16", unchanged, 167_335_342),
    ("sdxl", "text_encoder", "F16", prefixed, 246_144_152),
    ("sdxl", "text_encoder_2", "F16", unchanged, 1_389_382_176),
]


@pytest.mark.parametrize(("family", "component"), PARAMETERS)
def test_parameter_counts(family: str, component: str) -> None:
    module = published_component(family, component, "meta")
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMETERS[family, component]


@pytest.mark.parametrize(("family", "component", "precision", "names", "size"), FILES)
def test_names_and_shapes_are_those_of_the_published_file(
    family: str, component: str, precision: str, names: Names, size: int
) -> None:
    """A safetensors file's size follows from its tensors' names and shapes, which stand in its header.

    Within 8 bytes, to which some writers pad the header: a name that is one letter longer in each block shows.
    """
    state = names(published_component(family, component, "meta").state_dict())
    assert abs(safetensors_size(state, precision) - size) <= 8


def safetensors_size(state: dict[str, Tensor], precision: str) -> int:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    kinds = {name: precision if value.is_floating_point() else "I64" for name, value in state.items()}
    for name in sorted(state, key=lambda name: (kinds[name] != "I64", name)):
        start, end = end, end + state[name].numel() * {"F16": 2, "F32": 4, "I64": 8}[kinds[name]]
        header[name] = {"dtype": kinds[name], "shape": list(state[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"))
    return 8 + len(text) + -len(text) % 8 + end


def test_meta_device_allocates_nothing() -> None:
    assert next(published_component("pixart", "text_encoder", "meta").parameters()).device == torch.device("meta")
