"""The root of all parameters: `params.yaml` and the profile that it names, read strictly.

No parameter that changes results has a default in Python: DVC sees files, not defaults.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from distar import paths
from distar.diffusion.families import ReferenceParams
from distar.embeddings import EmbeddingParams
from distar.errors import ParameterError
from distar.evaluation.gate import GateParams
from distar.evaluation.params import EvaluateParams
from distar.model_files import ModelFiles
from distar.prompts.params import PromptParams
from distar.rewards import RewardParams
from distar.training.params import TrainParams

PARAMS_PATH = Path("params.yaml")
PROFILES_DIR = Path("profiles")

_CREDENTIALS = re.compile(r"//[^/]*@|[?#]|(AKIA|ASIA)[A-Z0-9]{16}")

ModelT = TypeVar("ModelT", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class InitialGeneratorParams(_Strict):
    """Where the generator starts: a one-step checkpoint's network, or the reference itself (`source: reference`)."""

    source: str

    @property
    def model_files(self) -> dict[str, ModelFiles]:
        """Return the files that are needed: none if the reference's are."""
        return {} if self.source == "reference" else {"": ModelFiles(self.source)}


class RuntimeParams(_Strict):
    """What the machine is told; part of the parameters because it changes results in the last bits."""

    num_threads: int = Field(gt=0)
    deterministic: bool
    flush_denormal: bool


class PackageParams(_Strict):
    """What the release is called and may be used for.

    `licences` says of each source of models what its own page says, by the licence's identifier there, or `unknown`;
    the sources of prompts say it themselves.
    """

    name: str
    licence: str
    notice: str
    licences: dict[str, str]


class Profile(_Strict):
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


class PublishParams(_Strict):
    """Where releases go, and whose signatures they bear.

    Attributes:
        url: `file://folder` (relative to the project) or `s3://bucket/prefix`.
        endpoint_url: where that S3 is; null is Amazon's, or the one that the environment names.
        signing_key: the path of a private key, or the URI of one in a service (docs/signing.md), or none.
        trusted_keys: paths of the public keys whose signatures the audit accepts.
    """

    url: str = Field(pattern="^(s3|file)://.")
    endpoint_url: str | None = Field(pattern="^https?://.")
    signing_key: str | None
    trusted_keys: list[str]

    @field_validator("url", "endpoint_url", mode="before")
    @classmethod
    def _without_credentials(cls, url: Any) -> Any:
        """Refuse what may be a secret before anything repeats it."""
        if isinstance(url, str) and _CREDENTIALS.search(url):
            raise PydanticCustomError(
                "credentials",
                "this holds what may be credentials (a user, a query, an access key), which belong in the environment: "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; write the URL without them",
            )
        return url

    @field_validator("signing_key", mode="before")
    @classmethod
    def _no_key_itself(cls, key: Any) -> Any:
        if "PRIVATE KEY" in str(key):
            raise PydanticCustomError(
                "credentials", "got a private key itself, expected the path of its file: DVC records what stands here"
            )
        return key


class ModelsParams(_Strict):
    """Where model files are looked for before their sources: a store filled by `distar models mirror`, or none."""

    mirror: str | None = Field(pattern="^(s3|file)://.")


class RetrainParams(_Strict):
    """What a scheduled run does with what it trained."""

    gate: GateParams


class RootParams(_Strict):
    """`params.yaml`: what every profile shares."""

    profile: str
    seed: int = Field(ge=0)
    publish: PublishParams
    models: ModelsParams
    retrain: RetrainParams


class Params(_Strict):
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
    path = root / PARAMS_PATH
    shared = read_strict(path, RootParams)
    if profile is not None:
        shared = shared.model_copy(update={"profile": profile})
    available = sorted(p.stem for p in (root / PROFILES_DIR).glob("*.yaml"))
    if shared.profile not in available:
        raise ParameterError(
            f"{path if profile is None else '--profile'}: profile: there is no profile {shared.profile!r}; "
            f"{PROFILES_DIR}/ has {', '.join(available)}"
        )
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


def read_strict(path: Path, model: type[ModelT]) -> ModelT:
    """Read a YAML file (1.2, so that 1e-5 is a number) into a strict model.

    Raises:
        ParameterError: as `load_params`.
    """
    try:
        data: Any = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParameterError(f"{path} does not exist; run from the project's top folder") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not readable YAML: {error}") from error
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ParameterError("\n".join(_explain(path, problem, model) for problem in error.errors())) from None


def _explain(path: Path, problem: Any, model: type[BaseModel]) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return f"{path}: {field}: there is no such parameter; check its spelling, or remove it"
        case "missing":
            return f"{path}: {field}: this parameter is missing; add it (nothing has a hidden default)"
        case "credentials":  # what was got is not repeated: it would stand in logs
            return f"{path}: {field}: {problem['msg']}"
        case _:
            message = re.sub("^Value error, ", "", problem["msg"])
            return f"{path}: {field}: got {problem['input']!r}: {message}" if field else f"{path}: {message}"
