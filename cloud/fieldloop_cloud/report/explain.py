"""What a report says of a run in words: criteria by family, and what would change the choice."""

import math
from collections.abc import Sequence

import msgspec

from fieldloop_cloud.select.criteria.assess import assess_held_out
from fieldloop_cloud.select.criteria.verdicts import Assessment, NotApplicable, Verdict
from fieldloop_cloud.select.scored import Measured
from fieldloop_cloud.train.metrics import Estimate
from fieldloop_cloud.train.run import Run

_RIVALS = 3
_CLEARLY_LESS = 0.8
_SURE = 1.96


class FamilyCriteria(msgspec.Struct, frozen=True, kw_only=True):
    """The criteria of one family's models; nothing in it may be compared with another family's.

    Attributes:
        family: Its name.
        criteria: Names of the criteria that apply, in order.
        rows: (variant, one cell a criterion: its value and what to make of it).
        refusals: (names of criteria, why they do not apply).
        sources: Where the formulas are from.
    """

    family: str
    criteria: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    refusals: tuple[tuple[str, str], ...]
    sources: tuple[str, ...]


def models(run: Run) -> list[Measured]:
    """Return one variant of each model, its float32 reference where there is one."""
    found: dict[tuple[str, int], Measured] = {}
    for item in run.front:
        key = (item.candidate, item.trial)
        if key not in found or item.precision == "float32":
            found[key] = item
    return list(found.values())


def criteria(run: Run) -> tuple[FamilyCriteria, ...]:
    """Return the criteria of every model, family by family."""
    measured = models(run)
    families: dict[str, list[tuple[str, tuple[Assessment, ...]]]] = {}
    for item in measured:
        if not item.criteria:
            continue
        family = item.criteria[0].family
        held_out = _held_out(item, run, family=family, model_count=len(measured))
        title = family.split(",")[0]
        families.setdefault(title, []).append((item.name, (*item.criteria, *held_out)))
    return tuple(_family(name, rows) for name, rows in families.items())


def _held_out(item: Measured, run: Run, *, family: str, model_count: int) -> tuple[Assessment, ...]:
    """Assess the score on rows to choose by: a bound, or with folds the cross-validation."""
    if not run.split.fold_count:
        return (assess_held_out(_score(item, run), model_count=model_count, family=family),)
    note = f"{item.metric} over {run.split.fold_count} folds; more is better"
    turns = "folds share rows, and the bound is for rows that are held out once"
    return (
        Verdict(name="CV", family=family, value=item.score, note=note),
        NotApplicable(name="hold-out bound", family=family, reason=turns),
    )


def _score(item: Measured, run: Run) -> Estimate:
    return Estimate(
        metric=item.metric,
        value=item.score,
        low=item.score_low,
        high=item.score_high,
        row_count=run.split.validation_count,
    )


def _family(family: str, rows: Sequence[tuple[str, tuple[Assessment, ...]]]) -> FamilyCriteria:
    every = [item for _, found in rows for item in found]
    names = list(dict.fromkeys(item.name for item in every if isinstance(item, Verdict)))
    refusals: dict[str, list[str]] = {}
    for item in every:
        if isinstance(item, NotApplicable):
            listed = refusals.setdefault(item.reason, [])
            if item.name not in listed:
                listed.append(item.name)
    sources = {item.name: item.source for item in every if isinstance(item, Verdict)}
    return FamilyCriteria(
        family=family,
        criteria=tuple(names),
        rows=tuple(
            (
                variant,
                tuple(
                    next((_cell(item) for item in found if _is(item, name)), ("-", ""))
                    for name in names
                ),
            )
            for variant, found in rows
        )
        if names
        else (),
        refusals=tuple((", ".join(listed), reason) for reason, listed in refusals.items()),
        sources=tuple(f"{name}: {source}" for name, source in sources.items()),
    )


def _is(item: Assessment, name: str) -> bool:
    return isinstance(item, Verdict) and item.name == name


def _cell(item: Assessment) -> tuple[str, str]:
    assert isinstance(item, Verdict)
    digits = 3 if "bound" in item.name or item.name == "CV" else 1
    return f"{item.value:.{digits}f}", item.note


