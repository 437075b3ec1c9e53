"""All parameters: `params.yaml` (distar.shared_params) together with the profile that it names, read strictly.

No parameter that changes results has a default in Python: DVC sees files, not defaults.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from distar import paths
from distar.diffusion.families.params import ReferenceParams
from distar.diffusion.params import EmbeddingParams
from distar.evaluation.params import EvaluateParams
from distar.model_files import ModelFiles
from distar.prompts.params import PromptParams
from distar.rewards.params import RewardParams
from distar.shared_params import PROFILES_DIR, RootParams, Strict, load_shared, read_strict
from distar.training.params import TrainParams


class InitialGeneratorParams(Strict):
    """Where the generator starts: a one-step checkpoint's network, or the reference itself (`source: reference`)."""

    source: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """Return the files that are needed: none if the reference's are."""
        return {} if self.source == "reference" else {"": ModelFiles(self.source)}


class RuntimeParams(Strict):
    """What the machine is told; part of the parameters because it changes results in the last bits.

    `num_threads` are a process's, or, where several processes share a machine's CPUs, theirs together.
    """

    num_threads: int = Field(gt=0)
    deterministic: bool
    flush_denormal: bool


class PackageParams(Strict):
    """What the release is called and may be used for.

    `licences` says of each source of models what its own page says, by the licence's identifier there, or `unknown`;
    the sources of prompts say it themselves.
    """

    name: str
    licence: str
    notice: str
    licences: dict[str, str]


class Profile(Strict):
    """Everything that belongs to one reference model; a file of `profiles/`."""

    runtime: RuntimeParams
    prompts: PromptParams
    reference: ReferenceParams
    initial_generator: InitialGeneratorParams
    embeddings: EmbeddingParams
    rewards: dict[str, RewardParams]
    train: TrainParams
    evaluate: EvaluateParams
    package: PackageParams

    @model_validator(mode="after")
    def _rewards_exist(self) -> Profile:
        named = {
            "train.rewards": [*self.train.rewards],
            "train.held_out_rewards": self.train.held_out_rewards,
            "evaluate.rewards": [*self.evaluate.rewards, self.evaluate.compare_by, self.evaluate.diversity.features],
            "evaluate.judge": [self.evaluate.judge] if self.evaluate.judge else [],
        }
        for field, names in named.items():
            for name in names:
                if name not in self.rewards:
                    raise ValueError(f"{field} names {name!r}; `rewards` has {', '.join(self.rewards)}")
        return self

    @model_validator(mode="after")
    def _licences_are_of_the_sources(self) -> Profile:
        sources = {files.source for folder, files in profile_files(self).items() if not is_prompts(folder)}
        stated = self.package.licences.keys()
        if lacking := sorted(sources - stated):
            raise ValueError(
                f"package.licences says nothing of {', '.join(lacking)}; add what each source's page states, "
                "or `unknown`"
            )
        if needless := sorted(stated - sources):
            raise ValueError(f"package.licences names {', '.join(needless)}, which no model is from; remove it")
        return self


class Params(Strict):
    """`params.yaml` together with the profile that it names."""

    root: RootParams
    profile: Profile

    @property
    def seed(self) -> int:
        """The seed from which every random number of the pipeline derives."""
        return self.root.seed


def load_params(root: Path = Path(), profile: str | None = None) -> Params:
    """Read `params.yaml` and its profile, or the one named `profile`, from a project folder.

    Raises:
        ParameterError: a file is missing or not YAML, or a field is missing, misspelt, of the wrong type or
            out of range; the message names the file and the field.
    """
    shared = load_shared(root, profile)
    return Params(root=shared, profile=read_strict(root / PROFILES_DIR / f"{shared.profile}.yaml", Profile))


def profile_files(profile: Profile) -> dict[Path, ModelFiles]:
    """Return which files of which source a profile needs, by the folder that they are fetched into."""
    components = {
        paths.REFERENCE: profile.reference.model_files,
        paths.INITIAL_GENERATOR: profile.initial_generator.model_files,
        **{paths.REWARDS / name: reward.model_files for name, reward in profile.rewards.items()},
        paths.FID: profile.evaluate.fid.model_files if profile.evaluate.fid else {},
        **{paths.PROMPT_SOURCES / name: source.model_files for name, source in profile.prompts.sources.items()},
    }
    return {folder / part: files for folder, parts in components.items() for part, files in parts.items()}


def is_prompts(folder: Path) -> bool:
    """Say whether a folder of `profile_files` holds a source of prompts."""
    return folder.is_relative_to(paths.PROMPT_SOURCES)


def lock_path(profile: str) -> Path:
    """Return where a profile's model files are pinned."""
    return PROFILES_DIR / f"{profile}.lock.json"
