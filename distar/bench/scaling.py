"""Weak scaling: as many samples a process, on one process and on several, each with a core (or a GPU) of its own.

Run as a module it is one of the processes that are timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from statistics import mean, median
from typing import cast

import torch
from torch import Tensor
from transformers.utils import logging

from distar.bench.iteration import run_iteration
from distar.bench.measure import wait_for
from distar.bench.subject import Subject, bench_runtime, make_subject
from distar.errors import BenchmarkError
from distar.processes import ending_with_us
from distar.progress import track
from distar.runtime import prepare_torch
from distar.training.distribution import distribute

_WARM_UPS = 2  # the first makes the optimizers' states, the second finds the memory for all else beside them
# CUDA's allocator keeps what is freed. glibc's gives large blocks back, and processes then wait for one another in the
# kernel for new pages, which has nothing to do with how they share their training.
_KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1"}
_ENVIRONMENT = _KEEP_FREED_MEMORY | {"OMP_NUM_THREADS": "1"}  # torchrun sets the latter itself, with a warning


def weak_scaling_efficiency(network: str, batch_size: int, rounds: int) -> float | None:
    """Return one process's seconds an iteration over several processes'; None where there is room for one alone.

    Args:
        network: the subject's name.
        batch_size: the samples of an update on each process.
        rounds: how often each is timed. In a round each process has a turn alone while the others wait, so that one
            process is every core (or GPU) once, and then all have one together.

    Raises:
        BenchmarkError: a process failed; what it said is on the standard error.
    """
    processes = torch.cuda.device_count() or min(2, len(os.sched_getaffinity(0)))
    if processes < 2:
        return None
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = ending_with_us([*command, "-m", "distar.bench.scaling", network, str(batch_size), str(rounds)])
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | _ENVIRONMENT)
    if ran.returncode:
        raise BenchmarkError(f"timing {network} on {processes} processes failed; what it said stands above")
    return median(mean(alone) / max(together) for alone, together in json.loads(ran.stdout.strip().splitlines()[-1]))


def _rounds(network: str, batch_size: int, rounds: int) -> list[list[list[float]]]:
    """Return each round's seconds: those of the processes' turns alone, and theirs of the turn together."""
    rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    logging.disable_progress_bar()  # of loading weights
    alone = make_subject(network, device)  # before the group: transformers writes nothing on any but its first
    accelerator = prepare_torch(bench_runtime())
    if device.type == "cpu":
        torch.set_num_threads(1)
    generator, assistant = (
        replace(one, forward=distribute(one.module, [], accelerator)) for one in (alone.generator, alone.assistant)
    )
    together = replace(alone, generator=generator, assistant=assistant)
    reference, batch = alone.family.reference(), alone.batch(batch_size)

    def seconds_with(subject: Subject) -> float:
        begun = time.perf_counter()
        run_iteration(subject, reference, batch, batch_size)
        wait_for(accelerator.device)
        return time.perf_counter() - begun

    measured = []
    with track("measure weak scaling", _WARM_UPS + rounds) as progress:
        for _ in range(_WARM_UPS + rounds):
            mine = 0.0
            for turn in range(accelerator.num_processes):
                accelerator.wait_for_everyone()
                if turn == rank:
                    mine = seconds_with(alone)
            accelerator.wait_for_everyone()
            seconds = torch.tensor([[mine, seconds_with(together)]], dtype=torch.float64, device=accelerator.device)
            measured.append(cast("Tensor", accelerator.gather(seconds)).T.tolist())
            progress.advance()
    return measured[_WARM_UPS:]


if __name__ == "__main__":
    found = _rounds(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    if int(os.environ["RANK"]) == 0:
        print(json.dumps(found))
