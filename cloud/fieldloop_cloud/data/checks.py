"""What a data set must have before anything is trained on it."""

from dataclasses import replace

import numpy as np

from fieldloop.errors import DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.units import duplicate_groups

MIN_ROWS = 20
"""Below this even a 60-20-20 split leaves test rows that say nothing."""

MIN_ROWS_PER_CLASS = 5
"""The fewest that leave one row of a class in each part of a 60-20-20 split."""

MAX_CLASS_SHARE = 0.5
"""With more classes than this share of the rows, the target names rows and not kinds of them."""

_MIN_NUMBERED = 50
"""Fewer rows may happen to hold the quantities 1, 2, 3 …"""


def usable(dataset: Dataset, *, where: str) -> Dataset:
    """Return the data set with notes on what is odd, or refuse it.

    Raises:
        DataError: Too few rows, one class only, a class with too few rows, or a target that never
            changes or that names the rows.
    """
    if len(dataset) < MIN_ROWS:
        raise DataError(
            f"there are only {len(dataset)} rows",
            where=where,
            advice=f"Bring at least {MIN_ROWS}, and {MIN_ROWS_PER_CLASS} of each class.",
        )
    if dataset.task == "classification":
        _check_classes(dataset, where)
    elif np.ptp(dataset.y) == 0:
        raise DataError(
            f"the target is {float(dataset.y[0]):g} in every row",
            where=where,
            advice="There is nothing to learn; check the column.",
        )
    elif _numbers_rows(dataset):
        raise _names_rows(dataset, len(dataset), where)
    return replace(dataset, notes=(*dataset.notes, *_oddities(dataset)))


def _numbers_rows(dataset: Dataset) -> bool:
    """Whether the target is 1, 2, 3 … in some order."""
    y = np.unique(dataset.y)
    return len(y) == len(dataset) >= _MIN_NUMBERED and bool(
        (np.diff(y) == 1).all() and y[0] in (0, 1)
    )


def _names_rows(dataset: Dataset, count: int, where: str) -> DataError:
    target = f" '{dataset.target}'" if dataset.target else ""
    return DataError(
        f"the target{target} has {count} different values in {len(dataset)} rows, which looks like "
        "a name or a number of the rows",
        where=where,
        advice="Name the column that is to be predicted, or use task='regression' if it is a "
        "quantity.",
    )


def _check_classes(dataset: Dataset, where: str) -> None:
    if len(dataset.labels) < 2:  # noqa: PLR2004 - one class is no choice
        raise DataError(
            f"there is one class only: {dataset.labels[0]!r}",
            where=where,
            advice="Bring rows of at least two classes.",
        )
    if len(dataset.labels) > MAX_CLASS_SHARE * len(dataset):
        raise _names_rows(dataset, len(dataset.labels), where)
    rare = [
        f"{label!r} has {count}"
        for label, count in zip(dataset.labels, dataset.class_counts, strict=True)
        if count < MIN_ROWS_PER_CLASS
    ]
    if rare:
        more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""  # noqa: PLR2004 - shown
        raise DataError(
            f"classes have too few rows: {', '.join(rare[:5])}{more}",
            where=where,
            advice=f"Bring at least {MIN_ROWS_PER_CLASS} rows of each class, merge or remove the "
            "rare ones, or use task='regression' if the target is a quantity.",
        )


def _oddities(dataset: Dataset) -> tuple[str, ...]:
    notes = []
    if dataset.kind == "tabular":
        constant = [
            spec.name
            for spec, column in zip(dataset.features, dataset.X.T, strict=True)
            if len(np.unique(column)) == 1
        ]
        if constant:
            notes.append(
                f"Constant features say nothing and may be dropped: {', '.join(constant)}."
            )
    surplus = len(dataset) - len(np.unique(duplicate_groups(dataset.X)))
    if surplus:
        notes.append(f"{surplus} rows repeat another row; copies are kept in one part of a split.")
    return tuple(notes)
