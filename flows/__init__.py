"""Prefect flows over the DVC stages; nothing here imports torch."""

import os

from distar.imports import lasting_imports

# Before Prefect is imported: its temporary server has 20 seconds to start, which a busy laptop does not make.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

with lasting_imports():
    import prefect.main  # noqa: F401  here alone, since all flows need it

from flows.logs import redact_logs

redact_logs()
