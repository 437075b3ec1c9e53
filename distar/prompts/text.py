"""Text files of unknown origin: unpacked, decoded and cut into lines, or refused with what to do."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from distar.errors import PromptError

MAX_BYTES = 512 * 1024**2
_BOMS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\0\0": "utf-32",  # before UTF-16's, which it begins with
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_NO_TEXT = {
    b"PAR1": "a parquet file; set `format: parquet`",
    b"ARROW1": "an Arrow file; set `format: parquet`, which reads it too",
    b"\x80": "a pickle; set `format: pickle_list` if it holds a list of strings",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or export it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it with `unzstd`, or compress it with gzip",
    b"BZh": "compressed with bzip2; unpack it with `bunzip2`, or compress it with gzip",
    b"\xfd7zXZ\0": "compressed with xz; unpack it with `unxz`, or compress it with gzip",
    b"\x89PNG": "a picture; name a file of prompts",
    b"\xff\xd8\xff": "a picture; name a file of prompts",
    b"%PDF": "a PDF document; export its text",
    b"SQLite format 3\0": "a SQLite database; export the prompts as CSV",
}
_TAR = 257, b"ustar"


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, or UTF-16 or UTF-32 by its byte order mark or its look; gzip is unpacked.

    Raises:
        PromptError: the file cannot be read, is larger than 512 MiB, or holds no text in these encodings.
    """
    content = _content(path)
    for bom, encoding in _BOMS.items():
        if content.startswith(bom):
            return _decoded(path, content, encoding).removeprefix("\ufeff")
    if content[_TAR[0] :].startswith(_TAR[1]):
        raise PromptError(f"the prompt file {path} holds no text: it is a tar archive; unpack it")
    for magic, kind in _NO_TEXT.items():
        if content.startswith(magic) and not (magic == b"BZh" and content.isascii()):
            raise PromptError(f"the prompt file {path} holds no text: it is {kind}")
    text = _decoded(path, content, _encoding_by_look(content))
    if (num_nul := text.count("\0")) >= 64 and num_nul > len(text) // 20:
        raise PromptError(f"the prompt file {path} holds no text: {num_nul} of its bytes are 0; check `source`")
    return text


def read_lines(path: Path) -> list[str]:
    r"""Read a text file's lines, which end with \n, \r\n or \r.

    Raises:
        PromptError: as `read_text`.
    """
    return read_text(path).replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if content.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as unpacked:
                content = unpacked.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PromptError(f"the prompt file {path} is damaged: gzip says {error}; fetch it again") from error
    except OSError as error:
        raise PromptError(f"the prompt file {path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise PromptError(f"the prompt file {path} holds over {MAX_BYTES} bytes; write it as parquet, in several files")
    return content


def _encoding_by_look(content: bytes) -> str:
    """Tell UTF-16 without a byte order mark by ASCII's zeros, which all stand on one side."""
    if len(content) >= 16 and len(content) % 2 == 0:
        zeros = content[::2].count(0), content[1::2].count(0)
        if min(zeros) == 0 and max(zeros) > len(content) // 8:
            return "utf-16-be" if zeros[0] else "utf-16-le"
    return "utf-8"


def _decoded(path: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise PromptError(
            f"the prompt file {path} is not {encoding.upper()}: byte {content[error.start]:#04x}, line {line}; "
            "convert it, for example with `iconv -f latin1 -t utf-8`"
        ) from None
