"""How far the generator's diffusion process is from the reference's: one file a divergence.

A divergence maps a `Comparison` to a loss for each sample and says whether it differentiates through
the score networks. To add one: a file here, and its class in the union below.
"""

from typing import Annotated

from pydantic import Field

from distar.divergences.kl import KL
from distar.divergences.l2 import L2
from distar.divergences.pseudo_huber import PseudoHuber

Divergence = Annotated[KL | L2 | PseudoHuber, Field(discriminator="kind")]
