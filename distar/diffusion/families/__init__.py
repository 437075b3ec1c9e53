"""Reference models by family: one file a family, which supplies only what differs.

To add one: a file here with its parameters, their `build` and `build_text_encoder`, and its class in the union below.
"""

from typing import Annotated

from pydantic import Field

from distar.diffusion.families.family import Family, TextEncoder
from distar.diffusion.families.pixart import PixArt
from distar.diffusion.families.sd15 import SD15
from distar.diffusion.families.sdxl import SDXL

ReferenceParams = Annotated[PixArt | SD15 | SDXL, Field(discriminator="family")]

__all__ = ["Family", "ReferenceParams", "TextEncoder"]
