"""What people prefer, as functions of pictures and prompts: one file a reward.

To add one: a file here with its parameters and their `build`, and its class in the union below.
"""

from typing import Annotated

from pydantic import Field

from distar.rewards.aesthetic import Aesthetic
from distar.rewards.attributes import Attributes
from distar.rewards.clip_score import CLIPScore
from distar.rewards.hpsv2 import HPSv2
from distar.rewards.image_reward import ImageReward
from distar.rewards.pickscore import PickScore

RewardParams = Annotated[
    Aesthetic | Attributes | CLIPScore | HPSv2 | ImageReward | PickScore, Field(discriminator="kind")
]
