"""The tiny tokenizer: CLIP's, with the merges of the world's captions."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from distar.tiny.recipe import Kitchen
from distar.tiny.world import TEMPLATES, subjects


def build_tokenizer(kitchen: Kitchen) -> None:
    """Learn the merges of the world's captions over CLIP's full byte alphabet: any text can be encoded."""
    captions = [subject.caption(template) for subject in subjects() for template in range(len(TEMPLATES))]
    splitter = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    learner.train_from_iterator(captions, BpeTrainer(end_of_word_suffix="</w>", show_progress=False))
    merges: Any = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]

    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    tokens += [token for token in dict.fromkeys("".join(pair) for pair in merges) if token not in set(tokens)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        model_max_length=kitchen.recipe.text_encoder.max_tokens,
    )
    for folder in ("reference/tokenizer", "preference", "matching"):
        tokenizer.save_pretrained(kitchen.models_dir / folder)
