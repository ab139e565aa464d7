"""Parts, drawn once: to fit, to choose, and to be believed.

`60-20-20` holds out one part to choose by; `80-20` adds folds for cross-validation; `auto` sizes
the parts by the data (see `sizing`). Classes keep their shares (for regression: tenths of the
target do), exact copies of a row and rows of one group never stand in two parts, rows with times
keep their order, and the same data with the same seed gives the same split.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.ordering import can_be_ordered, cut, overlapping
from fieldloop_cloud.data.sizing import FOLD_COUNT, WIDTH, recommend
from fieldloop_cloud.data.units import Rows, Units, lay_out

Strategy = Literal["auto", "60-20-20", "80-20"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

Kept = Literal["strata", "groups", "time"]


def _none() -> Rows:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """Row numbers of one turn of a cross-validation, each ascending int64.

    Attributes:
        train: To fit on.
        validation: To score on.
        inner: Folds of `train` to choose settings by (nested cross-validation); may be empty.
    """

    train: Rows
    validation: Rows
    inner: tuple["Fold", ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers of the parts, each ascending int64; together with `left_out` every row once.

    Attributes:
        train: To fit on.
        validation: To choose by. With folds: the validation rows of one of them, for whoever
            needs a single part.
        test: Sealed.
        folds: Cross-validation over `development`; empty for a single validation part.
        left_out: Windows that share readings with a later part and so belong to none.
        strategy: The strategy that was asked for.
        kept: What the parts keep besides copies: class shares, whole groups, or time order.
        notes: Why the sizes are what they are, and what could not be kept; one sentence each.
    """

    train: Rows
    validation: Rows
    test: Rows
    folds: tuple[Fold, ...] = ()
    left_out: Rows = field(default_factory=_none)
    strategy: Strategy = "60-20-20"
    kept: Kept = "strata"
    notes: tuple[str, ...] = ()

    @property
    def development(self) -> Rows:
        """Every row that may be learnt from or chosen by."""
        return np.sort(np.concatenate([self.train, self.validation]))

    @property
    def sha256(self) -> str:
        """Hash of the row numbers, part by part, folds included."""
        digest = hashlib.sha256()
        parts = [self.train, self.validation, self.test]
        parts += [part for fold in self.folds for part in (fold.train, fold.validation)]
        for part in parts:
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.astype("<i8").tobytes())
        return digest.hexdigest()


def split(
    dataset: Dataset,
    *,
    strategy: Strategy = "60-20-20",
    seed: int = 0,
    fold_count: int = FOLD_COUNT,
    inner_count: int = 0,
    width: float = WIDTH,
) -> Split:
    """Split into train, validation and test.

    Args:
        dataset: What to split; its `groups` and `times` are heeded.
        strategy: `60-20-20`; `80-20`, with folds; or `auto`.
        seed: Same data and seed, same split.
        fold_count: Folds of the cross-validation, fewer where there are fewer groups.
        inner_count: Folds inside each fold, for nested cross-validation; 0 for none.
        width: Wanted width of the final score's 95 % interval, for `auto`.

    Raises:
        ConfigError: An unknown strategy.
        DataError: Copies, groups or moments so large that a part would be empty or the training
            part would lack a class.

    Example:
        >>> parts = split(Dataset.load("sklearn:iris"), strategy="80-20")
        >>> len(parts.development), len(parts.test), len(parts.folds)
        (120, 30, 5)
    """
    shares, with_folds, reasons = _plan(dataset, strategy, width)
    kept, notes = _kept(dataset)
    part, left_out = _dealt(dataset, shares, kept, seed)
    test = np.flatnonzero((part == len(shares) - 1) & ~left_out)
    turns: tuple[Fold, ...] = ()
    if with_folds:
        rows = np.flatnonzero((part == 0) & ~left_out)
        turns = folds(dataset, count=fold_count, seed=seed, inner_count=inner_count, rows=rows)
        validation = turns[-1].validation
        train = np.setdiff1d(rows, validation) if kept != "time" else turns[-1].train
        left_out[np.setdiff1d(rows, np.concatenate([train, validation]))] = True
    else:
        train, validation = (np.flatnonzero((part == number) & ~left_out) for number in (0, 1))
    made = Split(
        train=train,
        validation=validation,
        test=test,
        folds=turns,
        left_out=np.flatnonzero(left_out),
        strategy=strategy,
        kept=kept,
        notes=(*reasons, *notes),
    )
    _check_parts(dataset, made)
    return made


