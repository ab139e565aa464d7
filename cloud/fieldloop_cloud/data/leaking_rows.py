"""Leaking rows: copies, groups and the future on both sides of a split."""

import numpy as np

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.leak import SHOWN, Leak, named_pairs
from fieldloop_cloud.data.neighbors import near_pairs
from fieldloop_cloud.data.ordering import can_be_ordered, moments
from fieldloop_cloud.data.split import Split
from fieldloop_cloud.data.units import Rows, duplicate_groups


def leaking_rows(dataset: Dataset, parts: Split) -> list[Leak]:
    """Return every finding about rows."""
    looks = (_copies, _near_copies, _groups, _future_rows)
    return [leak for look in looks for leak in look(dataset, parts)]


def _held_out(parts: Split) -> Rows:
    return np.sort(np.concatenate([parts.validation, parts.test]))


def _copies(dataset: Dataset, parts: Split) -> list[Leak]:
    copies = duplicate_groups(dataset.X)
    twin = {int(copies[row]): int(row) for row in parts.train[::-1]}
    pairs = [
        (int(row) + 1, twin[int(copies[row])] + 1)
        for row in _held_out(parts)
        if int(copies[row]) in twin
    ]
    if not pairs:
        return []
    # A machine that stands still repeats itself, and another machine, today as tomorrow: in time
    # order and between groups that is no leak.
    may_repeat = can_be_ordered(dataset) or dataset.groups is not None
    return [
        Leak(
            kind="copy",
            stops=not may_repeat,
            text=f"{len(pairs)} held-out rows are copies of training rows: {named_pairs(pairs)}.",
            advice="Remove the copies, or split with `split`, which keeps them together.",
            rows=tuple(pairs),
        )
    ]


def _near_copies(dataset: Dataset, parts: Split) -> list[Leak]:
    copies = duplicate_groups(dataset.X)
    pairs = [
        (pair.row + 1, pair.twin + 1)
        for pair in near_pairs(dataset, parts.train, _held_out(parts))
        if copies[pair.row] != copies[pair.twin]
    ]
    if not pairs:
        return []
    # Windows of groups that stand still are alike; pictures of one thing under two names are not.
    may_repeat = can_be_ordered(dataset) or (
        dataset.kind == "series" and dataset.groups is not None
    )
    return [
        Leak(
            kind="near copy",
            stops=not may_repeat,
            text=f"{len(pairs)} held-out rows are nearly training rows: {named_pairs(pairs)}.",
            advice="Remove them, or name what belongs together with --group COLUMN (pictures of "
            "one object, readings of one machine).",
            rows=tuple(pairs),
        )
    ]


def _groups(dataset: Dataset, parts: Split) -> list[Leak]:
    if dataset.groups is None:
        return []
    rows = _held_out(parts)
    shared = rows[np.isin(dataset.groups[rows], dataset.groups[parts.train])]
    if not len(shared):
        return []
    named = ", ".join(str(row + 1) for row in shared[:SHOWN])
    return [
        Leak(
            kind="group",
            stops=True,
            text=f"{len(shared)} held-out rows belong to groups that are trained on, first rows "
            f"{named}.",
            advice="Split with `split`, which keeps groups whole.",
            rows=tuple((int(row) + 1,) for row in shared),
        )
    ]


def _future_rows(dataset: Dataset, parts: Split) -> list[Leak]:
    if not can_be_ordered(dataset):
        return []
    assert dataset.times is not None
    when = moments(dataset.times)
    found = []
    for earlier, later, names in (
        (parts.train, parts.validation, ("training", "validation")),
        (np.concatenate([parts.train, parts.validation]), parts.test, ("training", "test")),
    ):
        rows = later[when[later] <= when[earlier].max()]
        if len(rows):
            named = ", ".join(str(row + 1) for row in rows[:SHOWN])
            found.append(
                Leak(
                    kind="future",
                    stops=True,
                    text=f"{len(rows)} {names[1]} rows are not later than the last {names[0]} "
                    f"row, first rows {named}: the model would have seen their future.",
                    advice="Split with `split`, which keeps the order of time.",
                    rows=tuple((int(row) + 1,) for row in rows),
                )
            )
    return found
