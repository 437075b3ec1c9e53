"""The gate: whether a candidate may take the champion's place, judged by what both scored on each evaluation prompt.

Every rule is held against the pessimistic end of a 95 % interval, so that luck promotes nothing. See docs/gate.md.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean, stdev
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Group, RenderableType
from rich.table import Table

from distar import paths
from distar.documents import read_json, read_yaml
from distar.errors import ParameterError, ReleaseError
from distar.release.bom import BOM

_Z = NormalDist().inv_cdf(0.975)
_REVISION = re.compile("@[^/]+")
_Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class GateParams(BaseModel):
    """What a candidate must reach; margins are in the units of the reward that they are of.

    Attributes:
        min_gain: by how much the reward that `evaluate.compare_by` names must rise, for each that it may name.
        max_loss: by how much a held-out reward or the judge may fall, for each.
        min_diversity_ratio: the share of the champion's diversity that must remain.
        max_saturation_ratio: how many times the champion's saturation is allowed.
        max_clipped_rise: by how much the share of clipped channel values may rise.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    min_gain: dict[str, _Margin]
    max_loss: dict[str, _Margin]
    min_diversity_ratio: float = Field(ge=0, le=1)
    max_saturation_ratio: float = Field(ge=1, allow_inf_nan=False)
    max_clipped_rise: float = Field(ge=0, le=1)

    def check_covers(self, compare_by: str, held_out: Iterable[str]) -> None:
        """Check that there is a margin for everything that will be judged.

        Raises:
            ParameterError: there is none for one of them.
        """
        for field, margins, names in (
            ("min_gain", self.min_gain, [compare_by]),
            ("max_loss", self.max_loss, held_out),
        ):
            if lacking := [name for name in names if name not in margins]:
                raise ParameterError(
                    f"params.yaml: retrain.gate.{field} says nothing of {', '.join(lacking)}, which the profile "
                    f"evaluates; it has {', '.join(margins)}: add a margin in that reward's units"
                )


@dataclass(frozen=True)
class Evaluated:
    """What a release says of its evaluation.

    Attributes:
        prompts: the evaluation prompts, in their order.
        labels: the label of each; empty where there is none.
        columns: a value a prompt by SYSTEM_FIGURE; None where a figure was not measured on that prompt.
        parameters: the release's parameters.
        scorers: what each reward is: its settings, and the hash of each of its files.
    """

    prompts: list[str]
    labels: list[str]
    columns: dict[str, list[float | None]]
    parameters: dict[str, Any]
    scorers: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, read: Callable[[str], bytes]) -> Evaluated:
        """Read it from a release, whose files `read` returns by their names.

        Raises:
            ReleaseError: a file of it is not what the stage `package` writes.
        """
        try:
            rows = list(csv.DictReader(io.StringIO(read(paths.SCORES.name).decode(), newline="")))
            parameters = read_yaml(read("params.yaml"), "the release's params.yaml", ReleaseError)
            bill = read_json(read(BOM), f"the release's {BOM}", ReleaseError)
            columns = {
                name: [float(row[name]) if row[name] else None for row in rows]
                for name in rows[0]
                if name not in {"prompt", "label"}
            }
            return cls(
                [row["prompt"] for row in rows],
                [row["label"] for row in rows],
                columns,
                parameters,
                {name: _identity(name, reward, bill) for name, reward in parameters["rewards"].items()},
            )
        except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
            raise ReleaseError(
                f"the release's evaluation cannot be read: {error!r} in {paths.SCORES.name}, params.yaml or "
                f"{BOM}; package it again with `dvc repro -f package`"
            ) from error

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters of the evaluation; those of a release from before `precision` was one are of fp32."""
        return {"precision": "no", **self.parameters["evaluate"]}

    @property
    def held_out(self) -> list[str]:
        """The rewards that are not compared by, and the judge."""
        judge, rewards = self.settings["judge"], self.settings["rewards"]
        names = [name for name in rewards if name != self.settings["compare_by"]]
        return names if judge in (None, *rewards) else [*names, judge]


@dataclass(frozen=True)
class Check:
    """One rule: a figure, by how much it differs (95 % interval), what the difference is held against, and why.

    Numbers are None where there is nothing to compare.
    """

    figure: str
    candidate: float | None
    champion: float | None
    difference: float | None
    low: float | None
    high: float | None
    bound: float | None
    passed: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Whether to promote; against whom, on the same prompts (`paired`) or on others, and every rule."""

    promote: bool
    against: Literal["champion", "initial generator"]
    paired: bool
    checks: list[Check]

    @property
    def summary(self) -> str:
        """The verdict in a paragraph: every rule that failed, or that none did."""
        failed = [check.reason for check in self.checks if not check.passed]
        if failed:
            return f"Rejected: {'; '.join(failed)}."
        return f"Promoted: better than the {self.against} by every rule of the gate."

    @property
    def basis(self) -> str:
        """How the intervals were made."""
        if self.paired:
            return f"Candidate and {self.against} drew the same prompts: differences are taken prompt by prompt."
        return "The evaluation prompts are not the same: means are compared, and the intervals are wider for it."

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON data."""
        return {**asdict(self), "summary": self.summary, "basis": self.basis}


@dataclass(frozen=True)
class _Rule:
    """A figure, the scorer or statistic that it is the mean of, and the bound of its difference for a champion's mean.

    `sign` is 1 where more is better, -1 where less is; `strict` excludes the bound itself.
    """

    figure: str
    column: str
    sign: Literal[1, -1]
    bound: Callable[[float], float]
    asked: str
    strict: bool = False


@dataclass(frozen=True)
class _Difference:
    candidate: float
    champion: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        return self.candidate - self.champion


class _IncomparableError(Exception):
    """Two figures cannot be compared; the message says why."""


def judge(candidate: Evaluated, champion: Evaluated | None, params: GateParams) -> Verdict:
    """Judge a candidate against the champion, or against its own initial generator while there is none.

    Raises:
        ParameterError: there is no margin for a reward that was evaluated.
    """
    opponent, system = (candidate, "initial") if champion is None else (champion, "generator")
    held_out = list(dict.fromkeys([*candidate.held_out, *opponent.held_out]))
    params.check_covers(candidate.settings["compare_by"], held_out)
    checks = []
    for rule in _rules(candidate, held_out, params):
        try:
            difference = _difference(rule, candidate, opponent, system)
        except _IncomparableError as error:
            reason = f"{_shown(rule.figure)} cannot be compared: {error}"
            checks.append(Check(rule.figure, None, None, None, None, None, None, False, reason))
        else:
            checks.append(_check(rule, difference))
    against = "initial generator" if champion is None else "champion"
    return Verdict(all(check.passed for check in checks), against, _paired(candidate, opponent), checks)


def estimate(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the mean of the groups' means and its standard error."""
    mean = fmean(fmean(group) for group in groups)
    return mean, math.hypot(*(stdev(group) / math.sqrt(len(group)) for group in groups)) / len(groups)