def folds(
    dataset: Dataset,
    *,
    count: int = FOLD_COUNT,
    seed: int = 0,
    inner_count: int = 0,
    rows: Rows | None = None,
) -> tuple[Fold, ...]:
    """Return the turns of a cross-validation.

    Without times every row is validated on once. With times each fold learns from all that came
    before its validation rows, and the earliest rows are never validated on.

    Args:
        dataset: Whose rows.
        count: Folds; fewer where there are fewer groups.
        seed: Same data and seed, same folds.
        inner_count: Folds inside each training part; 0 for none.
        rows: Only these row numbers; None for all.

    Raises:
        ConfigError: Fewer than 2 folds.
        DataError: All rows belong together, or a training part would lack a class.
    """
    if count < 2 or inner_count == 1:  # noqa: PLR2004 - one fold validates nothing
        raise ConfigError("a cross-validation needs 2 folds", advice="Ask for 2 or more.")
    numbers = np.arange(len(dataset)) if rows is None else np.sort(np.asarray(rows))
    data = dataset.take(numbers)
    kept, _ = _kept(data)
    extra = 1 if kept == "time" else 0
    part, left_out = _dealt(data, (1 / (count + extra),) * (count + extra), kept, seed)
    used = np.unique(part)
    if len(used) < 2 + extra:
        raise DataError(
            "there is nothing to cross-validate: all rows belong together",
            where=dataset.name,
            advice="Bring more groups or moments, or remove copies.",
        )
    made = []
    for number in used[extra:]:
        learnt = part < number if kept == "time" else part != number
        validation = np.flatnonzero((part == number) & ~left_out)
        train = np.flatnonzero(learnt & ~left_out)
        if not len(train) or not len(validation):
            continue
        if kept == "time" and _lacking(data, train, np.arange(len(data))):
            continue  # too early: not every class has occurred
        inner = (
            folds(dataset, count=inner_count, seed=seed, rows=numbers[train]) if inner_count else ()
        )
        made.append(Fold(numbers[train], numbers[validation], inner))
    _check_folds(dataset, made, numbers)
    return tuple(made)


def _plan(
    dataset: Dataset, strategy: str, width: float
) -> tuple[tuple[float, ...], bool, tuple[str, ...]]:
    """Return the parts' shares (without validation where folds serve), and the reasons."""
    if strategy == "60-20-20":
        return (0.6, 0.2, 0.2), False, ()
    if strategy == "80-20":
        return (0.8, 0.2), True, ()
    if strategy != "auto":
        raise ConfigError(
            f"there is no split '{strategy}'", advice=f"Use one of {', '.join(STRATEGIES)}."
        )
    sizing = recommend(dataset, width=width)
    test = sizing.test_count / len(dataset)
    if sizing.fold_count:
        return (1 - test, test), True, sizing.reasons
    validation = sizing.validation_count / len(dataset)
    return (1 - test - validation, validation, test), False, sizing.reasons


def _kept(dataset: Dataset) -> tuple[Kept, tuple[str, ...]]:
    if can_be_ordered(dataset):
        return "time", ()
    if dataset.groups is None:
        return "strata", ()
    if dataset.times is None:
        return "groups", ()
    note = (
        "Groups overlap in time, so parts keep groups whole and not the order of time: scores say "
        "what a new group gives, not what tomorrow gives."
    )
    return "groups", (note,)


def _dealt(
    dataset: Dataset, shares: tuple[float, ...], kept: Kept, seed: int
) -> tuple[Rows, NDArray[np.bool_]]:
    """Return the part of each row, and which rows belong to none."""
    if kept == "time":
        part = cut(dataset, shares)
        return part, overlapping(dataset, part)
    part = lay_out(Units.of(dataset), shares, np.random.default_rng(seed))
    return part, np.zeros(len(dataset), dtype=bool)


_BECAUSE: dict[Kept, tuple[str, str]] = {
    "strata": ("copies of a row must stay together", "Remove copies or bring more different rows."),
    "groups": (
        "rows of a group must stay together",
        "Bring more groups, or leave the group out if rows of one are really independent.",
    ),
    "time": (
        "what is judged must come after what is learnt from",
        "Bring rows from a longer time, or leave the time out if their order means nothing.",
    ),
}


def _check_parts(dataset: Dataset, made: Split) -> None:
    parts = {"training": made.train, "validation": made.validation, "test": made.test}
    empty = [name for name, rows in parts.items() if not len(rows)]
    lacking = _lacking(dataset, made.train, np.arange(len(dataset)))
    if empty or lacking:
        what = (
            f"the {' and '.join(empty)} part would be empty"
            if empty
            else f"the training part would lack {', '.join(lacking)}"
        )
        because, advice = _BECAUSE[made.kept]
        raise DataError(f"{what}, because {because}", where=dataset.name, advice=advice)


def _check_folds(dataset: Dataset, made: list[Fold], rows: Rows) -> None:
    if not made:
        raise DataError(
            "no moment comes after every class has occurred",
            where=dataset.name,
            advice=_BECAUSE["time"][1],
        )
    for number, fold in enumerate(made, 1):
        lacking = _lacking(dataset, fold.train, rows)
        if lacking:
            raise DataError(
                f"the training rows of fold {number} would lack {', '.join(lacking)}",
                where=dataset.name,
                advice="Ask for fewer folds, bring more rows of it, or use the split 60-20-20.",
            )


def _lacking(dataset: Dataset, train: Rows, rows: Rows) -> list[str]:
    """Name the classes that occur in some rows, but not in those to train on."""
    if not dataset.labels:
        return []
    gone = np.setdiff1d(dataset.y[rows], dataset.y[train])
    return [repr(dataset.labels[int(index)]) for index in gone[:5]]
