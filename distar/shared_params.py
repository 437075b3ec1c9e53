"""`params.yaml`: what every profile shares, read strictly, and how any file of parameters is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from distar.credentials import refuse_credentials, refuse_more_than_an_address
from distar.documents import content_of, read_yaml
from distar.errors import ParameterError
from distar.evaluation.gate import GateParams

PARAMS_PATH = Path("params.yaml")
PROFILES_DIR = Path("profiles")

_LONGEST_SHOWN = 200
_MOST_TOLD = 20

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
    def _an_address(cls, url: Any, field: Any) -> Any:
        if isinstance(url, str):
            refuse_more_than_an_address(url, f"{PARAMS_PATH}: publish.{field.field_name}")
        return url


class ModelsParams(Strict):
    """Where model files are looked for before their sources: a store filled by `distar models mirror`, or none."""

    mirror: str | None = Field(pattern="^(s3|file)://.")

    @field_validator("mirror", mode="before")
    @classmethod
    def _an_address(cls, url: Any) -> Any:
        if isinstance(url, str):
            refuse_more_than_an_address(url, f"{PARAMS_PATH}: models.mirror")
        return url


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
            f"{path if profile is None else '--profile'}: profile: there is no profile {shared.profile[:100]!r}; "
            f"{PROFILES_DIR}/ has {', '.join(available)}"
        )
    return shared


def read_strict(path: Path, model: type[ModelT]) -> ModelT:
    """Read a YAML file (1.2, so that 1e-5 is a number) into a strict model.

    Raises:
        ParameterError: as `load_params`; or a text holds credentials.
    """
    data = read_yaml(content_of(path, ParameterError, "run from the project's top folder"), str(path), ParameterError)
    refuse_credentials(data, str(path))
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors()
        told = [_explain(path, problem) for problem in problems[:_MOST_TOLD]]
        told += [f"{path}: and {len(problems) - _MOST_TOLD} more"] if len(problems) > _MOST_TOLD else []
        raise ParameterError("\n".join(told)) from None


def _explain(path: Path, problem: Any) -> str:
    field = ".".join(str(part)[:_LONGEST_SHOWN] for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            return f"{path}: {field}: there is no such parameter; check its spelling, or remove it"
        case "missing":
            return f"{path}: {field}: this parameter is missing; add it (nothing has a hidden default)"
        case _:
            message, got = re.sub("^Value error, ", "", problem["msg"]), repr(problem["input"])
            got = got if len(got) <= _LONGEST_SHOWN else f"{got[:_LONGEST_SHOWN]}…"
            return f"{path}: {field}: got {got}: {message}" if field else f"{path}: {message}"
