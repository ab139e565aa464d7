"""Parts in time order: what is learnt from comes before what is judged.

Rows of one moment stay together. Groups that follow each other stay whole as well; where groups
overlap in time the two wishes contradict each other, and `can_be_ordered` says so.
"""

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.units import Rows


def moments(times: NDArray[np.float64]) -> Rows:
    """Rank times from 0; equal times share a rank, unknown ones come last in their order."""
    known = np.isfinite(times)
    rank = np.empty(len(times), dtype=np.int64)
    rank[known] = np.unique(times[known], return_inverse=True)[1]
    rank[~known] = len(times) + np.arange(int((~known).sum()))
    return np.unique(rank, return_inverse=True)[1].astype(np.int64)


def can_be_ordered(dataset: Dataset) -> bool:
    """Whether there are times, and no two groups that overlap in time."""
    if dataset.times is None:
        return False
    if dataset.groups is None:
        return True
    first, last = _spans(dataset)
    order = np.argsort(first, kind="stable")
    before = np.maximum.accumulate(last[order])[:-1]
    return bool((first[order][1:] > before).all())


def blocks(dataset: Dataset) -> Rows:
    """Number the blocks that time order cannot tear apart, in their order; shape (n,)."""
    assert dataset.times is not None
    if dataset.groups is None:
        return moments(dataset.times)
    first, _ = _spans(dataset)
    of_row = np.unique(dataset.groups, return_inverse=True)[1]
    place: Rows = np.argsort(np.argsort(first, kind="stable"), kind="stable")
    return place[of_row].astype(np.int64)


def cut(dataset: Dataset, shares: tuple[float, ...]) -> Rows:
    """Return the part of each row, 0 the earliest; shape (n,).

    A block goes where its middle falls; no part is empty where there are as many blocks as parts.
    """
    block = blocks(dataset)
    sizes = np.bincount(block)
    middle = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    part = np.searchsorted(np.cumsum(shares)[:-1], middle, side="right")
    # Never beyond what leaves one block for each part, before it and after it.
    index, last = np.arange(len(sizes)), len(shares) - 1
    part = np.clip(part, last - (len(sizes) - 1 - index), index)
    by_row: Rows = np.clip(part, 0, last)[block].astype(np.int64)
    return by_row


def overlapping(dataset: Dataset, part: Rows) -> NDArray[np.bool_]:
    """Say which rows share readings with a later part (windows that reach over the cut).

    Groups are recordings of their own, so with groups there are none.
    """
    shared = np.zeros(len(dataset), dtype=bool)
    if dataset.times is None or dataset.groups is not None or dataset.span <= 0:
        return shared
    for number in range(1, int(part.max()) + 1):
        later = dataset.times[part == number]
        if np.isfinite(later).any():
            shared |= (part < number) & (dataset.times + dataset.span > np.nanmin(later))
    return shared


def _spans(dataset: Dataset) -> tuple[Rows, Rows]:
    """First and last moment of each group."""
    assert dataset.times is not None
    assert dataset.groups is not None
    rank = moments(dataset.times)
    of_row = np.unique(dataset.groups, return_inverse=True)[1]
    count = int(of_row.max()) + 1
    first = np.full(count, len(rank), dtype=np.int64)
    last = np.full(count, -1, dtype=np.int64)
    np.minimum.at(first, of_row, rank)
    np.maximum.at(last, of_row, rank)
    return first, last
