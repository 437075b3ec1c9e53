"""HPSv2 and v2.1: a CLIP ViT-H/14 fine-tuned on people's choices (Wu et al. 2023, arXiv 2306.09341)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from distar.errors import ModelFileError
from distar.rewards.cosine import CosineReward
from distar.rewards.params import HPSV2_CONFIG, HPSV2_WEIGHTS
from distar.rewards.preprocess import CLIP_MEAN, CLIP_STD, Normalise, letterbox
from distar.rewards.weights import load_strictly, read_checkpoint, read_json


class HPSReward(CosineReward):
    """HPSv2 as open_clip computes it, on pictures letterboxed as its authors do."""

    def __init__(self, folder: Path, version: str, antialias: bool) -> None:
        from open_clip import CLIP, SimpleTokenizer

        super().__init__(scale=1.0)
        architecture = read_architecture(folder)
        self.model: Any = CLIP(**architecture)
        path, weights = read_weights(folder, version)
        load_strictly(self.model, weights, path)
        for part in self.model.modules():
            if hasattr(part, "batch_first"):
                # torch's attention would transpose its input and multiply it token by token: in bf16 on CPUs with one
                # copy of the weights for each
                part.batch_first = False
        # open_clip keeps a prompt's features in the type of these weights
        self.model.transformer.resblocks[0].mlp.c_fc.keep_in_fp32 = True
        self.max_tokens = self.model.context_length
        self.tokenizer: Any = SimpleTokenizer(context_length=self.max_tokens)
        self.image_size: int = architecture["vision_cfg"]["image_size"]
        self.normalise = Normalise(CLIP_MEAN, CLIP_STD)
        self.antialias = antialias
        self.freeze()

    def embed_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Embed images: long side resized (bicubic), filled up with black, normalised."""
        return self.model.encode_image(self.normalise(letterbox(images, self.image_size, self.antialias)))

    def embed_prompt(self, prompt: str) -> Float[Tensor, "1 d"]:
        """Embed one prompt, cut where the model stops reading."""
        return self.model.encode_text(self.tokenizer([prompt]).to(self.model.logit_scale.device))

    def num_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt, the special ones included, before it is cut."""
        return len(self.tokenizer.encode(prompt)) + 2


def read_architecture(folder: Path) -> dict[str, Any]:
    """Return open_clip's description of the model: that beside the weights, else ViT-H/14's."""
    from open_clip import get_model_config

    if (folder / HPSV2_CONFIG).is_file():
        return read_json(folder / HPSV2_CONFIG)["model_cfg"]
    architecture: Any = get_model_config("ViT-H-14")
    return architecture


def read_weights(folder: Path, version: str) -> tuple[Path, dict[str, Tensor]]:
    """Read a version's weights from its own file.

    Raises:
        ModelFileError: the file is missing, or another version's is there, or it is not a checkpoint of HPSv2.
    """
    path = folder / HPSV2_WEIGHTS[version]
    others = sorted(file.name for file in folder.glob("*.pt"))
    if not path.is_file() and others:
        raise ModelFileError(
            f"{folder} holds {', '.join(others)}, expected {path.name} for version {version}; "
            "set `version` or `source` of the hpsv2 reward, and run the stage `rewards`"
        )
    checkpoint = read_checkpoint(path)
    if "state_dict" not in checkpoint:
        raise ModelFileError(
            f"{path} has the entries {', '.join(sorted(checkpoint)[:3])}, expected `state_dict`; "
            "check the source in the profile's rewards"
        )
    return path, checkpoint["state_dict"]
