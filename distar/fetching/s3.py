"""Sources in an S3 store, `s3://bucket/path`; credentials and AWS_ENDPOINT_URL come from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distar.credentials import refuse_in_environment
from distar.errors import StorageError
from distar.fetching.parallel import NUM_THREADS
from distar.fetching.source import FileMissingError, Known, Pin, Reading, TemporaryError, below, possible_places

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_SOURCE = re.compile(r"s3://(?P<bucket>[^/]+)(?:/(?P<root>.*[^/]))?/?")
_CHUNK = 256 * 1024
_REMEDY_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_TOLD = {  # by what the store calls it, or by the status alone: a HEAD is answered without a name
    "NoSuchBucket": "there is no such bucket; check its name, or create it",
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
        f"the store refuses the credentials ({{code}}); {_REMEDY_CREDENTIALS}",
    ),
    **dict.fromkeys(
        ("AccessDenied", "AllAccessDisabled", "403"),
        "these credentials may not do this ({code}); docs/releases.md lists the permissions that are needed",
    ),
    **dict.fromkeys(
        ("RequestTimeTooSkewed", "RequestExpired"),
        "this machine's clock differs from the store's ({code}); set the clock and run again",
    ),
    **dict.fromkeys(
        ("SlowDown", "ServiceUnavailable", "TooManyRequests", "Throttling", "RequestLimitExceeded", "429", "503"),
        "the store is too busy ({code}, tried {tries} times); run again later, or let AWS_MAX_ATTEMPTS be larger",
    ),
    **dict.fromkeys(
        ("InternalError", "500"),
        "the store fails ({code}: {message}, tried {tries} times); look at its log: a full one may say no more",
    ),
    **dict.fromkeys(
        ("QuotaExceeded", "507"),
        "the store has no space left ({code}: {message}); free some and run again",
    ),
}


def s3_client(endpoint_url: str | None = None) -> Any:
    """Make a client from the environment; `endpoint_url`, or AWS_ENDPOINT_URL, names a store other than Amazon's.

    Raises:
        ParameterError: such a variable holds more than an address.
    """
    import boto3
    from botocore.config import Config

    refuse_in_environment("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
    config = Config(
        connect_timeout=10, read_timeout=30, max_pool_connections=2 * NUM_THREADS, retries={"mode": "standard"}
    )
    session = boto3.Session()  # the default session would keep the first credentials
    return session.client("s3", endpoint_url=endpoint_url, config=config)


@dataclass(frozen=True)
class S3Folder:
    """A bucket, or a folder or file of it."""

    url: str
    bucket: str
    root: str

    @classmethod
    def parse(cls, text: str) -> S3Folder | None:
        """Understand `s3://bucket/path`, or return None."""
        match = _SOURCE.fullmatch(text)
        return cls(text, match["bucket"], match["root"] or "") if match else None

    def files(self, patterns: tuple[str, ...]) -> dict[str, Known]:
        """Return the files that match; S3 knows no sha256 of whole files."""
        with s3_errors_told(self.url):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.root)
            paths = {
                entry["Key"]: Known(entry["Key"], entry["Size"], None)
                for page in pages
                for entry in page.get("Contents", ())
                if not entry["Key"].endswith("/")  # markers that some tools leave for folders
            }
        return below(self.root, paths, patterns, self.url)

    def places(self, name: str) -> list[str]:
        """Return where the file may lie."""
        return possible_places(self.root, name)

    def at_hand(self, place: str, pin: Pin) -> Path | None:
        """Return None: nothing of S3 is on this machine."""
        return None

    @contextmanager
    def read(self, place: str, start: int) -> Iterator[Reading]:
        """Open a file at byte `start`."""
        with s3_errors_told(f"s3://{self.bucket}/{place}"):
            wanted = {"Range": f"bytes={start}-"} if start else {}
            answer = self._client.get_object(Bucket=self.bucket, Key=place, **wanted)
            begins = start if "ContentRange" in answer else 0
            with closing(answer["Body"]) as body:
                yield Reading(
                    begins,
                    begins + answer["ContentLength"],
                    answer.get("ContentType", "of unknown type"),
                    body.iter_chunks(_CHUNK),
                )

    def put(self, path: Path, name: str) -> None:
        """Store a file; it appears whole or not at all."""
        from boto3.s3.transfer import TransferConfig

        key = f"{self.root}/{name}" if self.root else name
        with s3_errors_told(f"s3://{self.bucket}/{key}"):
            self._client.upload_file(str(path), self.bucket, key, Config=TransferConfig(use_threads=False))

    @cached_property
    def _client(self) -> Any:
        return s3_client()


@contextmanager
def s3_errors_told(url: str, endpoint_url: str | None = None) -> Iterator[None]:
    """Turn what S3 and its client say into errors with a remedy.

    Raises:
        FileMissingError: there is no such object.
        StorageError: credentials are missing or refused, there is no such bucket, or the store cannot be reached, is
            too busy or full.
        TemporaryError: the connection broke while an object was read.
    """
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        IncompleteReadError,
        NoCredentialsError,
        PartialCredentialsError,
        ReadTimeoutError,
        ResponseStreamingError,
    )

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StorageError(f"{url}: there are no credentials for S3; {_REMEDY_CREDENTIALS}") from error
    except ClientError as error:
        raise _told(error, url) from error
    except S3UploadFailedError as error:
        cause = error.__context__
        raise (_told(cause, url) if isinstance(cause, ClientError) else StorageError(f"{url}: {error}")) from error
    except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError) as error:
        raise TemporaryError(f"{url}: the connection broke ({error}); run again") from error
    except BotoCoreError as error:
        name = "publish.endpoint_url" if endpoint_url else "AWS_ENDPOINT_URL"
        named = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get(name, "Amazon's S3")
        raise StorageError(f"{url}: {named} cannot be reached ({error}); check the network and {name}") from error


def _told(error: ClientError, url: str) -> Exception:
    code, message = (error.response.get("Error", {}).get(key, "") for key in ("Code", "Message"))
    about = error.response.get("ResponseMetadata", {})
    if code in {"NoSuchKey", "404"}:
        return FileMissingError(f"{url}: there is no such object")
    text = _TOLD.get(code) or _TOLD.get(str(about.get("HTTPStatusCode")), "the store answers {code}: {message}")
    tries = 1 + about.get("RetryAttempts", 0)
    return StorageError(f"{url}: {text.format(code=code, message=message, tries=tries)}")
