"""What torch is told before it computes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TOLD = """
import os, sys
import torch
from distar.params import RuntimeParams
from distar.runtime import prepare_torch
prepare_torch(RuntimeParams(num_threads=1, deterministic=sys.argv[1] == "True", flush_denormal=False))
print(os.environ.get("CUBLAS_WORKSPACE_CONFIG"), torch.get_deterministic_debug_mode())
"""


@pytest.mark.parametrize(("deterministic", "told"), [(True, ":4096:8 2"), (False, "None 0")])
def test_what_makes_a_gpu_slower_is_told_only_where_results_are_to_be_the_same(deterministic: bool, told: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    command = [sys.executable, "-c", TOLD, str(deterministic)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == told
