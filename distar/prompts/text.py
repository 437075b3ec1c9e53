"""Text files of unknown origin: unpacked, decoded and cut into lines, or refused with what to do."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from pathlib import Path

from distar.errors import PromptError
from distar.git import lfs_sha256

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
    b"\xff\xff\xff\xff": "an Arrow stream; set `format: parquet`, which reads it too",
    b"\x1f\x8b": "packed twice by gzip; unpack it once with `gunzip`",
    b"\x80": "a pickle; set `format: pickle_list` if it holds a list of strings",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or export it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it with `unzstd`, or compress it with gzip",
    b"BZh": "compressed with bzip2; unpack it with `bunzip2`, or compress it with gzip",
    b"\xfd7zXZ\0": "compressed with xz; unpack it with `unxz`, or compress it with gzip",
    b"\x89PNG": "a picture; name a file of prompts",
    b"\xff\xd8\xff": "a picture; name a file of prompts",
    b"GIF87a": "a picture; name a file of prompts",
    b"GIF89a": "a picture; name a file of prompts",
    b"RIFF": "a picture or a sound; name a file of prompts",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it with `7z x`",
    b"\x04\x22\x4d\x18": "compressed with lz4; unpack it with `unlz4`, or compress it with gzip",
    b"\x93NUMPY": "an array of NumPy; write its texts one a line",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a document of an old office program; save it as plain text, or as CSV",
    b"{\\rtf": "an RTF document; save it as plain text",
    b"%PDF": "a PDF document; export its text",
    b"SQLite format 3\0": "a SQLite database; export the prompts as CSV",
}
_ALSO_WORDS = {b"BZh", b"GIF87a", b"GIF89a", b"RIFF"}  # a prompt may begin so; what is packed so is not ASCII
_TAR = 257, b"ustar"
_CONFLICT = (
    re.compile("^<{7}(?: |$)", re.MULTILINE),
    re.compile("^={7}$", re.MULTILINE),
    re.compile("^>{7}(?: |$)", re.M),
)
_PAGE = re.compile(r"\s*<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE)
_ENCODINGS = ("latin1", "cp1252", "shift_jis", "gb18030", "utf-16-le", "utf-16-be")
_LOOKED_AT = 65_536


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, or UTF-16 or UTF-32 by its byte order mark or its look; gzip is unpacked.

    Raises:
        PromptError: the file cannot be read, is larger than 512 MiB, or holds no text in these encodings.
    """
    content = _content(path)
    check_is_no_pointer(path, content)
    text = _decoded(path, content, _encoding(path, content)).replace("\ufeff", "")  # joined files have one at each seam
    if (num_nul := text.count("\0")) >= 64 and num_nul > len(text) // 20:
        raise PromptError(f"the prompt file {path} holds no text: {num_nul} of its bytes are 0; check `source`")
    if _PAGE.match(text):
        raise PromptError(f"the prompt file {path} is a web page, perhaps that of an error; fetch the file itself")
    with_ends = text.replace("\r\n", "\n").replace("\r", "\n") if "<<<<<<<" in text else ""
    if all(marker.search(with_ends) for marker in _CONFLICT):
        raise PromptError(
            f"the prompt file {path} holds the marks of a merge conflict; resolve it, and commit the file"
        )
    return text


def check_is_no_pointer(path: Path, content: bytes) -> None:
    """Check that a file's content is there.

    Raises:
        PromptError: it is a pointer of git-lfs, which keeps the content elsewhere.
    """
    if lfs_sha256(content.replace(b"\r\n", b"\n").rstrip() + b"\n"):
        raise PromptError(f"the content of the prompt file {path} is kept by git-lfs; run `git lfs pull`")


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
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):  # it is one: what follows is none
            raise _damaged(path, error) from error
        raise PromptError(
            f"the prompt file {path} has other bytes behind what gzip packed; unpack it with `gunzip`, which drops them"
        ) from error
    except (EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise PromptError(f"the prompt file {path} cannot be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise PromptError(f"the prompt file {path} holds over {MAX_BYTES} bytes; write it as parquet, in several files")
    return content


def _damaged(path: Path, error: Exception) -> PromptError:
    return PromptError(f"the prompt file {path} is damaged: gzip says {error}; fetch it again")


def _encoding(path: Path, content: bytes) -> str:
    """Tell a text's encoding by its byte order mark or its look, and refuse what is known to be no text."""
    for bom, encoding in _BOMS.items():
        if content.startswith(bom):
            return encoding
    if content[_TAR[0] :].startswith(_TAR[1]):
        raise PromptError(f"the prompt file {path} holds no text: it is a tar archive; unpack it")
    for magic, kind in _NO_TEXT.items():
        if content.startswith(magic) and not (magic in _ALSO_WORDS and content.isascii()):
            raise PromptError(f"the prompt file {path} holds no text: it is {kind}")
    return _encoding_by_look(content)


def _is_zlib(content: bytes) -> bool:
    if not content.startswith((b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")):
        return False
    try:
        return bool(zlib.decompressobj().decompress(content, 1))
    except zlib.error:
        return False


def _encoding_by_look(content: bytes) -> str:
    """Tell UTF-16 without a byte order mark by ASCII's zeros, which all stand on one side.

    In a long text an eighth of the bytes is enough; in a short one nearly every second byte must be one.
    """
    zeros = content[::2].count(0), content[1::2].count(0)
    enough = len(content) // 8 if len(content) >= 16 else max(1, 3 * len(content) // 8)
    if min(zeros) == 0 and max(zeros) > enough:
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return "utf-8"


def _decoded(path: Path, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        place = f"byte {content[error.start]:#04x}, line {line}"
    if encoding != "utf-8":
        raise PromptError(
            f"the prompt file {path} is not {encoding.upper()}, as it begins to be: {place}; it is cut off or damaged: "
            "fetch or write it again"
        )
    if _is_zlib(content):
        raise PromptError(
            f"the prompt file {path} holds no text: it is compressed with zlib; unpack it, or compress it with gzip"
        )
    fitting = ", ".join(_fitting(content)) or "none that is common: it may be no text"
    raise PromptError(
        f"the prompt file {path} is not UTF-8: {place}; convert it with `iconv -f ENCODING -t utf-8` from the encoding "
        f"that it was written in (that would fit: {fitting}; `file {path.name}` guesses, too)"
    )


def _fitting(content: bytes) -> list[str]:
    """Return the encodings in which a file's beginning is text: letters and signs, no control characters."""
    found = []
    for encoding in _ENCODINGS:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(content[:_LOOKED_AT])
        except UnicodeDecodeError:
            continue
        if all(sign.isprintable() or sign in "\t\n\r\f\u3000\xa0\xad" for sign in text):
            found.append(encoding)
    return found
