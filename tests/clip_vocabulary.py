"""CLIP's own tokenizer, from the vocabulary that open_clip brings along."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from pathlib import Path

from transformers import CLIPTokenizer

NUM_TOKENS = 49_408
SHA256 = {
    "vocab.json": "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349",
    "merges.txt": "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
}


def write_clip_tokenizer(folder: Path) -> None:
    """Write vocab.json and merges.txt as OpenAI's and Stable Diffusion's repositories have them, byte for byte."""
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges()]) + "\n")
    for name, sha256 in SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256, name


def load_clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer's files and load them."""
    write_clip_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def merges() -> list[str]:
    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.origin is not None
    content = gzip.decompress((Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes())
    num_single = 2 * 256 + 2  # bytes, bytes that end a word, start and end of text
    return content.decode().split("\n")[1 : 1 + NUM_TOKENS - num_single]


def vocabulary() -> dict[str, int]:
    # Bytes that do not print are written as the characters from U+0100 on
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    single = [chr(byte) for byte in printing] + [chr(0x100 + i) for i in range(256 - len(printing))]
    merged = [merge.replace(" ", "") for merge in merges()]
    tokens = [*single, *(f"{token}</w>" for token in single), *merged, "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}
