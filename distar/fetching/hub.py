"""Sources on the Hugging Face hub, `hf://owner/name@revision[/path]`.

Files are read with ranged requests through the hub client's session, so HF_ENDPOINT and HF_TOKEN mean what they
always mean. The client's own `hf_hub_download` begins each file afresh after a kill.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from distar.credentials import refuse_in_environment
from distar.errors import ModelFileError, StorageError
from distar.fetching.source import FileMissingError, Known, Pin, Reading, TemporaryError, below, possible_places
from distar.fetching.transport import AnswerError, paced
from distar.hashing import sha256_of

_SOURCE = re.compile(
    r"hf://(?P<kind>datasets/)?(?P<repository>[^/@]+/[^/@]+)@(?P<revision>[0-9a-f]{40})(?:/(?P<root>.*[^/]))?/?"
)
_MOVING_SOURCE = re.compile(r"hf://(?P<kind>datasets/)?(?P<repository>[^/@]+/[^/@]+)@(?P<name>[^/@]+)(?P<path>/.*)?")
_SECONDS_OF_SILENCE = 30.0


@dataclass(frozen=True)
class HubRepository:
    """A repository at a revision, or a folder or file of it."""

    url: str
    kind: str
    repository: str
    revision: str
    root: str

    @classmethod
    def parse(cls, text: str) -> HubRepository | None:
        """Understand `hf://[datasets/]owner/name@revision[/path]`, or return None."""
        match = _SOURCE.fullmatch(text)
        if match is None:
            return None
        kind = "dataset" if match["kind"] else "model"
        return cls(text, kind, match["repository"], match["revision"], match["root"] or "")

    def files(self, patterns: tuple[str, ...]) -> dict[str, Known]:
        """Return the files that match, with the sha256 of those that the hub keeps as large files."""
        paths = {}
        for file in self.info().siblings or ():
            if file.size is None:
                raise ModelFileError(f"{self.url}: the hub tells no sizes of files; set HF_ENDPOINT to one that does")
            paths[file.rfilename] = Known(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None)
        return below(self.root, paths, patterns, self.url)

    def info(self) -> Any:
        """Return what the hub tells of the repository at the revision."""
        from huggingface_hub import HfApi

        self._check_settings("its list of files")
        ask = HfApi().dataset_info if self.kind == "dataset" else HfApi().model_info
        with self._errors_told(self.url):
            return ask(self.repository, revision=self.revision, files_metadata=True, timeout=_SECONDS_OF_SILENCE)

    def places(self, name: str) -> list[str]:
        """Return where the file may lie."""
        return possible_places(self.root, name)

    def at_hand(self, place: str, pin: Pin) -> Path | None:
        """Return the file from the hub client's own cache, if it is there and the pinned one."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(self.repository, place, revision=self.revision, repo_type=self.kind)
        if not isinstance(cached, str) or sha256_of(Path(cached)) != pin["sha256"]:
            return None
        return Path(cached)

    @contextmanager
    def read(self, place: str, start: int) -> Iterator[Reading]:
        """Open a file at byte `start`."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        self._check_settings(place)
        url = hf_hub_url(self.repository, place, revision=self.revision, repo_type=self.kind)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            self._errors_told(f"{self.url}: {place}"),
            get_session().stream("GET", url, headers=headers, timeout=_SECONDS_OF_SILENCE) as response,
        ):
            hf_raise_for_status(response)
            length = response.headers.get("Content-Length")
            begins = start if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
            yield Reading(
                begins,
                begins + int(length) if length and length.isdecimal() else None,
                response.headers.get("Content-Type", "of unknown type"),
                paced(response.iter_bytes()),
            )

    def _check_settings(self, what: str) -> None:
        from huggingface_hub.constants import is_offline_mode

        refuse_in_environment("HF_ENDPOINT")
        if is_offline_mode():
            raise ModelFileError(
                f"{self.url}: {what} is neither among the downloads, nor in the hub's cache, nor in a mirror, and "
                "HF_HUB_OFFLINE is set; unset it, or fill a mirror where there is a network (`distar models mirror`)"
            )

    @contextmanager
    def _errors_told(self, shown_as: str) -> Iterator[None]:
        import httpx2
        from huggingface_hub.constants import ENDPOINT
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            RemoteEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        page = f"{ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.repository}"
        try:
            yield
        except AnswerError as error:
            raise StorageError(f"{shown_as}: {error}") from error
        except GatedRepoError as error:
            raise ModelFileError(
                f"{shown_as}: the repository is gated; accept its licence at {page}, and set HF_TOKEN to a token "
                "of the account that did"
            ) from error
        except RepositoryNotFoundError as error:
            raise ModelFileError(
                f"{shown_as}: there is no repository {self.repository}, or it is private; check its name, and set "
                "HF_TOKEN if it is private"
            ) from error
        except RevisionNotFoundError as error:
            raise ModelFileError(
                f"{shown_as}: the repository has no revision {self.revision}; choose one at {page}/commits/main"
            ) from error
        except RemoteEntryNotFoundError as error:
            raise FileMissingError(f"{shown_as}: the repository has no such file at this revision") from error
        except HfHubHTTPError as error:
            raise _told(error, shown_as, page) from error
        except httpx2.RequestError as error:
            raise TemporaryError(
                f"{shown_as}: {ENDPOINT} cannot be reached ({type(error).__name__}: {error}); check the network and "
                "HF_ENDPOINT, and run again"
            ) from error
        except (httpx2.InvalidURL, ValueError) as error:
            if isinstance(error, ValueError) and "proxy" not in str(error):
                raise
            raise ModelFileError(  # the client's own text repeats a piece of the address: it may be of a password
                f"{shown_as}: the address of a proxy or of the hub cannot be understood; correct or unset those of "
                "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and HF_ENDPOINT that are set: http://host:port, and in a user or a "
                "password %2F for /, %40 for @, %3A for :"
            ) from None


def source_at_revision(text: str) -> str | None:
    """Rewrite a source that names a branch or a tag to the revision at which it stands; None if it names none.

    Raises:
        ModelFileError: the hub refuses, or has no such branch or tag.
        TemporaryError: it cannot be reached for now.
    """
    match = _MOVING_SOURCE.fullmatch(text)
    if match is None:
        return None
    kind = match["kind"] or ""
    info = HubRepository(text, "dataset" if kind else "model", match["repository"], match["name"], "").info()
    return f"hf://{kind}{match['repository']}@{info.sha}{match['path'] or ''}"


def _told(error: Exception, shown_as: str, page: str) -> Exception:
    from huggingface_hub.utils import parse_ratelimit_headers

    response = error.response  # pyright: ignore[reportAttributeAccessIssue]
    status = response.status_code
    match status:
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            return ModelFileError(
                f"{shown_as}: access is refused ({status}); check that HF_TOKEN is valid and may read {page}"
            )
        case HTTPStatus.NOT_FOUND:
            return FileMissingError(f"{shown_as}: there is no such file ({status})")
        case HTTPStatus.TOO_MANY_REQUESTS:
            limit = parse_ratelimit_headers(response.headers)
            after = response.headers.get("Retry-After", "")
            seconds = float(after) if after.isdecimal() else limit and float(limit.reset_in_seconds)
            return TemporaryError(
                f"{shown_as}: the hub limits the rate of requests (429); wait some minutes and run again, or set "
                "HF_TOKEN, which raises the limit",
                seconds,
            )
        case HTTPStatus.REQUEST_TIMEOUT | 500 | 502 | 503 | 504:
            after = response.headers.get("Retry-After", "")
            return TemporaryError(
                f"{shown_as}: the server fails ({status}); run again later", float(after) if after.isdecimal() else None
            )
        case _:
            return ModelFileError(f"{shown_as}: the server answers {status}: {error}")
