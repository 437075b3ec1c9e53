"""How long prompts are for a tokenizer: what lies beyond its model's maximum is cut, and the model never sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def count_tokens(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[int]:
    """Count each prompt's tokens, the special ones included, as if there were no maximum."""
    return [len(ids) for ids in tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]]


def count_cut(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int) -> int:
    """Count the prompts that a model of `max_tokens`, the special ones included, does not see whole."""
    return sum(count > max_tokens for count in count_tokens(tokenizer, prompts))
