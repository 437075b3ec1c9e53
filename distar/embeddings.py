"""Embeddings of a prompt set: computed once, kept in shards of safetensors, read by memory mapping.

SET/00000.safetensors …   rows 0 to n−1, n to 2n−1, …: the tensors of `PromptEmbedding`, batch first
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from distar.diffusion.families.family import TextEncoder
from distar.diffusion.params import EmbeddingParams
from distar.diffusion.prompt import PromptEmbedding
from distar.errors import ModelFileError
from distar.progress import track

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Embeddings:
    """The embeddings of a prompt set, on disk; rows are read when they are asked for.

    Raises:
        ModelFileError: the folder holds no shard.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise ModelFileError(f"{folder} holds no embeddings; run `dvc repro embeddings`")
        self._shards = [PromptEmbedding(load_file(path)) for path in paths]  # maps the file, reads nothing yet

    def __len__(self) -> int:
        return sum(len(shard) for shard in self._shards)

    def __getitem__(self, rows: Int[Tensor, " b"]) -> PromptEmbedding:
        size = len(self._shards[0])
        found = [(self._shards[row // size], row % size) for row in rows.tolist()]
        return PromptEmbedding.cat([shard[row : row + 1] for shard, row in found])


def write_embeddings(folder: Path, encoder: TextEncoder, prompts: Sequence[str], params: EmbeddingParams) -> None:
    """Encode prompts and write their shards into a new folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    with track(f"encode {folder.name}", len(prompts)) as progress:
        for number, start in enumerate(range(0, len(prompts), params.shard_size)):
            shard = prompts[start : start + params.shard_size]
            parts = []
            for first in range(0, len(shard), params.batch_size):
                batch = shard[first : first + params.batch_size]
                parts.append(encoder.encode(batch).to("cpu", DTYPES[params.dtype]))
                progress.advance(len(batch))
            save_file(dict(PromptEmbedding.cat(parts).tensors), folder / f"{number:05d}.safetensors")


def write_null(path: Path, encoder: TextEncoder) -> None:
    """Write the embedding of "no prompt", in fp32."""
    from safetensors.torch import save_file

    save_file({name: tensor.cpu().contiguous() for name, tensor in encoder.encode_null().tensors.items()}, path)


def read_null(path: Path) -> PromptEmbedding:
    """Read what `write_null` wrote.

    Raises:
        ModelFileError: it is not there.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelFileError(f"{path} does not exist; run `dvc repro embeddings`")
    return PromptEmbedding(load_file(path))
