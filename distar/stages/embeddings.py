"""Stage `embeddings`: encode both prompt sets once, so that no later stage holds a text encoder."""

from __future__ import annotations

from distar import paths
from distar.atomic import written_whole
from distar.embeddings import write_embeddings, write_null
from distar.lineage.record import recorded
from distar.loading import load_text_encoder
from distar.params import load_params
from distar.prompts import load_prompts
from distar.runtime import prepare_torch


def run() -> None:
    """Encode the training prompts, the evaluation prompts and "no prompt"."""
    params = load_params()
    settings = params.profile.embeddings
    with recorded("embeddings") as record:
        accelerator = prepare_torch(params.profile.runtime)
        encoder = load_text_encoder(params, accelerator.device)
        train, evaluation = load_prompts(paths.TRAIN_PROMPTS), load_prompts(paths.EVALUATION_PROMPTS)
        with written_whole(paths.EMBEDDINGS) as folder:
            write_embeddings(folder / paths.TRAIN_EMBEDDINGS.name, encoder, train, settings)
            write_embeddings(folder / paths.EVALUATION_EMBEDDINGS.name, encoder, evaluation, settings)
            write_null(folder / paths.NULL_EMBEDDING.name, encoder)
        record["device"] = str(accelerator.device)
