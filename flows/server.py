"""All of it on this box, in the foreground: Prefect's server and pages, an S3 server, and the served deployments.

    make server

Everything is kept below .distar/server: the runs, the releases, the generated credentials, the logs. Ctrl-C ends all of
it. Retrains publish to the S3 server, whatever params.yaml says.

Any web page in a browser of this machine can reach the ports of the loopback, by any name. So whoever asks must show
what this user alone can read: Prefect's API wants the authentication string, S3 wants signed requests, and the rest of
SeaweedFS takes no HTTP requests, or wants a token that it alone makes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn, TextIO
from urllib.request import urlopen

from rich.console import Console

from distar.atomic import written_whole
from distar.errors import DistarError, StorageError
from distar.locking import take_lock
from distar.loopback import without_proxy
from distar.processes import ending_with_us
from distar.shared_params import load_shared
from flows.commands import end_group

ROOT = Path(".distar/server")
STORE = "s3://distar/releases"
PREFECT_PORT, S3_PORT = 4200, 8333

_HOST = "127.0.0.1"
_AUTH_STRING = re.compile(r"distar:[0-9a-f]{32}")
_SECONDS_TO_START = 120.0


@dataclass(frozen=True)
class Service:
    """A process that is to run until all end, and where it logs."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, healthy: Callable[[Path], bool]) -> None:
        """Wait until it is well, as its log or its answers tell.

        Raises:
            StorageError: it ended, or is not well in time; the message holds the last lines of its log.
        """
        deadline = time.monotonic() + _SECONDS_TO_START
        while not healthy(self.log):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.failed("did not start")
            time.sleep(0.2)

    def failed(self, how: str) -> StorageError:
        """Make the error for a service that does not run."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return StorageError(f"{self.name} {how}; the last lines of {self.log}:\n" + "\n".join(lines))


@contextmanager
def running(name: str, command: Sequence[str], environment: Mapping[str, str], lock: TextIO) -> Iterator[Service]:
    """Run a command as a process group of its own, which ends with this process, however that ends.

    It holds the lock, too: if this process is killed, none takes its place before the command has ended.
    """
    log = ROOT / "logs" / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ending_with_us(command),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
    try:
        yield Service(name, process, log)
    finally:
        Console().print(f"ending {name}")
        end_group(process)


def serve() -> NoReturn:
    """Start everything, tell where it is, and wait; ends with the first service that ends.

    Raises:
        ParameterError: params.yaml is wrong.
        WorkDirectoryError: a server runs here already.
        StorageError: a service did not start, or ended.
    """
    load_shared()
    console = Console()
    (ROOT / "logs").mkdir(parents=True, exist_ok=True)
    ROOT.chmod(0o700)
    with take_lock(ROOT / "lock") as lock, ExitStack() as stack:
        prefect_port, s3_port = free_port(PREFECT_PORT, console), free_port(S3_PORT, console)
        environment = _environment(prefect_port, s3_port)
        api_url, auth_string = environment["PREFECT_API_URL"], environment["PREFECT_API_AUTH_STRING"]
        prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", _HOST, "--port", str(prefect_port)]
        deployments = [sys.executable, "-m", "flows.deployments", "serve", "--store", STORE]
        services = []
        for name, command, own, healthy in (
            ("prefect", prefect, _of_prefect(api_url, auth_string), lambda _: _answers(f"{api_url}/health")),
            ("s3", seaweedfs(s3_port), seaweedfs_keys(), lambda _: _has_bucket(environment)),
            ("deployments", deployments, {}, lambda log: "are being served" in log.read_text()),
        ):
            with console.status(f"starting {name}"):
                services.append(stack.enter_context(running(name, command, {**environment, **own}, lock)))
                services[-1].wait_until(healthy)
        tell(console, prefect_port, s3_port, auth_string)
        while True:
            for service in services:
                if service.process.poll() is not None:
                    raise service.failed(f"ended with status {service.process.returncode}")
            time.sleep(0.5)


def _environment(prefect_port: int, s3_port: int) -> dict[str, str]:
    """Return what all services are told; what their users need of it is also written to a file."""
    of_users = {
        "PREFECT_API_URL": f"http://{_HOST}:{prefect_port}/api",
        "PREFECT_API_AUTH_STRING": authentication_string(ROOT / "auth_string"),
        "AWS_ENDPOINT_URL": f"http://{_HOST}:{s3_port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        **credentials(ROOT / "s3.json"),
        **without_proxy(os.environ),
    }
    _write_secret(ROOT / "environment", "".join(f"{name}={value}\n" for name, value in of_users.items()))
    return {
        **of_users,
        "PREFECT_HOME": str((ROOT / "prefect").absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def _of_prefect(api_url: str, auth_string: str) -> dict[str, str]:
    """Return what Prefect's server alone is told: whom it answers."""
    page = api_url.removesuffix("/api")
    return {
        "PREFECT_SERVER_API_AUTH_STRING": auth_string,
        # the page's own, by either name; this setting goes before its older name
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"{page},{page.replace(_HOST, 'localhost')}",
        "PREFECT_UI_API_URL": api_url,
    }


