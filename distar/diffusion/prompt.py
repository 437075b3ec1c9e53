"""What a network is told about its prompts: named tensors with the batch first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class EncodedPrompts(Protocol):
    """Embeddings of many prompts, wherever they are kept; `[rows]` gives those of some."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor, /) -> PromptEmbedding: ...


@dataclass(frozen=True)
class PromptEmbedding:
    """Encoded prompts of one batch.

    Each family decides on the names: `hidden_states` of shape (b, tokens, d) always, and whatever else
    its denoiser wants (pooled embeddings, time ids, attention masks), all with the batch first.
    """

    tensors: Mapping[str, Tensor]

    @classmethod
    def cat(cls, parts: Sequence[PromptEmbedding]) -> PromptEmbedding:
        """Join batches; all must have the same names."""
        return cls({name: torch.cat([p.tensors[name] for p in parts]) for name in parts[0].tensors})

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: Tensor | slice) -> PromptEmbedding:
        return PromptEmbedding({name: tensor[index] for name, tensor in self.tensors.items()})

    def expand(self, batch_size: int) -> PromptEmbedding:
        """Repeat a single prompt for a whole batch, without copying."""
        return PromptEmbedding(
            {name: tensor.expand(batch_size, *tensor.shape[1:]) for name, tensor in self.tensors.items()}
        )

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> PromptEmbedding:
        """Move the embedding; `dtype` changes floating-point tensors alone."""
        return PromptEmbedding(
            {
                name: tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking)
                for name, tensor in self.tensors.items()
            }
        )
