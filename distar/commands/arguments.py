"""Kinds of arguments."""

from __future__ import annotations

import argparse
from typing import NoReturn

from distar.secrets import without_secrets


class Parser(argparse.ArgumentParser):
    """A parser whose messages repeat no secret of the command line."""

    def error(self, message: str) -> NoReturn:
        """Print a message without secrets, and end the process."""
        super().error(without_secrets(message))


def positive(text: str) -> int:
    """Read a whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is 0 or less.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {value}")
    return value


def non_negative(text: str) -> float:
    """Read a number from 0 on.

    Raises:
        argparse.ArgumentTypeError: it is below 0, or not a number.
    """
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return value
