"""How fast a release is published to an S3 store, hashing included, beside boto3's `upload_file` of the same file.

    python experiments/publish_throughput.py --endpoint-url http://127.0.0.1:8333 --bucket throughput

Both send parts of the same size with as many threads, turn by turn; credentials come from the environment. The bucket
must exist. What is uploaded is removed again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from boto3.s3.transfer import TransferConfig
from rich.console import Console
from rich.table import Table

from distar.fetching.bucket import Bucket
from distar.fetching.parallel import NUM_THREADS
from distar.hashing import sha256_of
from distar.release.package import write_manifest
from distar.release.releases import publish
from distar.release.s3 import PART_SIZE
from distar.release.storage import blob_name, open_store

FILE = "weights.safetensors"


def main() -> None:
    """Upload the same file both ways, turn by turn, and print the figures."""
    options = parser().parse_args()
    client = Bucket(options.bucket, options.endpoint_url).client
    store = open_store(f"s3://{options.bucket}", options.endpoint_url)
    config = TransferConfig(max_concurrency=NUM_THREADS, multipart_chunksize=PART_SIZE, multipart_threshold=PART_SIZE)
    seconds: dict[str, list[float]] = {"upload_file": [], "publish": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        write_random(file, options.megabytes)
        write_manifest(file.parent)
        key = blob_name(sha256_of(file))
        for _ in range(options.rounds):
            seconds["upload_file"].append(
                timed(lambda: client.upload_file(str(file), options.bucket, FILE, Config=config))
            )
            seconds["publish"].append(timed(lambda: publish(store, file.parent, attach=lambda _: None)))
            for name in (FILE, key):
                client.delete_object(Bucket=options.bucket, Key=name)
    report(seconds, options.megabytes, options.json)


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--endpoint-url", required=True, metavar="URL")
    arguments.add_argument("--bucket", required=True)
    arguments.add_argument("--megabytes", type=int, default=1000, help="size of the file (1000)")
    arguments.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    arguments.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return arguments


def write_random(path: Path, megabytes: int) -> None:
    """Write a file that no store can compress."""
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def report(seconds: Mapping[str, Sequence[float]], megabytes: int, as_json: bool) -> None:
    """Print the medians, and how fast publishing is beside the plain upload."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["upload_file"] / medians["publish"]
    if as_json:
        print(json.dumps({"megabytes": megabytes, "seconds": seconds, "medians": medians, "ratio": ratio}, indent=2))
        return
    rows = Table("", "median", "rate", "all")
    for name, values in seconds.items():
        rate = megabytes / medians[name]
        rows.add_row(name, f"{medians[name]:.2f} s", f"{rate:.0f} MB/s", " ".join(f"{value:.2f}" for value in values))
    Console().print(rows, f"publishing reaches {ratio:.2f} of upload_file's rate", highlight=False)


if __name__ == "__main__":
    main()
