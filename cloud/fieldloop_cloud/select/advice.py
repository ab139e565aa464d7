"""Advice: what the data and the machine say, before anything is trained for good.

Reads the facts, probes cheaply, and says which kind of model, how to split, what to choose by, how
large the test set must be, and what more labels would buy. Everything that learns looks at the
development rows of the recommended split only: the test rows stay sealed.
"""

import msgspec

from fieldloop.errors import DataError
from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.data.dataset import Dataset, DataTask, check_dataset
from fieldloop_cloud.data.facts import DataFacts, facts
from fieldloop_cloud.data.leak import Leak
from fieldloop_cloud.data.leakage import leaks
from fieldloop_cloud.data.sizing import WIDTH, Sizing, recommend, rows_for_width
from fieldloop_cloud.data.split import Kept, Split, split
from fieldloop_cloud.select.curves import REPEATS, LearningCurve, learning_curve
from fieldloop_cloud.select.machine import Machine, this_machine
from fieldloop_cloud.select.probes import MAX_ROWS, Noise, Probe, builder, noise, probe, scorer
from fieldloop_cloud.select.route import Aim, Route, aim, route

BUDGET_S = 600.0
_CURVE_FITS = 3.5
"""Sizes that shrink by sqrt(2) take as long together as so many fits of the largest."""

_WIDTHS = (0.02, 0.04, 0.1, 0.2)


class SizeForWidth(msgspec.Struct, frozen=True, kw_only=True):
    """How many test rows an interval takes.

    Attributes:
        width: Full width of the 95 % interval.
        row_count: Test rows that give it at the score that a probe reaches.
    """

    width: float
    row_count: int


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What is advised for a data set, with the reasons.

    Attributes:
        data: Name of the data set.
        kind: `tabular`, `image` or `series`.
        task: `classification` or `regression`.
        labels: Class labels as text; empty for regression.
        facts: What the data look like.
        machine: What there is to train with.
        budget_s: Time that was allowed for training.
        probes: What cheap models reach.
        noise: What no model can know.
        route: Classical, deep or transfer.
        aim: Metric and objective.
        split: `auto`'s sizes, to be had with `--split auto`.
        kept: What the split keeps: class shares, groups or the order of time.
        test_sizes: What narrower and wider intervals take.
        curve: What more labels would buy; None where the rows are too few to say.
        leaks: What would make a score untrue.
        warnings: What else should be looked at.
    """

    data: str
    kind: str
    task: DataTask
    labels: tuple[str, ...]
    facts: DataFacts
    machine: Machine
    budget_s: float
    probes: tuple[Probe, ...]
    noise: Noise
    route: Route
    aim: Aim
    split: Sizing
    kept: Kept
    test_sizes: tuple[SizeForWidth, ...]
    curve: LearningCurve | None
    leaks: tuple[Leak, ...]
    warnings: tuple[str, ...]

    @property
    def best(self) -> Probe:
        """The best probe."""
        return max(self.probes, key=lambda item: item.score)


def advise(
    data: Dataset,
    *,
    budget_s: float = BUDGET_S,
    width: float = WIDTH,
    seed: int = 0,
    machine: Machine | None = None,
    parts: Split | None = None,
    limit_s: float | None = None,
    progress: Progress = quiet,
) -> Advice:
    """Look at a data set and this machine, and say what to do.

    Args:
        data: From `Dataset.load`.
        budget_s: Time that training may take later.
        width: Wanted width of the final score's 95 % interval, 0.1 for five points to each side.
        seed: Of the split and the probes; use the same for training, so that the test rows that
            nobody looked at here are those that are sealed there.
        machine: Where it will be trained; None for this one.
        parts: A split that is made already; its test rows are not looked at. None for `auto`.
        limit_s: Leave the learning curve out if it would take longer; None for no limit.
        progress: Called with (stage, fraction, text) while it runs.

    Raises:
        ConfigError: A width outside 0 … 1, or data that are no `Dataset`.
        DataError: Data that cannot be split.

    Example:
        >>> advice = advise(Dataset.load("sklearn:wine"))
        >>> advice.route.name, advice.aim.metric
        ('classical', 'accuracy')
    """
    check_dataset(data)
    progress("look", 0.0, f"{len(data)} rows of {data.name}")
    where = machine or this_machine()
    sizing = recommend(data, width=width)
    parts = parts or split(data, strategy="auto", seed=seed, width=width)
    development = data.take(parts.development)
    target = aim(data)
    probes = probe(
        development,
        metric=target.metric,
        seed=seed,
        tell=lambda name: progress("probe", 0.2, f"probe: {name}"),
    )
    found = facts(data)
    leaking = leaks(data, parts)
    return Advice(
        data=data.name,
        kind=data.kind,
        task=data.task,
        labels=tuple(str(label) for label in data.labels),
        facts=found,
        machine=where,
        budget_s=budget_s,
        probes=probes,
        noise=noise(development, probes, seed=seed),
        route=route(development, probes, where, budget_s=budget_s),
        aim=target,
        split=sizing,
        kept=parts.kept,
        test_sizes=_test_sizes(data.task, max(item.score for item in probes)),
        curve=_curve(
            development,
            probes,
            target.metric,
            seed=seed,
            limit_s=limit_s,
            progress=progress,
        ),
        leaks=leaking,
        warnings=_warnings(data, found, leaking, parts.notes),
    )


def _test_sizes(task: DataTask, score: float) -> tuple[SizeForWidth, ...]:
    # At 1 and at 0 an interval shrinks to nothing, which no coming score should be sized by.
    expected = min(max(score, 0.05), 0.99)
    return tuple(
        SizeForWidth(width=width, row_count=rows_for_width(width, task=task, score=expected))
        for width in _WIDTHS
    )


def _curve(
    development: Dataset,
    probes: tuple[Probe, ...],
    metric: str,
    *,
    seed: int,
    limit_s: float | None,
    progress: Progress,
) -> LearningCurve | None:
    best = max(probes, key=lambda item: item.score)
    expected_s = REPEATS * _CURVE_FITS * best.fit_s * max(1.0, len(development) / MAX_ROWS)
    if best.name == "guess" or (limit_s is not None and expected_s > limit_s):
        return None
    build = builder(best.name, development, seed)
    assert build is not None
    try:
        return learning_curve(
            scorer(build, metric),
            development,
            model=best.name,
            metric=metric,
            seed=seed,
            progress=lambda share: progress("curve", share, "learning curve"),
        )
    except DataError:
        return None  # too few rows; the report says so


def _warnings(
    data: Dataset, found: DataFacts, leaking: tuple[Leak, ...], notes: tuple[str, ...]
) -> tuple[str, ...]:
    told = {name for leak in leaking for name in leak.columns}
    said = [*data.notes]
    said += [text for text in found.warnings if not any(f"'{name}'" in text for name in told)]
    said += [f"{leak.text[0].upper()}{leak.text[1:]} {leak.advice}" for leak in leaking]
    said += [note for note in notes if note.startswith("Groups")]
    if found.missing_share:
        said.append(f"{found.missing_share:.1%} of all values are missing.")
    return tuple(said)
