"""A classifier that checks whether a picture has each attribute that its caption names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_model
from torch import Tensor, nn

from distar.errors import PromptError
from distar.rewards.reward import Reward


class AttributeClassifier(nn.Module):
    """A small convolutional network with one head for each attribute.

    Args:
        channels: width of each level; every level halves the picture.
        attributes: the values that each attribute can take, such as `{"shape": ["star", "moon"]}`.
    """

    def __init__(self, channels: Sequence[int], attributes: dict[str, list[str]]) -> None:
        super().__init__()
        self.attributes = attributes
        widths = [3, *channels]
        self.trunk = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inner, outer, 3, stride=2, padding=1),
                    nn.GroupNorm(4, outer),
                    nn.SiLU(),
                    nn.Conv2d(outer, outer, 3, padding=1),
                    nn.GroupNorm(4, outer),
                    nn.SiLU(),
                )
                for inner, outer in pairwise(widths)
            )
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * widths[-1], len(values)) for name, values in attributes.items()}
        )

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b values"]]:
        """Return the logits of each attribute's values."""
        features = self.trunk(2 * images - 1)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return {name: head(pooled) for name, head in self.heads.items()}


class AttributeJudge(Reward):
    """Compare what the classifier sees with what the caption says."""

    def __init__(self, classifier: AttributeClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """Return 1 for each image whose attributes are all as the caption says, else 0.

        Raises:
            PromptError: a caption does not name exactly one value of each attribute.
        """
        logits = self.classifier(images)
        named = {name: self._named(name, prompts).to(images.device) for name in self.classifier.attributes}
        right = torch.stack([logits[name].argmax(1) == named[name] for name in named])
        return right.all(0).float()

    def _named(self, attribute: str, prompts: Sequence[str]) -> Int[Tensor, " b"]:
        values = self.classifier.attributes[attribute]
        found = []
        for prompt in prompts:
            words = set(prompt.lower().replace(",", " ").split())
            matches = [i for i, value in enumerate(values) if value in words]
            if len(matches) != 1:
                raise PromptError(
                    f"the judge can't check {prompt!r}: it names {[values[i] for i in matches]} as {attribute}, "
                    f"and exactly one of {values} is needed"
                )
            found.append(matches[0])
        return torch.tensor(found)


def load_judge(folder: Path) -> AttributeJudge:
    """Load the judge from a folder with `config.json` and `model.safetensors`."""
    config = json.loads((folder / "config.json").read_text())
    judge = AttributeJudge(AttributeClassifier(config["channels"], config["attributes"]))
    load_model(judge.classifier, folder / "model.safetensors")
    judge.freeze()
    return judge
