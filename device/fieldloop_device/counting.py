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

    def add(self, values: NDArray[np.float64], counts: Sequence[NDArray[np.int64]]) -> None:
        """Add values, shape (n, quantities), to the counts of each quantity; NaN is left out."""
        few = values if not self._many else values[:, self._few]
        reached = [np.count_nonzero(~np.isnan(few), axis=0)]
        reached += [np.count_nonzero(few >= edges, axis=0) for edges in self._table]
        cells = np.asarray(reached)
        cells[:-1] -= cells[1:]
        for column, place in enumerate(self._few):
            counts[place] += cells[: len(counts[place]), column]
        for place in self._many:
            known = values[~np.isnan(values[:, place]), place]
            found = np.searchsorted(self._edges[place], known, side="right")
            counts[place] += np.bincount(found, minlength=len(counts[place]))


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
        before = np.vstack([self._last, values[:-1]])
        equal = values == before
        stuck = np.zeros(len(self._varied), dtype=np.int64)
        # Sensors have noise: hardly a column has enough repetitions to be worth a closer look.
        repeated = np.count_nonzero(equal, axis=0) + self._length
        for column in np.flatnonzero((repeated >= STUCK_RUN - 1) & self._varied).tolist():
            stuck[column] = _past_a_run(equal[:, column], int(self._length[column]))
        last_change = len(values) - np.argmin(equal[::-1], axis=0)
        self._length = np.where(
            equal.all(axis=0), self._length + len(values), len(values) + 1 - last_change
        )
        self._last = values[-1]
        return stuck


def _past_a_run(equal: NDArray[np.bool_], length: int) -> int:
    """Count the values at the end of a long run; `length` is that of the run before the first."""
    count = 0
    for is_equal in equal.tolist():
        length = length + 1 if is_equal else 1
        count += length >= STUCK_RUN
    return count
