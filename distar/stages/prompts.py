"""Stage `prompts`: clean the prompt sources and check that training never sees evaluation's."""

from __future__ import annotations

import json
from pathlib import Path

from distar import paths
from distar.atomic import written_whole
from distar.errors import PromptError
from distar.lineage.record import recorded
from distar.params import load_params
from distar.prompts import PromptSourceParams, read_source


def run() -> None:
    """Read, check and write both prompt sets with their card."""
    params = load_params().profile.prompts
    with recorded("prompts"):
        train, evaluation = (_read(source) for source in (params.train, params.evaluation))
        shared = sorted(set(train.prompts) & set(evaluation.prompts))
        if shared:
            raise PromptError(
                f"{len(shared)} prompts stand in both prompts.train and prompts.evaluation, the first is "
                f"{shared[0]!r}; "
                "remove them from one: an evaluation on training prompts measures memory"
            )
        card = {
            name: {
                "source": source.source,
                "licence": source.licence,
                "num_prompts": len(prompts.prompts),
                "num_read": prompts.num_read,
                "num_duplicates": prompts.num_duplicates,
                "sha256": prompts.sha256,
            }
            for name, source, prompts in (("train", params.train, train), ("evaluation", params.evaluation, evaluation))
        }
        with written_whole(paths.PROMPTS) as folder:
            folder.mkdir()
            train.write(folder / paths.TRAIN_PROMPTS.name)
            evaluation.write(folder / paths.EVALUATION_PROMPTS.name)
            (folder / paths.PROMPTS_CARD.name).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _read(source: PromptSourceParams):
    return read_source(Path(source.source.removeprefix("file://")), source.max_prompts)
