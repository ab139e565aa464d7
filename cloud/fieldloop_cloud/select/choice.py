"""The choice: which measured variant goes to the device, and why.

Among the variants that passed their gate and fit the target, the best validation score sets the
mark; everything within one standard error of it is tied, and of the tied the one that takes the
smallest share of the device's budget is taken. A model that does not beat the dummy goes nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from fieldloop.errors import GateError
from fieldloop_cloud.release.targets import Target, version_tuple
from fieldloop_cloud.select.scored import Measured, Skipped
from fieldloop_cloud.train.metrics import Estimate

_M = TypeVar("_M", bound=Measured)

NEGLIGIBLE_LATENCY = 0.01
"""Share of the latency budget."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """One limit of the target that a variant breaks: a sentence, by which factor, its name."""

    text: str
    factor: float
    name: str


def overruns(measured: Measured, target: Target) -> tuple[Overrun, ...]:
    """Return the target's limits that a variant breaks; empty if it fits."""
    found = []
    if measured.size_bytes > target.max_model_bytes:
        text = f"{measured.size_bytes:,} bytes of {target.max_model_bytes:,}"
        found.append(Overrun(text, measured.size_bytes / target.max_model_bytes, "bytes"))
    p90 = device_latency_ms(measured, target)
    if p90 > target.latency_budget_ms:
        text = f"{p90:.3g} ms (90th percentile, estimated) of {target.latency_budget_ms:g} ms"
        found.append(Overrun(text, p90 / target.latency_budget_ms, "latency"))
    if measured.arena_bytes > target.ram_bytes:
        text = f"{measured.arena_bytes:,} bytes of memory of {target.ram_bytes:,}"
        found.append(Overrun(text, measured.arena_bytes / target.ram_bytes, "memory"))
    if measured.precision not in target.precisions:
        text = f"{measured.precision} where the device runs {', '.join(target.precisions)}"
        found.append(Overrun(text, float("inf"), "precision"))
    need, have = version_tuple(measured.min_runtime), version_tuple(target.runtime_version)
    if need is not None and have is not None and need > have:
        text = f"runtime {measured.min_runtime} where the device has {target.runtime_version}"
        found.append(Overrun(text, float("inf"), "runtime"))
    return tuple(found)


def device_latency_ms(measured: Measured, target: Target) -> float:
    """Estimate the 90th percentile on the device from the one measured here."""
    return measured.latency_p90_ms * target.relative_latency


