"""PickScore: a CLIP model fine-tuned on people's pairwise choices (Kirstain et al. 2023, arXiv 2305.01569)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from distar.model_files import ModelFiles
from distar.rewards.clip import IMAGE_FILES, TEXT_FILES, TOKENIZER_FILES, ClipReward


class PickScore(BaseModel):
    """Cosine × the model's learnt temperature, as in the authors' code; unbounded only by that temperature."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    kind: Literal["pickscore"]
    source: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """Which files of which source the reward needs, by subfolder."""
        return {"": ModelFiles(self.source, IMAGE_FILES + TEXT_FILES, TOKENIZER_FILES)}

    def build(self, folder: Path) -> ClipReward:
        """Load the reward from a folder in the hub's layout."""
        return ClipReward(folder, scale=None)
