"""Counts the values of all monitored quantities together, a few hundred rows at a time."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fieldloop.telemetry import STUCK_RUN

_FEW_EDGES = 32


class BinCounter:
    """Counts into the frozen bins of all quantities at once.

    Counting what is not below each edge gives the cells by differences, for all columns in one
    step; columns with many edges (categories) are cheaper one by one.

    Args:
        edges: Of each quantity.
    """

    def __init__(self, edges: Sequence[NDArray[np.float64]]) -> None:
        self._edges = edges
        self._few = [place for place, item in enumerate(edges) if len(item) <= _FEW_EDGES]
        self._many = [place for place, item in enumerate(edges) if len(item) > _FEW_EDGES]
        most = max((len(edges[place]) for place in self._few), default=0)
        # Above every number where a column has fewer edges, so that nothing is counted there.
        self._table = np.full((most, len(self._few)), np.inf)
        for column, place in enumerate(self._few):
            self._table[: len(edges[place]), column] = edges[place]
        self._reset()

    def add(self, values: NDArray[np.float64]) -> None:
        """Count values, shape (n, quantities); NaN is left out."""
        few = values if not self._many else values[:, self._few]
        reached = [_trues(few == few)]  # noqa: PLR0124 - NaN alone differs from itself
        reached += [_trues(few >= edges) for edges in self._table]
        cells = np.asarray(reached)
        cells[:-1] -= cells[1:]
        self._cells += cells
        for number, place in enumerate(self._many):
            known = values[~np.isnan(values[:, place]), place]
            found = np.searchsorted(self._edges[place], known, side="right")
            self._many_counts[number] += np.bincount(found, minlength=len(self._edges[place]) + 1)

    def take(self) -> list[NDArray[np.int64]]:
        """Return the counts of each quantity, one a bin, and begin anew."""
        counts = dict(zip(self._many, self._many_counts, strict=True))
        for column, place in enumerate(self._few):
            counts[place] = self._cells[: len(self._edges[place]) + 1, column]
        self._reset()
        return [counts[place] for place in range(len(self._edges))]

    def _reset(self) -> None:
        self._cells = np.zeros((len(self._table) + 1, len(self._few)), dtype=np.int64)
        self._many_counts = [
            np.zeros(len(self._edges[place]) + 1, dtype=np.int64) for place in self._many
        ]


def _trues(table: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count in each column; in half the time of `count_nonzero`, which adds with 64 bits."""
    sums = np.add.reduce(table.view(np.uint8), axis=0, dtype=np.uint32)
    return np.asarray(sums, dtype=np.int64)


class RunCounter:
    """Counts readings of sensors that stopped moving; runs go on from batch to batch.

    Args:
        varied: For each quantity whether an unchanging value is strange, shape (quantities,).
    """

    def __init__(self, varied: NDArray[np.bool_]) -> None:
        self._varied = varied
        self._last = np.full(len(varied), np.nan)
        self._length = np.zeros(len(varied), dtype=np.int64)

    def count(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Count, for each quantity, the values that end a run of at least `STUCK_RUN` equal ones.

        Args:
            values: Shape (n, quantities), n > 0, in the order of time.
        """
        equal = np.empty(values.shape, dtype=np.bool_)
        np.equal(values[:1], self._last, out=equal[:1])
        np.equal(values[1:], values[:-1], out=equal[1:])
        stuck = np.zeros(len(self._varied), dtype=np.int64)
        # Sensors have noise: hardly a column has enough repetitions to be worth a closer look.
        repeated = _trues(equal) + self._length
        suspects = np.flatnonzero((repeated >= STUCK_RUN - 1) & self._varied)
        if len(suspects):
            stuck[suspects] = _past_a_run(equal[:, suspects], self._length[suspects])
        last_change = len(values) - np.argmin(equal[::-1], axis=0)
        self._length = np.where(
            equal.all(axis=0), self._length + len(values), len(values) + 1 - last_change
        )
        self._last = values[-1]
        return stuck


def _past_a_run(equal: NDArray[np.bool_], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the values at the end of a long run; `length` is that of the run before the first."""
    places = np.arange(len(equal))[:, None]
    begins = np.maximum.accumulate(np.where(equal, -length, places), axis=0)
    return _trues(places - begins >= STUCK_RUN - 1)
