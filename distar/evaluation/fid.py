"""Fréchet Inception distance by torch-fidelity's network and formula, against ready statistics of real pictures."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from distar.errors import ModelFileError

NUM_FEATURES = 2048
"""With fewer pictures than this their covariance is singular, and the distance comes out too large."""


@dataclass(frozen=True)
class FID:
    """Inception and the statistics of the pictures that others are compared with."""

    inception: nn.Module
    mu: Float[np.ndarray, " d"]
    sigma: Float[np.ndarray, "d d"]

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> FID:
        """Load `statistics/*.npz` and `inception/*.pth` from a folder.

        Raises:
            ModelFileError: a file is missing, is one of several, or does not hold what it should.
        """
        mu, sigma = _read_statistics(_only_file(folder / "statistics", "*.npz"))
        inception = _load_inception(_only_file(folder / "inception", "*.pth"))
        return cls(inception.to(device), mu, sigma)

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2048"]:
        """Return the pooled Inception features of 8-bit pictures, which are resized to 299 × 299 as TensorFlow did."""
        return self.inception(images.to(next(self.inception.parameters()).device))[0].cpu()

    def distance(self, features: Float[Tensor, "n 2048"]) -> float:
        """Return the distance between the Gaussians fitted to `features` and to the real pictures' features."""
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

        drawn, real = fid_features_to_statistics(features.double()), {"mu": self.mu, "sigma": self.sigma}
        return fid_statistics_to_metric(drawn, real, verbose=False)[KEY_METRIC_FID]


def _only_file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelFileError(
            f"{folder} must hold one file {pattern}, got {names}; let the source in evaluate.fid name that file itself"
        )
    return found[0]


def _read_statistics(path: Path) -> tuple[np.ndarray, np.ndarray]:
    expected = f"expected an .npz with `mu` ({NUM_FEATURES}) and `sigma` ({NUM_FEATURES}, {NUM_FEATURES})"
    remedy = "make it with torch-fidelity or pytorch-fid from the real pictures, and name it in evaluate.fid.statistics"
    try:
        with np.load(path) as arrays:
            held = {name: arrays[name] for name in arrays.files}
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{path}: {expected}, got a file that is not readable ({error}); {remedy}") from error
    shapes = {name: held[name].shape for name in ("mu", "sigma") if name in held}
    if shapes != {"mu": (NUM_FEATURES,), "sigma": (NUM_FEATURES, NUM_FEATURES)}:
        got = ", ".join(f"`{name}` {array.shape}" for name, array in held.items()) or "nothing"
        raise ModelFileError(f"{path}: {expected}, got {got}; {remedy}")
    return held["mu"].astype(np.float64), held["sigma"].astype(np.float64)


def _load_inception(path: Path) -> nn.Module:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", [str(NUM_FEATURES)], feature_extractor_weights_path=str(path)
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{path}: expected torch-fidelity's Inception weights (weights-inception-2015-12-05-6726825d.pth), "
            f"got others: {error}; name the right file in evaluate.fid.inception"
        ) from error
