"""Stage `prompts`: clean and filter the prompt sources; training never sees evaluation's."""

from __future__ import annotations

import json
from pathlib import Path

from distar import paths
from distar.atomic import written_whole
from distar.fetching import fetch, read_pins
from distar.lineage.record import recorded
from distar.params import Params, load_params, lock_path
from distar.prompts import write_prompts
from distar.prompts.params import PromptSourceParams
from distar.prompts.sets import PromptSet, card_of, filtered_set, write_dropped


def run() -> None:
    """Read, filter, check and write both prompt sets, with their card and the prompts that were dropped."""
    project = load_params()
    params = project.profile.prompts
    with recorded("prompts"):
        files = {name: _source(project, name) for name in params.sources}
        evaluation = _filtered(files["evaluation"], params.evaluation).first(params.evaluation.max_prompts)
        train = _filtered(files["train"], params.train)
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


def _filtered(path: Path, params: PromptSourceParams) -> PromptSet:
    return filtered_set(path, params, None if params.block_list is None else _local(params.block_list))


def _source(project: Params, name: str) -> Path:
    """Return where a set's source is on this machine; if it is elsewhere, fetch it, checked against its pins."""
    source = project.profile.prompts.sources[name]
    if not source.model_files:
        return _local(source.source)
    folder = paths.PROMPT_SOURCES / name
    pins = read_pins(lock_path(project.root.profile))
    fetch(source.model_files[""], pins, folder, project.root.models.mirror)
    return folder


def _local(source: str) -> Path:
    return Path(source.removeprefix("file://"))
