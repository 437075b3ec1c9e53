"""Reference models by family: one file a family, which supplies only what differs.

To add one: a file here with its parameters and their `build`, and its class in the union below.
"""

from typing import Annotated

from pydantic import Field

from distar.diffusion.families.sd15 import SD15, StableDiffusion15

ReferenceParams = Annotated[SD15, Field(discriminator=None)]
Family = StableDiffusion15
