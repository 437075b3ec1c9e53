"""Prefect flows over the DVC stages; nothing here imports torch."""

import os

# Before Prefect is imported: its temporary server has 20 seconds to start, which a busy laptop does not make.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
