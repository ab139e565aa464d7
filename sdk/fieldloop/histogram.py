"""Histograms with bins frozen at training time.

The device counts into edges that the bundle brought along (quantiles of the reference data), so
counts from any window, device and week can be added and compared; no edge is ever learned in the
field. `counts` has one cell more than there are edges: below the first, between, above the last.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

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


Packed = str | tuple[int, ...]
"""Counts on the wire: text as `write_counts` makes it, or a list as `pack_counts` makes it."""

_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_BITS = 5
_MORE = 1 << _BITS
"""A digit carries five bits, the lowest first; the sixth says that another digit follows."""
_RUN = "*"
_MAX_BITS = 63
_SHORTEST_RUN = 3


def write_counts(counts: Iterable[int]) -> str:
    """Write counts as text: half the bytes of a JSON list, and any tool can still read along.

    Each count is a base-64 VLQ as in source maps, without a sign: A is 0, B is 1, f is 31, gB is
    32. A star and a number stand for so many zeros.
    (https://tc39.es/ecma426/#sec-base64-vlq)

    Example:
        >>> write_counts([5, 0, 0, 0, 2, 0, 40])
        'F*DCAoB'
    """
    text = []
    for count, run in groupby(counts):
        length = len(list(run))
        if count == 0 and length >= _SHORTEST_RUN:
            text.append(_RUN + _number(length))
        else:
            text.append(_number(int(count)) * length)
    return "".join(text)


def _number(value: int) -> str:
    text = ""
    while value >= _MORE:
        text += _DIGITS[value % _MORE + _MORE]
        value >>= _BITS
    return text + _DIGITS[value]


def _read_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Yield (count, how often)."""
    value = shift = 0
    is_run = False
    for place, digit in enumerate(text):
        if digit == _RUN and not shift and not is_run:
            is_run = True
            continue
        bits = _VALUES.get(digit)
        if bits is None or shift > _MAX_BITS:
            raise _unreadable(text, place)
        value |= (bits % _MORE) << shift
        shift += _BITS
        if bits < _MORE:
            if value >> _MAX_BITS:
                raise _unreadable(text, place)
            yield (0, value) if is_run else (value, 1)
            value = shift = 0
            is_run = False
    if shift or is_run:
        raise _unreadable(text, len(text))


def _unreadable(text: str, place: int) -> DataError:
    return DataError(
        f"'{text[:40]}' is no text of counts: look at character {place}",
        advice="Check that device and cloud use the same release.",
    )


def add_counts(first: Packed, second: Packed) -> Packed:
    """Add two packed histograms of the same cells; an empty one stands for zeros.

    Raises:
        DataError: They have different numbers of cells.

    Example:
        >>> add_counts(write_counts([1, 0, 0]), (2, -2))
        'DAA'
    """
    if not first or not second:
        return first or second
    cell_count = sum(length for _, length in _runs(first))
    pairs = zip(
        unpack_counts(first, cell_count=cell_count),
        unpack_counts(second, cell_count=cell_count),
        strict=True,
    )
    return write_counts(a + b for a, b in pairs)


def _runs(packed: Sequence[int] | str) -> list[tuple[int, int]]:
    if isinstance(packed, str):
        return list(_read_numbers(packed))
    return [(0, -item) if item < 0 else (item, 1) for item in packed]


def unpack_counts(packed: Sequence[int] | str, *, cell_count: int) -> list[int]:
    """Undo `pack_counts` or `write_counts`.

    Raises:
        DataError: The packed counts do not make exactly `cell_count` cells, or are no text of
            counts. The length is checked before anything is expanded, so a hostile run cannot
            exhaust memory.

    Example:
        >>> unpack_counts([5, -3, 2, 0], cell_count=6)
        [5, 0, 0, 0, 2, 0]
        >>> unpack_counts("F*DCA", cell_count=6)
        [5, 0, 0, 0, 2, 0]
    """
    runs = _runs(packed)
    total = sum(length for _, length in runs)
    if total != cell_count:
        raise DataError(
            f"a histogram of {total} cells came where {cell_count} were expected",
            advice="Check that device and cloud use the same bundle.",
        )
    return [count for count, length in runs for _ in range(length)]
