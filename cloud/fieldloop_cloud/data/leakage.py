"""Leakage: what would make a score too good to be true, found before anything is trained.

Some findings stop: copies and near copies on two sides, a group on two sides, rows from the
future, a feature that is the target in disguise, a column that numbers the rows. They name the
rows or the columns. Whoever knows better says why, and the reason stays in the run.
"""

from fieldloop.errors import DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.leak import Leak
from fieldloop_cloud.data.leaking_columns import leaking_columns
from fieldloop_cloud.data.leaking_rows import leaking_rows
from fieldloop_cloud.data.split import Split


def check_leakage(dataset: Dataset, parts: Split, *, allowed: str = "") -> tuple[Leak, ...]:
    """Look for leakage and stop at what would make the score untrue.

    Args:
        dataset: All rows.
        parts: How they are split.
        allowed: Why findings are put up with; empty if they are not.

    Returns:
        Every finding, for the run's record.

    Raises:
        DataError: A finding that stops, and no reason to go on.
    """
    found = leaks(dataset, parts)
    stopping = [leak for leak in found if leak.stops]
    if stopping and not allowed.strip():
        first = stopping[0]
        more = f" There are {len(stopping) - 1} more findings." if len(stopping) > 1 else ""
        raise DataError(
            f"leakage: {first.text.rstrip('.')}",
            where=dataset.name,
            advice=f"{first.advice}{more} If it is no leak, say why: "
            "--allow-leakage REASON or allow_leakage=...; the reason stays in the run.",
        )
    return found


def leaks(dataset: Dataset, parts: Split) -> tuple[Leak, ...]:
    """Return every finding, those that stop first."""
    found = [*leaking_rows(dataset, parts), *leaking_columns(dataset, parts)]
    return tuple(sorted(found, key=lambda leak: not leak.stops))
