"""Histograms with bins frozen at training time.

The device counts into edges that the bundle brought along (quantiles of the reference data), so
counts from any window, device and week can be added and compared; no edge is ever learned in the
field. `counts` has one cell more than there are edges: below the first, between, above the last.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldloop.errors import DataError


class Bins(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frozen bin edges; cell i holds values in [edges[i-1], edges[i]).

    Attributes:
        edges: Strictly increasing finite edges; may be empty (a constant: one cell).
    """

    edges: tuple[float, ...]

    @property
    def cell_count(self) -> int:
        """Number of cells: one more than edges."""
        return len(self.edges) + 1

    @classmethod
    def from_reference(cls, values: ArrayLike, *, cell_count: int = 10) -> "Bins":
        """Freeze the quantiles of reference values, shape (n,), as edges.

        Values that are not finite are left out; equal quantiles are merged, so a feature with
        few distinct values gets fewer cells.

        Raises:
            DataError: No finite value is left, or fewer than two cells are asked for.

        Example:
            >>> Bins.from_reference([1.0, 2.0, 3.0, 4.0], cell_count=2).edges
            (2.5,)
        """
        array = np.asarray(values, dtype=np.float64).ravel()
        array = array[np.isfinite(array)]
        if array.size == 0 or cell_count < 2:  # noqa: PLR2004 - fewer cells say nothing
            raise DataError(
                "a reference histogram needs finite values and at least two cells",
                advice="Check the column for missing values.",
            )
        quantiles = np.quantile(array, np.linspace(0.0, 1.0, cell_count + 1)[1:-1])
        edges = np.unique(quantiles)
        # A column whose low quantiles are all its minimum would have an empty first cell for ever.
        edges = edges[edges > array.min()]
        return cls(edges=tuple(float(edge) for edge in edges))

    def cell(self, value: float) -> int:
        """Return the cell of one finite value."""
        return bisect_right(self.edges, value)

    def count(self, values: ArrayLike) -> NDArray[np.int64]:
        """Count finite values, shape (n,), into cells; returns shape (cell_count,)."""
        array = np.asarray(values, dtype=np.float64).ravel()
        array = array[np.isfinite(array)]
        cells = np.searchsorted(np.asarray(self.edges), array, side="right")
        return np.bincount(cells, minlength=self.cell_count).astype(np.int64)


def pack_counts(counts: Iterable[int]) -> list[int]:
    """Write counts compactly: a run of k > 1 zeros becomes -k.

    Example:
        >>> pack_counts([5, 0, 0, 0, 2, 0])
        [5, -3, 2, 0]
    """
    packed: list[int] = []
    zeros = 0
    for count in counts:
        if count == 0:
            zeros += 1
            continue
        _flush(packed, zeros)
        zeros = 0
        packed.append(int(count))
    _flush(packed, zeros)
    return packed


def _flush(packed: list[int], zeros: int) -> None:
    if zeros == 1:
        packed.append(0)
    elif zeros > 1:
        packed.append(-zeros)


def unpack_counts(packed: Sequence[int], *, cell_count: int) -> list[int]:
    """Undo `pack_counts`.

    Raises:
        DataError: The packed counts do not make exactly `cell_count` cells. The length is checked
            before anything is expanded, so a hostile run cannot exhaust memory.

    Example:
        >>> unpack_counts([5, -3, 2, 0], cell_count=6)
        [5, 0, 0, 0, 2, 0]
    """
    total = sum(-item if item < 0 else 1 for item in packed)
    if total != cell_count:
        raise DataError(
            f"a histogram of {total} cells came where {cell_count} were expected",
            advice="Check that device and cloud use the same bundle.",
        )
    counts: list[int] = []
    for item in packed:
        if item < 0:
            counts.extend([0] * -item)
        else:
            counts.append(item)
    return counts
