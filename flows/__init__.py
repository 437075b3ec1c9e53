"""Prefect flows over the DVC stages; nothing here imports torch."""

import os
import sys

from distar.imports import lasting_imports
from distar.loopback import without_proxy

# Before Prefect is imported: its temporary server has 20 seconds to start, which a busy laptop does not make.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# For this process and for all that it starts: Prefect's temporary server, a hub or an S3 server on the loopback.
os.environ.update(without_proxy(os.environ))

with lasting_imports():
    try:
        import prefect.main  # noqa: F401  here alone, since all flows need it
    except ValueError as error:  # while Prefect reads its settings, nobody is there yet to tell of an error
        sys.exit(
            f"Prefect does not understand its settings ({' '.join(str(error).split())}); correct the variables "
            "PREFECT_… of the environment, such as PREFECT_API_URL=http://127.0.0.1:4200/api, or Prefect's profile"
        )
