"""Measure how training's threads should wait for one another, alone and beside a second training.

    python experiments/busy_machine.py --seconds 10

An iteration of `tiny` on as many threads as its profile says, in a process of its own: for some seconds alone, then two
at once. OpenMP's threads spin while they wait, unless they are told otherwise before torch is imported. Where other
work wants the cores, that time is lost to both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from typing import Any

WAITING = {
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "as OpenMP has it": {},
}


_BATCH, _WARM_UPS = 4, 2


def main() -> None:
    """Measure each way of waiting, or be one of the processes that are measured."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=10.0, help="how long each process computes (10)")
    arguments.add_argument("--iterate", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.iterate:
        print(json.dumps(iterate(options.seconds)))
        return
    for name, variables in WAITING.items():
        print(json.dumps({"waiting": name, **measure(options.seconds, variables)}), flush=True)


def measure(seconds: float, variables: dict[str, str]) -> dict[str, Any]:
    """Return iterations a second alone, and of each of two at once, and the load of the minute before."""
    load = os.getloadavg()[0]
    (alone,), together = run(1, seconds, variables), run(2, seconds, variables)
    return {
        "load": round(load, 1),
        "alone": alone["iterations_a_second"],
        "two_at_once": [one["iterations_a_second"] for one in together],
        "weights": sorted({one["weights"] for one in (alone, *together)}),
    }


def run(processes: int, seconds: float, variables: dict[str, str]) -> list[dict[str, Any]]:
    """Let some processes iterate at once."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--iterate", "--seconds", str(seconds)]
    started = [
        subprocess.Popen(command, env=inherited | variables, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return [json.loads(process.communicate()[0]) for process in started]


def iterate(seconds: float) -> dict[str, Any]:
    """Iterate for a while; say how fast, and hash the generator's weights after the first ones."""
    import torch

    from distar.bench.iteration import run_iteration
    from distar.bench.subject import bench_runtime, make_subject
    from distar.runtime import prepare_torch

    prepare_torch(bench_runtime())
    subject = make_subject("tiny", torch.device("cpu"))
    reference, batch = subject.family.reference(), subject.batch(_BATCH)
    for _ in range(_WARM_UPS):
        run_iteration(subject, reference, batch, _BATCH)
    weights = hashlib.sha256()
    for parameter in subject.generator.module.parameters():
        weights.update(parameter.detach().numpy().tobytes())
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        run_iteration(subject, reference, batch, _BATCH)
        count += 1
    speed = count / (time.perf_counter() - begun)
    return {"iterations_a_second": round(speed, 2), "weights": weights.hexdigest()[:16]}


if __name__ == "__main__":
    main()