def cost(measured: Measured, target: Target) -> float:
    """Return the share of the device's budgets that a variant takes: bytes plus latency.

    A latency below `NEGLIGIBLE_LATENCY` of its budget counts as nothing: it is worth nothing to
    the device, and the noise of measuring it must not choose the model.
    """
    latency = device_latency_ms(measured, target) / target.latency_budget_ms
    return measured.size_bytes / target.max_model_bytes + (
        latency if latency >= NEGLIGIBLE_LATENCY else 0.0
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen variant's place in the list, and the reason as a paragraph."""

    index: int
    why: str


def choose(
    front: Sequence[_M],
    target: Target,
    baseline: Estimate,
    *,
    skipped: Sequence[Skipped] = (),
    floor: float | None = None,
) -> Choice:
    """Choose one variant.

    Args:
        front: Every measured variant; `over_budget` and `gate` are already judged.
        target: The device class.
        baseline: The dummy model's score on the same rows.
        skipped: What is not in the front, for the error's words.
        floor: Lowest validation score that is acceptable.

    Raises:
        GateError: Nothing was measured, nothing fits the device (the error says by how much the
            nearest misses), or nothing beats the dummy model.
    """
    passed = [item for item in front if item.gate.passed]
    if not passed:
        reasons = "; ".join(_by_reason(skipped))
        raise GateError(
            f"no candidate could be trained and compiled{': ' if reasons else ''}{reasons}",
            advice="Raise the time budget, or name candidates that suit the data.",
        )
    fitting = [item for item in passed if not item.over_budget]
    if not fitting:
        raise _nothing_fits(front, target)
    best = max(fitting, key=lambda item: item.score)
    if best.score_low <= baseline.value:
        raise GateError(
            f"no model beats guessing: {best.name} reaches {_interval(best)} in {best.metric}, "
            f"the dummy model {baseline.value:.3f}",
            advice="Bring more rows, or features that say something about the target.",
        )
    if floor is not None and best.score < floor:
        raise _below(floor, best, passed)
    error = _standard_error(best)
    mark = best.score - error if floor is None else max(best.score - error, floor)
    tied = [item for item in fitting if item.score >= mark]
    chosen = min(tied, key=lambda item: (cost(item, target), -item.score))
    return Choice(
        next(index for index, item in enumerate(front) if item is chosen),
        _why(chosen, best, tied, error, target),
    )


def _by_reason(skipped: Sequence[Skipped]) -> list[str]:
    """Return what is not in the front, with each reason said once."""
    names: dict[str, list[str]] = {}
    for item in skipped:
        names.setdefault(item.reason.rstrip("."), []).append(item.name)
    return [f"{', '.join(those)}: {reason}" for reason, those in names.items()]


def _below(floor: float, best: Measured, passed: Sequence[Measured]) -> GateError:
    too_large = max((item for item in passed if item.over_budget), key=_score, default=None)
    beyond = ""
    if too_large is not None and too_large.score >= floor:
        beyond = (
            f"; {too_large.name} would with {_interval(too_large)}, but takes "
            f"{too_large.over_budget}"
        )
    return GateError(
        f"no model reaches the floor of {floor:g} in {best.metric}: the best that fits, "
        f"{best.name}, has {_interval(best)}{beyond}",
        advice="Search longer (--trials), bring more rows or better features, raise the device's "
        "limits, or lower the floor.",
    )


def _score(measured: Measured) -> float:
    return measured.score


def _standard_error(measured: Measured) -> float:
    return Estimate(
        metric=measured.metric,
        value=measured.score,
        low=measured.score_low,
        high=measured.score_high,
        row_count=0,
    ).standard_error


def _interval(measured: Measured) -> str:
    return f"{measured.score:.3f} [{measured.score_low:.3f}, {measured.score_high:.3f}]"


def _why(
    chosen: Measured, best: Measured, tied: Sequence[Measured], error: float, target: Target
) -> str:
    size = f"{chosen.size_bytes / 1024:.1f} KB"
    facts = f"{size} and {chosen.latency_p50_ms * 1000:.0f} µs a row on this machine"
    if chosen is best and len(tied) == 1:
        return (
            f"{chosen.name} has the best {chosen.metric}, {_interval(chosen)}, and no other "
            f"variant that fits {target.name} is within one standard error ({error:.3f}). It "
            f"takes {facts}."
        )
    lead = (
        f"{chosen.name} has the best {chosen.metric}, {_interval(chosen)}"
        if chosen is best
        else f"{best.name} has the best {best.metric}, {_interval(best)}; {chosen.name} reaches "
        f"{_interval(chosen)}"
    )
    return (
        f"{lead}. {len(tied)} variants that fit {target.name} are within one standard error "
        f"({error:.3f}) of the best, and of these {chosen.name} takes the smallest share of the "
        f"device's budget: {facts}."
    )


def _nothing_fits(front: Sequence[Measured], target: Target) -> GateError:
    def worst(item: Measured) -> float:
        return max((over.factor for over in overruns(item, target)), default=float("inf"))

    unproven = [item for item in front if not item.over_budget]
    if unproven:
        best = max(unproven, key=lambda item: item.score)
        return GateError(
            f"no variant both fits {target.name} and passed its gate; {best.name} with "
            f"{_interval(best)} fits, but is {best.gate.reason}",
            advice="Bring more rows, or allow a larger loss (epsilon).",
        )
    nearest = min(front, key=lambda item: (worst(item), -item.score))
    said = "; ".join(over.text for over in overruns(nearest, target))
    return GateError(
        f"no variant fits {target.name}; the nearest, {nearest.name} with {_interval(nearest)}, "
        f"misses: {said or nearest.over_budget}",
        advice="Raise the target's limits, choose a larger device, or allow more candidates.",
    )
