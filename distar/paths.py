"""Where each stage writes: the one place that names the pipeline's folders, beside dvc.yaml itself."""

import os
from pathlib import Path

OUTPUTS = Path("outputs")

PROMPT_SOURCES = Path(".distar/prompts")
PROMPTS = OUTPUTS / "prompts"
TRAIN_PROMPTS = PROMPTS / "train.parquet"
EVALUATION_PROMPTS = PROMPTS / "evaluation.parquet"
PROMPTS_CARD = PROMPTS / "card.json"
DROPPED_PROMPTS = PROMPTS / "dropped.csv"

REFERENCE = OUTPUTS / "reference" / "pipeline"
INITIAL_GENERATOR = OUTPUTS / "reference" / "initial_generator"
REWARDS = OUTPUTS / "rewards"
FID = OUTPUTS / "fid"
FID_SOURCES = FID / "sources.json"

EMBEDDINGS = OUTPUTS / "embeddings"
TRAIN_EMBEDDINGS = EMBEDDINGS / "train"
EVALUATION_EMBEDDINGS = EMBEDDINGS / "evaluation"
NULL_EMBEDDING = EMBEDDINGS / "null.safetensors"
EMBEDDINGS_CARD = EMBEDDINGS / "card.json"

BASELINE = OUTPUTS / "baseline"

GENERATOR = OUTPUTS / "generator"
GENERATOR_WEIGHTS = GENERATOR / "weights"
UPDATES_LOG = GENERATOR / "updates.csv"
PROBES_LOG = GENERATOR / "probes.csv"
PROBE_REFERENCE = GENERATOR / "probe_reference.json"

METRICS = Path("metrics.json")
REPORTS = Path("reports")
REPORT_PAGE = REPORTS / "index.html"
SAMPLE_GRID = REPORTS / "samples.png"
SCORES = REPORTS / "scores.csv"

WORKTREE_PREFIX = "distar-worktree-"  # of the temporary folder around a run's git worktree

WATCHED_RELEASES = "releases"  # where they are kept below the folder of downloads, each with its lock beside it

RELEASE = OUTPUTS / "release"
RECEIPT = OUTPUTS / "receipt.json"


def role(folder: Path) -> str:
    """Name what a folder of fetched files is to the release: `reference`, `rewards/NAME`, `fid/statistics`."""
    roots = {REFERENCE: "reference", INITIAL_GENERATOR: "initial_generator", REWARDS: "rewards", FID: "fid"}
    root = next(root for root in roots if folder.is_relative_to(root))
    return (Path(roots[root]) / folder.relative_to(root)).as_posix()


def project_folder() -> Path:
    """Return the folder of what outlives a run: the current one, unless that is a temporary copy which DVC removes.

    `dvc exp run --temp` and `--queue` run stages in a copy below the project's `.dvc/tmp`; DVC_ROOT names the project.
    """
    project = Path(os.environ.get("DVC_ROOT") or ".")
    return project if Path.cwd().is_relative_to((project / ".dvc" / "tmp").resolve()) else Path()


def work_root(task: str) -> Path:
    """Where unfinished work of one kind is kept: `DISTAR_WORK_DIR`, or `.distar/TASK` in the project."""
    return project_folder() / os.environ.get("DISTAR_WORK_DIR", f".distar/{task}")
