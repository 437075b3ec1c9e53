"""Prefect flows over the DVC stages; nothing here imports torch."""

import os
import sys
from urllib.parse import urlsplit

from pydantic import ValidationError

from distar.imports import lasting_imports
from distar.loopback import without_proxy

# Before Prefect is imported: its temporary server has 20 seconds to start, which a busy laptop does not make.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# For this process and for all that it starts: Prefect's temporary server, a hub or an S3 server on the loopback.
os.environ.update(without_proxy(os.environ))

try:  # Prefect would end in a traceback while it is imported, where nobody is there yet to tell of an error
    urlsplit(os.environ.get("PREFECT_API_URL", ""))
except ValueError as error:
    sys.exit(f"PREFECT_API_URL is no URL ({error}); expected one such as http://127.0.0.1:4200/api")

try:
    with lasting_imports():
        import prefect.main  # noqa: F401  here alone, since all flows need it
except ValidationError as error:
    wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]]
    sys.exit(f"Prefect refuses a setting ({'; '.join(wrong)}); correct the variable PREFECT_…, or Prefect's profile")

from flows.logs import redact_logs

redact_logs()