def what_would_change(run: Run) -> tuple[str, ...]:
    """Say under which other wishes or with what more data another model would be chosen."""
    chosen = run.chosen
    passed = [item for item in run.front if item.gate.passed and not item.over_budget]
    said = []
    best = max(passed, key=lambda item: item.score, default=chosen)
    if best.score > chosen.score:
        said.append(
            f"If only the score counted: {best.name}, {best.score - chosen.score:+.3f} "
            f"{run.metric} for {_size(best)} and {_latency(best)}. The gap is within one standard "
            "error: it may be luck."
        )
    said += _cheaper(run, passed)
    said += _too_large(run)
    said += _rival(run, passed)
    curve = run.advice.curve if run.advice else None
    if curve is not None and curve.purchases:
        gain = curve.purchases[1]
        said.append(f"With more labels: {gain.sentence(curve.metric)}, by the best cheap probe.")
    return tuple(said)


def _cheaper(run: Run, passed: Sequence[Measured]) -> list[str]:
    """Name what would be smaller or faster, and what it would cost."""
    said = []
    for quantity, shown in (("size_bytes", _size), ("latency_p50_ms", _latency)):
        least = min(passed, key=lambda item: getattr(item, quantity), default=run.chosen)
        if getattr(least, quantity) < _CLEARLY_LESS * getattr(run.chosen, quantity):
            wish = "bytes" if quantity == "size_bytes" else "latency"
            said.append(
                f"If only {wish} counted: {least.name} with {shown(least)} instead of "
                f"{shown(run.chosen)}, and {least.score:.3f} instead of {run.chosen.score:.3f} "
                f"{run.metric}."
            )
    return said


def _too_large(run: Run) -> list[str]:
    beyond = [item for item in run.front if item.gate.passed and item.over_budget]
    beyond = [item for item in beyond if item.score > run.chosen.score][:_RIVALS]
    return [
        f"On a larger device: {item.name} reaches {item.score:.3f} {run.metric}, but here it takes "
        f"{item.over_budget}."
        for item in beyond
    ]


def _rival(run: Run, passed: Sequence[Measured]) -> list[str]:
    """Say how many validation rows would tell the chosen one from the next best family."""
    others = [item for item in passed if item.candidate != run.chosen.candidate]
    if not others:
        return []
    rival = max(others, key=lambda item: item.score)
    gap = abs(run.chosen.score - rival.score)
    error = _score(run.chosen, run).standard_error
    if gap == 0 or error == 0:
        return [f"{rival.name} is as good on these {run.split.validation_count} rows."]
    needed = math.ceil(run.split.validation_count * 2 * (_SURE * error / gap) ** 2)
    if needed <= run.split.validation_count:
        return []
    told = (
        f"The next family, {rival.name}, has {rival.score:.3f}: about {needed:,} rows to choose by "
        f"would tell the two apart, and there were {run.split.validation_count}."
    )
    return [told]


def _size(item: Measured) -> str:
    return f"{item.size_bytes / 1024:.1f} KB"


def _latency(item: Measured) -> str:
    return f"{item.latency_p50_ms * 1000:.0f} µs a row"


def split_words(run: Run) -> tuple[str, ...]:
    """Say how the rows were split."""
    parts = run.split
    kept = {
        "strata": "Classes keep their shares" if run.confusion else "The target keeps its range",
        "groups": "Groups stay whole",
        "time": "What is judged comes after what is learnt from",
    }[parts.kept]
    development = parts.train_count + parts.validation_count
    how = (
        f"{parts.fold_count}-fold cross-validation over {development} rows to choose by, "
        f"{parts.test_count} sealed for the test"
        if parts.fold_count
        else f"{parts.train_count} rows to train on, {parts.validation_count} to choose by, "
        f"{parts.test_count} sealed for the test"
    )
    left = (
        f" {parts.left_out_count} rows that share readings with a later part are left out."
        if parts.left_out_count
        else ""
    )
    return (
        f"{parts.strategy}: {how}. {kept}, and exact copies of a row are in one part.{left}",
        *parts.notes,
    )
