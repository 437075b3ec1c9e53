"""What is said of a setting that Prefect refuses; Prefect itself cannot be imported then."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError

_FOLLOWS = "default_factory_not_called"  # only since another setting is wrong


def refused_settings(error: ValidationError, environment: Mapping[str, str]) -> str:
    """Return a line that names each setting that Prefect refuses, and does not repeat it: some are secret."""
    told = []
    for one in error.errors():
        if one["type"] == _FOLLOWS:
            continue
        setting = str(one["loc"][-1] if one["loc"] else error.title)
        like = [
            name for name in environment if re.fullmatch(rf"PREFECT_(.+_)?{re.escape(setting)}", name, re.IGNORECASE)
        ]
        part = error.title.removesuffix("Settings").upper()  # such as SERVEREPHEMERAL
        variables = [name for name in like if part in name.upper().replace("_", "")] or like
        problem = one["msg"].splitlines()[0].partition(": [")[0]
        told.append(f"{' or '.join(variables) or f'{setting!r} in your Prefect profile'}: {problem}")
    return f"Prefect refuses its settings: {'; '.join(told)}; correct or unset them"
