"""CLIPScore: how well a picture matches its caption (Hessel et al. 2021, arXiv 2104.08718), times 100."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from distar.model_files import ModelFiles
from distar.rewards.clip import IMAGE_FILES, TEXT_FILES, TOKENIZER_FILES, ClipReward


class CLIPScore(BaseModel):
    """100 × cosine."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    kind: Literal["clip_score"]
    source: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """Which files of which source the reward needs, by subfolder."""
        return {"": ModelFiles(self.source, IMAGE_FILES + TEXT_FILES, TOKENIZER_FILES)}

    def build(self, folder: Path) -> ClipReward:
        """Load the reward from a folder in the hub's layout."""
        return ClipReward(folder, scale=100.0)
