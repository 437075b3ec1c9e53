"""Prefect flows over the DVC stages; nothing here imports torch."""

import os
import sys
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit
from warnings import catch_warnings, filterwarnings

from pydantic import ValidationError

from distar.imports import lasting_imports
from distar.loopback import without_proxy
from distar.secrets import without_secrets
from flows.logs import redact_logs
from flows.settings import refused_settings

# Before Prefect is imported: a temporary server has 20 seconds to start, which a busy laptop does not make.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
# For this process and for all that it starts: Prefect's temporary server, a hub or an S3 server on the loopback.
os.environ.update(without_proxy(os.environ))

try:
    f"{Path.cwd()}{tempfile.gettempdir()}".encode()
except UnicodeEncodeError:  # neither Prefect nor DVC can write such a name into their documents
    sys.exit("the name of this folder, or of TMPDIR, is no UTF-8 to Python; set PYTHONUTF8=1, or rename the folder")
try:  # Prefect would end in a traceback while it is imported, where nobody is there yet to tell of an error
    urlsplit(os.environ.get("PREFECT_API_URL", ""))
except ValueError as error:
    sys.exit(f"PREFECT_API_URL is no URL ({error}); expected one such as http://127.0.0.1:4200/api")

_printed = StringIO()
try:
    with lasting_imports(), catch_warnings():
        filterwarnings("ignore", "Failed to create the Prefect home")  # the temporary server tells of it
        with redirect_stderr(_printed):  # of a setting that it refuses Prefect prints lines of its own
            import prefect
        import prefect.main  # noqa: F401  here alone, since all flows need it; its log goes to what is stderr now
except ValidationError as error:
    sys.exit(refused_settings(error, os.environ))
except (OSError, ValueError) as error:  # of the profiles: a file that cannot be read, or is no TOML
    sys.exit(without_secrets(f"Prefect's settings cannot be read ({' '.join(str(error).split())}); correct them"))
sys.stderr.write(_printed.getvalue())

redact_logs()
