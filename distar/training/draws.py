"""What updates draw: prompts, noises and times, from seeds of their own, made ready ahead of their use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from distar.diffusion.prompt import EncodedPrompts
from distar.errors import ParameterError
from distar.seeding import generator as draws
from distar.training.params import TrainParams
from distar.training.step import Batch


@dataclass(frozen=True)
class PromptData:
    """The training prompts and their embeddings, encoded once, kept on the CPU or on disk."""

    prompts: tuple[str, ...]
    embedding: EncodedPrompts


@dataclass(frozen=True)
class Draws:
    """Draw an update's batch: of `train.batch_size` samples among all processes, this process's share.

    What is drawn depends on the seed and on what it is for, not on the number of processes.

    Raises:
        ParameterError: the processes cannot share a batch evenly.
    """

    params: TrainParams
    seed: int
    data: PromptData
    latent_shape: tuple[int, int, int]
    accelerator: Accelerator

    def __post_init__(self) -> None:
        if self.params.batch_size % self.accelerator.num_processes:
            raise ParameterError(
                f"train.batch_size is {self.params.batch_size}, which {self.accelerator.num_processes} processes cannot"
                " share evenly; choose a multiple of their number"
            )

    def __call__(self, purpose: str) -> Batch:
        """Draw for one purpose; on the CPU, so that a seed names the same noise on every device."""
        size, times = self.params.batch_size, self.params.timesteps
        share = size // self.accelerator.num_processes
        mine = slice(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)
        rng = draws(self.seed, purpose)
        index = torch.randint(len(self.data.prompts), (size,), generator=rng)[mine]
        noise, eps = (torch.randn(size, *self.latent_shape, generator=rng)[mine] for _ in range(2))
        timestep = torch.randint(times.minimum, times.maximum, (size,), generator=rng)[mine]
        prompts = tuple(self.data.prompts[i] for i in index.tolist())
        return Batch(prompts, self.data.embedding[index], noise, eps, timestep).to(self.accelerator.device)


def ahead(draw: Callable[[str], Batch], purposes: Iterable[str]) -> Iterator[Batch]:
    """Draw for one purpose after the other, each while the batch before it is worked with."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        following = None
        for purpose in purposes:
            current, following = following, thread.submit(draw, purpose)
            if current is not None:
                yield current.result()
        if following is not None:
            yield following.result()