def verdict_table(verdict: Verdict) -> RenderableType:
    """Show a verdict on the terminal."""
    table = Table("figure", "candidate", verdict.against, "difference", "95 % interval", "bound", "verdict")
    for check, cells in zip(verdict.checks, _rows(verdict), strict=True):
        table.add_row(*cells, style=None if check.passed else "red")
    return Group(table, verdict.summary, verdict.basis)


def verdict_markdown(verdict: Verdict) -> str:
    """Write a verdict as Markdown."""
    header = ["figure", "candidate", verdict.against, "difference", "95 % interval", "bound", "verdict"]
    lines = [header, ["---"] * len(header), *_rows(verdict)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{verdict.summary}\n\n{table}\n\n{verdict.basis}\n"


def _rules(candidate: Evaluated, held_out: Sequence[str], params: GateParams) -> list[_Rule]:
    compared = candidate.settings["compare_by"]
    gain, kept, times = params.min_gain[compared], params.min_diversity_ratio, params.max_saturation_ratio
    rise = params.max_clipped_rise
    return [
        _Rule(compared, compared, 1, lambda _: gain, f"a rise of more than {gain:g} is asked for", strict=True),
        *(_held_out_rule(candidate, name, params.max_loss[name]) for name in held_out),
        _Rule("diversity", "diversity", 1, lambda old: (kept - 1) * old, f"at least {kept:g} times that is asked for"),
        _Rule(
            "saturation", "saturation", -1, lambda old: (times - 1) * old, f"at most {times:g} times that is allowed"
        ),
        _Rule("clipped_share", "clipped_share", -1, lambda _: rise, f"a rise of at most {rise:g} is allowed"),
    ]


def _held_out_rule(candidate: Evaluated, name: str, loss: float) -> _Rule:
    figure = "judge_accuracy" if name == candidate.settings["judge"] else name
    return _Rule(figure, name, 1, lambda _: -loss, f"a fall of at most {loss:g} is allowed")


def _difference(rule: _Rule, candidate: Evaluated, champion: Evaluated, system: str) -> _Difference:
    """Estimate by how much a figure differs.

    Raises:
        _IncomparableError: it was not measured in the same way, or not on enough prompts, or it is not a number.
    """
    _check_comparable(rule, candidate, champion)
    new = _values(rule, candidate, "generator", "the candidate's")
    old = _values(rule, champion, system, "the champion's" if system == "generator" else "the initial generator's")
    (mean, error), (before, error_before) = estimate(new), estimate(old)
    half = math.hypot(error, error_before)
    if _paired(candidate, champion):
        _, half = estimate([[a - b for a, b in zip(*pair, strict=True)] for pair in zip(new, old, strict=True)])
    return _Difference(mean, before, mean - before - _Z * half, mean - before + _Z * half)


def _paired(a: Evaluated, b: Evaluated) -> bool:
    return (a.prompts, a.labels) == (b.prompts, b.labels)


def _check_comparable(rule: _Rule, candidate: Evaluated, champion: Evaluated) -> None:
    """Check that a figure was measured in the same way.

    Raises:
        _IncomparableError: it was not.
    """
    names = ["protocol", "precision"]
    if rule.column == "diversity":
        names += ["diversity"]
    if rule.column in candidate.parameters["rewards"]:
        names += ["backend", "compare_by", "judge"]
    ours, theirs = ({f"evaluate.{name}": each.settings[name] for name in names} for each in (candidate, champion))
    ours["prompts.evaluation"], theirs["prompts.evaluation"] = (
        _REVISION.sub("", each.parameters["prompts"]["evaluation"]["source"]) for each in (candidate, champion)
    )
    ours |= candidate.scorers.get(rule.column, {})
    theirs |= champion.scorers.get(rule.column, {})
    if other := [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]:
        told = (f"{name} is {ours.get(name, 'absent')}, the champion's {theirs.get(name, 'absent')}" for name in other)
        raise _IncomparableError(f"it was measured otherwise than the champion's: {'; '.join(told)}")


def _values(rule: _Rule, evaluated: Evaluated, system: str, whose: str) -> list[list[float]]:
    """Return a figure's values, in the groups whose means count alike: HPSv2's benchmark averages rewards over styles.

    Raises:
        _IncomparableError: some are missing or no numbers, or there are too few to know their error.
    """
    column = evaluated.columns.get(f"{system}_{rule.column}", [None] * len(evaluated.prompts))
    by_style = evaluated.settings["protocol"] == "hpsv2" and rule.column in evaluated.settings["rewards"]
    groups: dict[str, list[float]] = {}
    for label, value in zip(evaluated.labels, column, strict=True):
        if value is not None and math.isfinite(value):
            groups.setdefault(label if by_style else "", []).append(value)
    got, expected = sum(map(len, groups.values())), len(evaluated.prompts)
    if rule.column == "diversity":
        expected = min(expected, evaluated.settings["diversity"]["num_prompts"])
    if got != expected:
        raise _IncomparableError(f"{whose} scores hold it for {got} of {expected} prompts")
    if any(len(group) == 1 for group in groups.values()):
        raise _IncomparableError(f"{whose} scores are of one prompt alone, which tells nothing of its error")
    return [groups[name] for name in sorted(groups)]


def _check(rule: _Rule, found: _Difference) -> Check:
    bound = rule.bound(found.champion)
    pessimistic = found.low if rule.sign == 1 else found.high

    def holds(value: float) -> bool:
        margin = rule.sign * (value - bound)
        return margin > 0 if rule.strict else margin >= 0

    passed = holds(pessimistic)
    verb = "rose from" if found.mean > 0 else "fell from" if found.mean < 0 else "stayed the same:"
    doubt = "" if passed or not holds(found.mean) else ", and the interval does not exclude worse"
    reason = (
        f"{_shown(rule.figure)} {verb} {found.champion:.4g} to {found.candidate:.4g} "
        f"(95 % interval of the difference: {found.low:+.3g} to {found.high:+.3g}); {rule.asked}{doubt}"
    )
    return Check(rule.figure, found.candidate, found.champion, found.mean, found.low, found.high, bound, passed, reason)


def _rows(verdict: Verdict) -> list[list[str]]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        [
            _shown(check.figure),
            number(check.candidate, ".4g"),
            number(check.champion, ".4g"),
            number(check.difference, "+.3g"),
            f"{number(check.low, '+.3g')} to {number(check.high, '+.3g')}",
            number(check.bound, "+.3g"),
            "passed" if check.passed else "failed",
        ]
        for check in verdict.checks
    ]


def _identity(name: str, reward: dict[str, Any], bill: dict[str, Any]) -> dict[str, Any]:
    """Tell what scores: a reward's settings without where it is from, and the sha256 of each of its files."""
    role = f"rewards/{name}"
    files = {
        file["bom-ref"].replace("#", "/"): file["hashes"][0]["content"]
        for component in bill["components"]
        if component["bom-ref"] == role or component["bom-ref"].startswith(f"{role}/")
        for file in component["components"]
    }
    settings = {key: value for key, value in reward.items() if "://" not in str(value)}
    return {f"rewards.{name}.{key}": value for key, value in settings.items()} | files


def _shown(figure: str) -> str:
    return figure.replace("_", " ")
