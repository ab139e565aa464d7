"""Units: rows that a split must not tear apart, and the strata whose shares it keeps.

A unit is a group with every exact copy of its rows; two groups with a row in common are one unit.
Where that would tie most groups together (every machine has the same idle reading), groups alone
are the units, and copies in other groups are reported by the leakage check.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.streamed import StreamedImages

_REGRESSION_STRATA = 10

_PLAIN_SHARE = 20
"""A unit of more than one in twenty rows has to be placed with care."""

_TIE = 0.05
"""Weight of what a part lacks over all strata, next to what it lacks in this one."""

_MOST_TIED = 0.4
"""Groups that copies tie into a unit of more than this share leave nothing to split."""

Rows = NDArray[np.int64]
"""Row numbers, or a number for each row."""


def duplicate_groups(X: NDArray[np.float32] | StreamedImages) -> Rows:
    """Number rows so that exact copies share a number; shape (n,)."""
    if isinstance(X, StreamedImages):
        return X.copies()
    # Adding 0 turns -0.0 into 0.0, which is the same value in other bits.
    flat = np.ascontiguousarray(X.reshape(len(X), -1) + np.float32(0))
    keys = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    inverse: Rows = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    return inverse


def units(dataset: Dataset) -> Rows:
    """Number rows so that what must stay together shares a number 0 … units - 1; shape (n,)."""
    copies = duplicate_groups(dataset.X)
    if dataset.groups is None:
        return copies
    from scipy.sparse import coo_array  # noqa: PLC0415 - half a second, only with groups
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    groups = np.unique(dataset.groups, return_inverse=True)[1]
    count = int(copies.max()) + 1
    size = count + int(groups.max()) + 1
    edges = coo_array((np.ones(len(copies)), (copies, count + groups)), shape=(size, size))
    joined: Rows = connected_components(edges, directed=False)[1][copies].astype(np.int64)
    tied = np.unique(joined, return_inverse=True)[1].astype(np.int64)
    largest, alone = np.bincount(tied).max(), np.bincount(groups).max()
    if largest > _MOST_TIED * len(dataset) and largest > alone:
        return groups.astype(np.int64)
    return tied


def strata(dataset: Dataset) -> Rows:
    """Number rows by class, or by tenths of the target; shape (n,)."""
    if dataset.task == "classification":
        return dataset.y.astype(np.int64)
    edges = np.quantile(dataset.y, np.linspace(0, 1, _REGRESSION_STRATA + 1)[1:-1])
    tenths: Rows = np.searchsorted(edges, dataset.y, side="right").astype(np.int64)
    return tenths


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """The units of some rows as a table.

    Attributes:
        of_row: Unit of each row, shape (n,).
        content: Rows by unit and stratum, shape (units, strata).
    """

    of_row: Rows
    content: Rows

    @classmethod
    def of(cls, dataset: Dataset) -> "Units":
        """Return the units of a data set."""
        of_row, layer = units(dataset), strata(dataset)
        layers = int(layer.max()) + 1
        cells = np.bincount(of_row * layers + layer, minlength=(int(of_row.max()) + 1) * layers)
        return cls(of_row, cells.reshape(-1, layers).astype(np.int64))

    @property
    def sizes(self) -> Rows:
        """Rows of each unit."""
        sizes: Rows = self.content.sum(axis=1)
        return sizes

    @property
    def are_plain(self) -> bool:
        """Whether units are little more than rows, (nearly) each of one class."""
        is_pure = (self.content > 0).sum(axis=1) == 1
        is_small = self.sizes.max() * _PLAIN_SHARE <= self.sizes.sum()
        return bool(is_small and is_pure.mean() > 1 - 1 / _PLAIN_SHARE)


def lay_out(table: Units, shares: tuple[float, ...], random: np.random.Generator) -> Rows:
    """Deal units out to parts so that sizes and strata keep their shares.

    Args:
        table: What is dealt out.
        shares: Of the parts; they add up to 1.
        random: Decides who goes where.

    Returns:
        The part of each row, shape (n,); no part is empty where there are as many units as parts.
    """
    deal = _in_turn if table.are_plain else _largest_first
    part = deal(table, shares, random)
    for empty in sorted(set(range(len(shares))) - set(part.tolist())):
        counts = np.bincount(part, minlength=len(shares))
        if counts.max() > 1:
            giving = np.flatnonzero(part == counts.argmax())
            part[giving[table.sizes[giving].argmin()]] = empty
    return part[table.of_row]


def _in_turn(table: Units, shares: tuple[float, ...], random: np.random.Generator) -> Rows:
    """Deal the units of one stratum after the other, each to the part that lacks most.

    What a part lacks is counted in the stratum; what it lacks over all strata breaks ties, so
    that many small classes do not all leave the same part short.
    """
    part = np.empty(len(table.content), dtype=np.int64)
    layer, sizes = table.content.argmax(axis=1), table.sizes
    over_all = [0.0] * len(shares)
    for number in range(table.content.shape[1]):
        here = [0.0] * len(shares)
        for unit in random.permutation(np.flatnonzero(layer == number)).tolist():
            size = int(sizes[unit])
            for index, share in enumerate(shares):
                here[index] += share * size
                over_all[index] += share * size
            lacks = [mine + _TIE * all_ for mine, all_ in zip(here, over_all, strict=True)]
            chosen = lacks.index(max(lacks))
            here[chosen] -= size
            over_all[chosen] -= size
            part[unit] = chosen
    return part


def _largest_first(table: Units, shares: tuple[float, ...], random: np.random.Generator) -> Rows:
    """Give each unit, the largest first, to the part where it leaves the smallest misfit.

    The misfit is the squared distance from the wanted count, over parts and strata, each stratum
    in units of its own size; scikit-learn's StratifiedGroupKFold does the same for equal parts.
    """
    content = table.content.astype(np.float64)
    content = np.concatenate([content, content.sum(axis=1, keepdims=True)], axis=1)
    weight = 1.0 / np.maximum(1.0, content.sum(axis=0)) ** 2
    lacking = np.outer(shares, content.sum(axis=0))
    order = random.permutation(len(content))
    order = order[np.argsort(-table.sizes[order], kind="stable")]
    part = np.empty(len(content), dtype=np.int64)
    for unit in order:
        # (lacking - c)^2 - lacking^2, summed: how the misfit changes where the unit is added.
        change = ((content[unit] - 2 * lacking) * content[unit] * weight).sum(axis=1)
        part[unit] = int(change.argmin())
        lacking[part[unit]] -= content[unit]
    return part
