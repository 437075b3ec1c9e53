"""Evaluations made up for the gate: a value a prompt for each figure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distar.evaluation.gate import Evaluated, GateParams

GATE = GateParams(
    min_gain={"preference": 0.1},
    max_loss={"matching": 0.2, "judge": 0.02},
    min_diversity_ratio=0.7,
    max_saturation_ratio=1.2,
    max_clipped_rise=0.02,
)
SETTINGS: dict[str, Any] = {
    "protocol": "prompts",
    "backend": "port",
    "precision": "no",
    "rewards": ["preference", "matching"],
    "compare_by": "preference",
    "judge": "judge",
    "diversity": {"num_prompts": 4, "num_images_per_prompt": 2, "features": "matching"},
}
REWARDS = {"preference": {"kind": "pickscore"}, "matching": {"kind": "clip_score"}, "judge": {"kind": "attributes"}}
NUM_PROMPTS = 8
FIGURES: dict[str, list[float | None]] = {
    "preference": [10.0, 9.0, 11.0, 10.5, 9.5, 10.2, 9.8, 10.0],
    "matching": [93.0, 94.0, 92.5, 93.5, 93.2, 92.8, 93.1, 92.9],
    "judge": [1.0] * NUM_PROMPTS,
    "diversity": [0.04, 0.03, 0.05, 0.04, None, None, None, None],
    "saturation": [0.30, 0.32, 0.28, 0.31, 0.29, 0.30, 0.33, 0.27],
    "clipped_share": [0.010, 0.020, 0.015, 0.012, 0.011, 0.013, 0.016, 0.014],
}


def evaluated(shifts: dict[str, float] | None = None, **settings: Any) -> Evaluated:
    """Make up an evaluation whose generator has FIGURES, each shifted on every prompt; the initial one has FIGURES."""
    shifted = {
        name: [None if value is None else value + (shifts or {}).get(name, 0.0) for value in values]
        for name, values in FIGURES.items()
    }
    columns = {f"generator_{name}": values for name, values in shifted.items()}
    columns |= {f"initial_{name}": values for name, values in FIGURES.items()}
    return Evaluated(
        prompts=[f"prompt {i}" for i in range(NUM_PROMPTS)],
        labels=[""] * NUM_PROMPTS,
        columns=columns,
        parameters={
            "evaluate": {**SETTINGS, **settings},
            "rewards": REWARDS,
            "prompts": {"evaluation": {"source": "hf://owner/prompts@1111/all.txt"}},
        },
        scorers={name: {f"rewards.{name}.kind": reward["kind"]} for name, reward in REWARDS.items()},
    )


def with_column(one: Evaluated, name: str, values: list[float | None]) -> Evaluated:
    """Replace a column."""
    return replace(one, columns={**one.columns, name: values})
