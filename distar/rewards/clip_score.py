"""CLIPScore: how well a picture matches its caption (Hessel et al. 2021, arXiv 2104.08718), times 100."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from distar.model_files import ModelFiles
from distar.rewards.clip import ClipReward


class CLIPScore(BaseModel):
    """100 × cosine."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    kind: Literal["clip_score"]
    source: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """The files that `build` loads."""
        return {"": ModelFiles(self.source)}

    def build(self, folder: Path) -> ClipReward:
        """Load the reward from a folder in the hub's layout."""
        return ClipReward(folder, scale=100.0)
