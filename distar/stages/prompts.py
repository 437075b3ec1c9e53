"""Stage `prompts`: clean and filter the prompt sources; training never sees evaluation's."""

from __future__ import annotations

import json
from pathlib import Path

from distar import paths
from distar.atomic import written_whole
from distar.errors import PromptError
from distar.lineage.record import recorded
from distar.params import load_params
from distar.prompts import write_prompts
from distar.prompts.params import PromptSourceParams
from distar.prompts.sets import PromptSet, card_of, filtered_set, write_dropped


def run() -> None:
    """Read, filter, check and write both prompt sets, with their card and the prompts that were dropped."""
    params = load_params().profile.prompts
    with recorded("prompts"):
        evaluation = _filtered(params.evaluation).first(params.evaluation.max_prompts)
        train = _filtered(params.train)
        if params.on_overlap == "drop_from_train":
            train = train.without_those_of(evaluation)
        train = train.first(params.train.max_prompts)
        train.check_disjoint(evaluation)
        card = {"train": card_of(train, params.train), "evaluation": card_of(evaluation, params.evaluation)}
        with written_whole(paths.PROMPTS) as folder:
            folder.mkdir()
            write_prompts(folder / paths.TRAIN_PROMPTS.name, train.prompts, train.labels)
            write_prompts(folder / paths.EVALUATION_PROMPTS.name, evaluation.prompts, evaluation.labels)
            write_dropped(folder / paths.DROPPED_PROMPTS.name, {"train": train, "evaluation": evaluation})
            text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
            (folder / paths.PROMPTS_CARD.name).write_text(text, encoding="utf-8")


def _filtered(params: PromptSourceParams) -> PromptSet:
    block_list = None if params.block_list is None else _local(params.block_list)
    return filtered_set(_local(params.source), params, block_list)


def _local(source: str) -> Path:
    if not source.startswith("file://"):
        raise PromptError(f"the prompt source {source} is not a local one; expected file://prompts/NAME")
    return Path(source.removeprefix("file://"))
