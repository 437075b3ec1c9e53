"""Which rewards there are, the files that each needs, and how it is built; nothing here computes.

`build` imports the reward's own file: half of the stages read parameters and no tensor, and would wait for torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from distar.model_files import ModelFiles

if TYPE_CHECKING:
    from distar.rewards.aesthetic import AestheticReward
    from distar.rewards.attributes import AttributeJudge
    from distar.rewards.clip import ClipReward
    from distar.rewards.hpsv2 import HPSReward
    from distar.rewards.image_reward import BlipReward
    from distar.rewards.reward import Reward

# The hub's folders hold the same weights in other formats too, and a tokenizer in one file or several.
CLIP_IMAGE_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
CLIP_TEXT_FILES = ("tokenizer_config.json",)
CLIP_TOKENIZER_FILES = ("tokenizer.json", "special_tokens_map.json", "vocab.json", "merges.txt")

HPSV2_WEIGHTS = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}
HPSV2_CONFIG = "open_clip_config.json"

IMAGE_REWARD_WEIGHTS, IMAGE_REWARD_CONFIG, BERT_VOCABULARY = "ImageReward.pt", "med_config.json", "vocab.txt"


class RewardModel(BaseModel, ABC):
    """A reward, by its settings and the sources of its files."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @property
    @abstractmethod
    def model_files(self) -> dict[str, ModelFiles]:
        """Which files of which source the reward needs, by subfolder."""

    @abstractmethod
    def build(self, folder: Path) -> Reward:
        """Load the reward from a folder with these subfolders.

        Raises:
            ModelFileError: a file is missing or is not what it should be.
        """


class Aesthetic(RewardModel):
    """A linear head on the picture embedding of a CLIP ViT-L/14: how people rate a picture, whatever its prompt.

    Attributes:
        source: the head, a `.pth` file.
        clip: the CLIP model, in the hub's layout.
    """

    kind: Literal["aesthetic"]
    source: str
    clip: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The head and the CLIP model, each in a subfolder."""
        return {"head": ModelFiles(self.source, ("*.pth",)), "clip": ModelFiles(self.clip, CLIP_IMAGE_FILES)}

    def build(self, folder: Path) -> AestheticReward:
        """Load head and CLIP model."""
        from distar.rewards.aesthetic import AestheticReward

        return AestheticReward(folder)


class Attributes(RewardModel):
    """1 if every attribute named in the caption is recognised in the picture, else 0: a judge, not to be trained on."""

    kind: Literal["attributes"]
    source: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The classifier."""
        return {"": ModelFiles(self.source, ("config.json", "model.safetensors"))}

    def build(self, folder: Path) -> AttributeJudge:
        """Load the classifier."""
        from distar.rewards.attributes import load_judge

        return load_judge(folder)


class CLIPScore(RewardModel):
    """100 × cosine of picture and caption in a CLIP model (Hessel et al. 2021, arXiv 2104.08718)."""

    kind: Literal["clip_score"]
    source: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The CLIP model, in the hub's layout."""
        return {"": ModelFiles(self.source, CLIP_IMAGE_FILES + CLIP_TEXT_FILES, CLIP_TOKENIZER_FILES)}

    def build(self, folder: Path) -> ClipReward:
        """Load the CLIP model."""
        from distar.rewards.clip import ClipReward

        return ClipReward(folder, scale=100.0)


class HPSv2(RewardModel):
    """HPSv2 and v2.1: cosine of picture and prompt in a CLIP ViT-H/14 fine-tuned on people's choices.

    Wu et al. 2023, arXiv 2306.09341.

    Attributes:
        version: which of the two published models; their scores are not comparable.
        antialias: whether pictures are resized with antialiasing. The official package leaves it to torchvision, which
            does from 0.17 on; figures published with an older one were computed without.
    """

    kind: Literal["hpsv2"]
    source: str
    version: Literal["2.0", "2.1"]
    antialias: bool

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The version's weights, and open_clip's description of a model that is not a ViT-H/14."""
        return {"": ModelFiles(self.source, (HPSV2_WEIGHTS[self.version],), optional=(HPSV2_CONFIG,))}

    def build(self, folder: Path) -> HPSReward:
        """Load the version's weights."""
        from distar.rewards.hpsv2 import HPSReward

        return HPSReward(folder, self.version, self.antialias)


class ImageReward(RewardModel):
    """BLIP with a linear head, trained on people's rankings (Xu et al. 2023, arXiv 2304.05977): about -2 to 2.

    The raw score less its mean over its standard deviation, as on the authors' data.

    Attributes:
        source: folder with `ImageReward.pt` and `med_config.json`.
        vocabulary: folder with BERT's `vocab.txt` (uncased).
    """

    kind: Literal["image_reward"]
    source: str
    vocabulary: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The model and the vocabulary, each in a subfolder."""
        return {
            "model": ModelFiles(self.source, (IMAGE_REWARD_WEIGHTS, IMAGE_REWARD_CONFIG)),
            "vocabulary": ModelFiles(self.vocabulary, (BERT_VOCABULARY,)),
        }

    def build(self, folder: Path) -> BlipReward:
        """Load model and vocabulary."""
        from distar.rewards.image_reward import BlipReward

        return BlipReward(folder)


class PickScore(RewardModel):
    """Cosine of picture and prompt × the model's learnt temperature, as in the authors' code.

    A CLIP model fine-tuned on people's pairwise choices (Kirstain et al. 2023, arXiv 2305.01569).
    """

    kind: Literal["pickscore"]
    source: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The CLIP model, in the hub's layout."""
        return {"": ModelFiles(self.source, CLIP_IMAGE_FILES + CLIP_TEXT_FILES, CLIP_TOKENIZER_FILES)}

    def build(self, folder: Path) -> ClipReward:
        """Load the CLIP model."""
        from distar.rewards.clip import ClipReward

        return ClipReward(folder, scale=None)


RewardParams = Annotated[
    Aesthetic | Attributes | CLIPScore | HPSv2 | ImageReward | PickScore, Field(discriminator="kind")
]
