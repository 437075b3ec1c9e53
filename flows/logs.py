"""What flows log, on the terminal and to Prefect's server: without secrets."""

from __future__ import annotations

import logging
from typing import Any

from distar.secrets import without_secrets


def redact_logs() -> None:
    """Have every log record of this process made without secrets, its traceback too."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return
    formatter = logging.Formatter()

    def clean(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        message = _message(record)
        if without_secrets(message) != message:
            _redact(record)
        if record.exc_info and not record.exc_text:
            record.exc_text = without_secrets(formatter.formatException(record.exc_info))
        return record

    clean.redacts = True  # pyright: ignore[reportFunctionMemberAccess]
    logging.setLogRecordFactory(clean)


def _redact(record: logging.LogRecord) -> None:
    """Take the secrets out of a record's arguments, which some formatters want one by one, or write them out."""
    if isinstance(record.args, tuple):
        record.args = tuple(without_secrets(one) for one in record.args)
    message = _message(record)
    clean = without_secrets(message)
    if clean != message:
        record.msg, record.args = clean, None


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # as logging does, which then prints the mistake: the arguments do not fit
        return str(record.msg)
