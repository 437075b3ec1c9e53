"""What a command prints."""

from __future__ import annotations

import argparse


def show(options: argparse.Namespace, data: object, shown: object) -> None:
    """Print what a command found: `data` as JSON if `--json` is given, or else `shown`, for people."""
    from rich.console import Console

    if options.json:
        Console().print_json(data=data)
    else:
        Console().print(shown, highlight=False, soft_wrap=isinstance(shown, str))
