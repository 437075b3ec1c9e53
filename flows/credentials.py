"""What compose.yaml runs before all else: it refuses credentials that everyone knows, or can guess.

    python -m flows.credentials NAME...

Each NAME is an environment variable that holds one.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence

from distar.errors import DistarError, ParameterError

_PLACEHOLDER = re.compile(r"change\W*me", re.IGNORECASE)
_SHORTEST = 16


def check_credentials(names: Sequence[str], environment: Mapping[str, str]) -> None:
    """Check that each credential is there, is not the template's, and is too long to guess.

    Raises:
        ParameterError: one is not; the message does not repeat it.
    """
    wrong = []
    for name in names:
        value = environment.get(name, "").strip()
        if _PLACEHOLDER.search(value):
            wrong.append(f"{name} is the template's placeholder")
        elif len(value) < _SHORTEST:
            wrong.append(f"{name} has {len(value)} characters, fewer than {_SHORTEST}")
    if wrong:
        raise ParameterError(
            f"{'; '.join(wrong)}; write credentials of your own into .distar/compose.env: "
            "`openssl rand -hex 24` draws one"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the credentials; return the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="an environment variable")
    options = parser.parse_args(arguments)
    try:
        check_credentials(options.names, os.environ)
    except DistarError as error:
        print(f"credentials: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
