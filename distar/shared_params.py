"""`params.yaml`: what every profile shares, read strictly, and how any file of parameters is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from distar.errors import ParameterError
from distar.evaluation.gate import GateParams

PARAMS_PATH = Path("params.yaml")
PROFILES_DIR = Path("profiles")

_CREDENTIALS = re.compile(r"//[^/]*@|[?#]|(AKIA|ASIA)[A-Z0-9]{16}")

ModelT = TypeVar("ModelT", bound=BaseModel)


class Strict(BaseModel):
    """A section of the parameters: nothing is converted, nothing unknown is let pass, nothing changes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class PublishParams(Strict):
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


class ModelsParams(Strict):
    """Where model files are looked for before their sources: a store filled by `distar models mirror`, or none."""

    mirror: str | None = Field(pattern="^(s3|file)://.")


class ScheduleParams(Strict):
    """When retrains begin by themselves.

    Attributes:
        cron: minute, hour, day of the month, month, day of the week.
        timezone: whose clock that is, by its IANA name.
        jitter_seconds: each run begins up to so much later, drawn anew, so that many boxes do not begin at once.
    """

    cron: str
    timezone: str
    jitter_seconds: int = Field(ge=0)

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str) -> str:
        if timezone not in available_timezones():
            raise ValueError("there is no such time zone; expected an IANA name such as Europe/Berlin or UTC")
        return timezone


class WatchParams(Strict):
    """How the champion is watched.

    Attributes:
        interval_seconds: how often.
        prompts: the set that it is scored on, `file://` and a text file with a prompt a line; null is the profile's
            evaluation prompts.
        margin: how far the compared reward may fall before it counts, in standard errors of the difference.
    """

    interval_seconds: int = Field(gt=0)
    prompts: str | None = Field(pattern="^file://.")
    margin: float = Field(ge=0)


class RetrainParams(Strict):
    """Retrains without a person: what a candidate must reach, when one begins, what sets one off; null is never."""

    gate: GateParams
    schedule: ScheduleParams | None
    watch: WatchParams | None


class RootParams(Strict):
    """`params.yaml`: what every profile shares."""

    profile: str
    seed: int = Field(ge=0)
    publish: PublishParams
    models: ModelsParams
    retrain: RetrainParams


def load_shared(root: Path = Path(), profile: str | None = None) -> RootParams:
    """Read `params.yaml` from a project folder; with `profile`, that one in place of its own.

    Raises:
        ParameterError: it is missing or not YAML, or a field is missing, misspelt, of the wrong type or out of range;
            or there is no such profile.
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
    return shared


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