def seaweedfs_keys() -> dict[str, str]:
    """Draw the keys, as variables, of the tokens that SeaweedFS's parts show to one another."""
    names = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
    return {f"WEED_JWT_{name}_KEY": secrets.token_hex(32) for name in names}


def free_port(wanted: int, console: Console) -> int:
    """Return the wanted port of the loopback, or another if it is in use, and tell."""
    for port in (wanted, 0):
        try:
            with socket.create_server((_HOST, port)) as server:
                chosen = server.getsockname()[1]
        except OSError:
            continue
        if chosen != wanted:
            console.print(f"port {wanted} is in use; taking {chosen}")
        return chosen
    raise StorageError(f"no port of {_HOST} is free")


def authentication_string(path: Path) -> str:
    """Return what Prefect's API asks for, drawn at the first start and kept: browsers and terminals keep it, too."""
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    if not _AUTH_STRING.fullmatch(kept):
        kept = f"distar:{secrets.token_hex(16)}"
    _write_secret(path, kept)
    return kept


def credentials(path: Path) -> dict[str, str]:
    """Return the S3 server's credentials, as variables; they are drawn at the first start and kept in its settings."""
    if not path.exists():
        drawn = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(20)}
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        identity = {"name": "distar", "credentials": [drawn], "actions": actions}
        _write_secret(path, json.dumps({"identities": [identity]}))
    (kept,) = json.loads(path.read_text(encoding="utf-8"))["identities"][0]["credentials"]
    return {"AWS_ACCESS_KEY_ID": kept["accessKey"], "AWS_SECRET_ACCESS_KEY": kept["secretKey"]}


def seaweedfs(s3_port: int) -> list[str]:
    """Return the command of the S3 server; all ports but its own are whatever is free."""
    folder = (ROOT / "s3").absolute()
    folder.mkdir(exist_ok=True)
    names = ("master", "volume", "filer", "s3")
    flags = [f"-{name}.port{kind}" for name in names for kind in ("", ".grpc") if (name, kind) != ("s3", "")]
    sockets = [socket.create_server((_HOST, 0)) for _ in flags]
    ports = [f"{flag}={one.getsockname()[1]}" for flag, one in zip(flags, sockets, strict=True)]
    for one in sockets:
        one.close()
    return [
        str(Path(sys.executable).parent / "weed"),
        "server",
        f"-dir={folder}",
        "-s3",
        f"-s3.config={(ROOT / 's3.json').absolute()}",
        f"-s3.port={s3_port}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-disableHttp",  # the master's, which asks for no token
        "-filer.disableHttp",
        f"-ip={_HOST}",
        f"-ip.bind={_HOST}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=1000",
        "-volume.preStopSeconds=0",  # nobody else reads from these volumes
        *ports,
    ]


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310  our own server's
            return answer.status == HTTPStatus.OK
    except OSError:
        return False


def _has_bucket(environment: Mapping[str, str]) -> bool:
    """Make the bucket of the releases, if it is not there; tell whether it is."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    bucket = STORE.split("/")[2]
    try:
        if bucket not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError):
        return False
    return True


def _write_secret(path: Path, text: str) -> None:
    """Write a file that its owner alone may read."""
    with written_whole(path) as partial:
        partial.touch(mode=0o600)
        partial.write_text(text, encoding="utf-8")


def tell(console: Console, prefect_port: int, s3_port: int, auth_string: str) -> None:
    """Tell where everything is; a narrow terminal folds the lines itself, so that what is copied is whole."""
    rows = {
        "runs, schedules, events": f"http://{_HOST}:{prefect_port}",
        "which asks for": auth_string,
        "releases": f"{STORE} at http://{_HOST}:{s3_port}",
        "logs": str(ROOT / "logs"),
        "": "",
        "first, in another terminal": f"set -a; . {ROOT}/environment; set +a",
        "begin a retrain": "prefect deployment run distar-retrain/retrain",
        "watch the champion": "prefect deployment run distar-watch/watch",
        "announce prompts": "python -m flows.promptset NAME",
        "see releases": f"distar release list --store {STORE}",
        "end it all": "Ctrl-C here",
    }
    for name, told in rows.items():
        console.print(f"{name:26}  {told}".rstrip(), markup=False, soft_wrap=True)


def main() -> int:
    """Run until ended; return the process's exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        serve()
    except KeyboardInterrupt:
        return 0
    except DistarError as error:
        print(f"server: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
