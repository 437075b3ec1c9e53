"""Stage `embeddings`: encode both prompt sets once, so that no later stage holds a text encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence

from distar import paths
from distar.atomic import written_whole
from distar.diffusion.families.family import TextEncoder
from distar.embeddings import write_embeddings, write_null
from distar.lineage.device import describe_device
from distar.lineage.record import recorded
from distar.loading import load_text_encoder
from distar.params import load_params
from distar.prompts import load_prompts
from distar.runtime import prepare_torch


def run() -> None:
    """Encode the training prompts, the evaluation prompts and "no prompt"; count the prompts that are cut."""
    params = load_params()
    settings = params.profile.embeddings
    with recorded("embeddings") as record:
        accelerator = prepare_torch(params.profile.runtime)
        encoder = load_text_encoder(params, accelerator.device)
        train, evaluation = load_prompts(paths.TRAIN_PROMPTS), load_prompts(paths.EVALUATION_PROMPTS)
        sets = {"train": train, "evaluation": evaluation}
        with written_whole(paths.EMBEDDINGS) as folder:
            write_embeddings(folder / paths.TRAIN_EMBEDDINGS.name, encoder, train, settings)
            write_embeddings(folder / paths.EVALUATION_EMBEDDINGS.name, encoder, evaluation, settings)
            write_null(folder / paths.NULL_EMBEDDING.name, encoder)
            card = {name: _lengths(name, encoder, prompts) for name, prompts in sets.items()}
            (folder / paths.EMBEDDINGS_CARD.name).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        record["device"] = describe_device(accelerator.device)


def _lengths(set_name: str, encoder: TextEncoder, prompts: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the prompts that each tokenizer's encoder does not read to the end."""
    card = {}
    for name, (_, max_tokens) in encoder.tokenizers.items():
        counts = encoder.num_tokens(name, prompts)
        num_cut = sum(count > max_tokens for count in counts)
        card[name] = {"max_tokens": max_tokens, "longest": max(counts), "num_cut": num_cut}
        if num_cut:
            print(f"{set_name}, {name}: {num_cut} of {len(prompts)} prompts are cut at {max_tokens} tokens")
    return card
