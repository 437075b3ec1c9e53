"""DVC's command line, as flows and audits run it: `python -m distar.dvc repro`.

It is DVC, in a process that hardly looks for garbage and ends without taking itself apart: at every stage DVC reads and
writes dvc.lock, which makes many objects and no garbage to speak of.
"""

from __future__ import annotations

import gc
from typing import NoReturn

from distar.processes import end_process

_NEW_OBJECTS = 100_000  # before Python looks for garbage; 700 without being told


def run() -> NoReturn:
    """Be the process: run DVC's command and end with its status."""
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    from dvc.cli import main

    end_process(main())


if __name__ == "__main__":
    run()
