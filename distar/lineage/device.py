"""What computed: DVC cannot tell a CPU's run from a GPU's, so each stage that computes records it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch


def describe_device(device: torch.device) -> dict[str, Any]:
    """Describe the device of this process.

    `class` names all that must agree for two runs to be compared bit by bit: the GPU's name and driver, or the
    vector instructions and the number of threads of a CPU.
    """
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        driver = _nvidia_driver()
        return {
            "type": "cuda",
            "class": f"{properties.name}, CUDA {torch.version.cuda}, driver {driver}",
            "name": properties.name,
            "driver": driver,
            "memory_bytes": properties.total_memory,
            "count": torch.cuda.device_count(),
        }
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return {
        "type": device.type,
        "class": f"{device.type} {platform.machine()} {capability}, {threads} threads",
        "name": _cpu_name(),
        "driver": None,
        "threads": threads,
        "count": 1,
    }


def _nvidia_driver() -> str | None:
    if not shutil.which("nvidia-smi"):
        return None  # a container may have the GPU without the tool
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return lines[0] if lines else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()  # not Linux
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
