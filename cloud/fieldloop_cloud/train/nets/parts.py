"""Which rows are fitted on, which are watched to stop early, and which give the score."""

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset

Numbers = NDArray[np.int64]

STOP_SHARE = 0.1
"""Share of the training rows that early stopping watches; validation rows stay untouched."""

VALIDATION_SHARE = 0.2
"""Share held out for the score where no validation rows are given."""


def held_out(data: Dataset, share: float, *, seed: int) -> tuple[Numbers, Numbers]:
    """Split row numbers into (kept, held out).

    Groups stay whole where the data have them; otherwise every class gives its share, at least
    one row and never its last.
    """
    random = np.random.default_rng(seed)
    count = len(data)
    if data.groups is not None and len(np.unique(data.groups)) > 1:
        held = _whole_groups(data.groups, share, random)
    elif data.labels:
        held = _of_each_class(data.y.astype(np.int64), share, random)
    else:
        held = random.permutation(count)[: min(count - 1, max(1, round(share * count)))]
    held = np.sort(held).astype(np.int64)
    return np.setdiff1d(np.arange(count, dtype=np.int64), held), held


def _of_each_class(y: Numbers, share: float, random: np.random.Generator) -> Numbers:
    held: list[Numbers] = []
    for index in np.unique(y):
        members = random.permutation(np.flatnonzero(y == index))
        held.append(members[: min(len(members) - 1, max(1, round(share * len(members))))])
    return np.concatenate(held)


def _whole_groups(groups: Numbers, share: float, random: np.random.Generator) -> Numbers:
    names, sizes = np.unique(groups, return_counts=True)
    order = random.permutation(len(names))
    filled = np.cumsum(sizes[order])
    # The group that reaches the share is taken; one group is always kept.
    taken = min(int(np.searchsorted(filled, share * len(groups))) + 1, len(names) - 1)
    return np.flatnonzero(np.isin(groups, names[order[:taken]]))
