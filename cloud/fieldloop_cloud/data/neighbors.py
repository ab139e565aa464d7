"""Near duplicates: rows of two parts that are closer than chance would bring them.

Rows are compared in units of their spread; images by a fingerprint of their downsampled grey
levels, so that a copy that was rescaled, brightened or recompressed is found. A pair counts as near
if it is closer than one pair in twenty data sets of this size would be by chance, given how many
dimensions the data really fill, and closer than a twentieth of the usual distance between
neighbours.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.units import Rows

MAX_RATIO = 0.05
"""Of the usual distance between neighbours: a pair further apart is no copy of each other."""

CHANCE = 0.05
"""Pairs by chance that are put up with, over the whole data set."""

MAX_TRAINED, MAX_HELD_OUT = 20_000, 5_000
"""Rows of each side; beyond this an even sample of them is compared, in about a second."""

_FINGERPRINT_SIDE = 16
_MIN_ROWS = 30
_MAX_VALUES = 64
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two rows that nearly are copies.

    Attributes:
        row: Number of the held-out row.
        twin: Number of the training row.
        ratio: Their distance in units of the usual one between neighbours.
    """

    row: int
    twin: int
    ratio: float


def near_pairs(dataset: Dataset, train: Rows, held_out: Rows) -> tuple[NearPair, ...]:
    """Return held-out rows that nearly are a training row, the closest first.

    Args:
        dataset: All rows.
        train: Numbers of the rows to fit on.
        held_out: Numbers of the rows that are judged.
    """
    train, held_out = _sampled(train, MAX_TRAINED), _sampled(held_out, MAX_HELD_OUT)
    if len(train) < _MIN_ROWS or not len(held_out):
        return ()
    prints = fingerprints(dataset)
    known = prints[train]
    first, second = _usual(known)
    if not len(first):
        return ()
    usual = float(np.median(first))
    limit = usual * min(MAX_RATIO, _by_chance(first, second, len(train) + len(held_out)))
    distance, nearest = _nearest(prints[held_out], known)
    found = [
        NearPair(int(held_out[index]), int(train[nearest[index]]), float(distance[index]) / usual)
        for index in np.flatnonzero(distance <= limit)
    ]
    return tuple(sorted(found, key=lambda pair: pair.ratio))


def fingerprints(dataset: Dataset) -> NDArray[np.float32]:
    """Return what rows are compared by: (n, values) in units of each value's spread.

    An image becomes up to 16 x 16 grey levels, free of brightness and contrast; a missing value
    is put at the mean.
    """
    if dataset.kind == "image":
        # In pieces: images may be decoded only when they are read.
        pieces = (dataset.X[start : start + _CHUNK] for start in range(0, len(dataset), _CHUNK))
        return _projected(np.concatenate([_grey(np.asarray(piece)) for piece in pieces]))
    flat = dataset.flat.astype(np.float32)
    with np.errstate(invalid="ignore"):
        middle, spread = np.nanmean(flat, axis=0), np.nanstd(flat, axis=0)
    varies = spread > 0
    return _projected(np.nan_to_num((flat[:, varies] - middle[varies]) / spread[varies], nan=0.0))


def _projected(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring wide rows to 64 values: random projections keep distances, those of copies above all.

    Johnson and Lindenstrauss, Contemporary Mathematics 26 (1984), 189-206.
    """
    if rows.shape[1] <= _MAX_VALUES:
        return np.asarray(rows, dtype=np.float32)
    directions = np.random.default_rng(0).normal(size=(rows.shape[1], _MAX_VALUES))
    return np.asarray(rows @ (directions / np.sqrt(_MAX_VALUES)), dtype=np.float32)


def _grey(X: NDArray[np.float32]) -> NDArray[np.float32]:
    grey = X.mean(axis=3)
    for axis in (1, 2):
        size = grey.shape[axis]
        if size > _FINGERPRINT_SIDE:
            starts = np.arange(_FINGERPRINT_SIDE) * size // _FINGERPRINT_SIDE
            counts = np.diff([*starts, size]).reshape((-1, 1) if axis == 1 else (1, -1))
            grey = np.add.reduceat(grey, starts, axis=axis) / counts
    flat = grey.reshape(len(grey), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    spread = flat.std(axis=1, keepdims=True)
    return np.asarray(flat / np.where(spread > 0, spread, 1.0), dtype=np.float32)


def _sampled(rows: Rows, most: int) -> Rows:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _usual(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances of some rows to their nearest and second nearest different row."""
    different = np.unique(rows, axis=0)
    if len(different) < _MIN_ROWS:
        return np.empty(0), np.empty(0)
    probes = different[np.linspace(0, len(different) - 1, min(len(different), 1000)).astype(int)]
    squares = _squared(probes, different)
    three = np.sqrt(np.partition(squares, 2, axis=1)[:, :3])  # the row itself is among them
    three.sort(axis=1)
    return three[:, 1], three[:, 2]


def _by_chance(first: NDArray[np.float64], second: NDArray[np.float64], count: int) -> float:
    """Return the ratio below which `CHANCE` pairs among so many rows are expected.

    The number of nearest neighbours within a ratio r of the median grows as ln(2) r^d; d comes
    from the ratio of the second to the first distance (Facco et al., Scientific Reports 7 (2017),
    12140), by its median so that the copies that are looked for do not move it.
    """
    steps = np.log(second / first)
    middle = float(np.median(steps))
    if middle <= 0:
        return MAX_RATIO  # values on a grid: neighbours are equally far in many directions
    dimension = np.log(2) / middle
    return float((CHANCE / (count * np.log(2))) ** (1 / dimension))


def _nearest(
    rows: NDArray[np.float32], known: NDArray[np.float32]
) -> tuple[NDArray[np.float64], Rows]:
    distance = np.empty(len(rows))
    nearest = np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _CHUNK):
        piece = slice(start, start + _CHUNK)
        nearest[piece] = _squared(rows[piece], known).argmin(axis=1)
        # Differences of the winners alone: the squares above lose digits where rows are close.
        apart = rows[piece].astype(np.float64) - known[nearest[piece]]
        distance[piece] = np.sqrt((apart**2).sum(axis=1))
    return distance, nearest


def _squared(rows: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.float64]:
    left, right = rows.astype(np.float64), known.astype(np.float64)
    squares = (left**2).sum(axis=1)[:, np.newaxis] + (right**2).sum(axis=1) - 2 * left @ right.T
    return np.asarray(np.maximum(squares, 0.0))
