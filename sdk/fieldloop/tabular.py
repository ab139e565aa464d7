"""Raw rows of named features into numbers.

One row is a dict by feature name or a sequence in the features' order; many rows are a list of
those or a two-dimensional array. Whatever does not fit is refused by the name of its feature:
a model that is fed a neighbouring column answers too, only wrongly.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter, le
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import SignatureError
from fieldloop.ranges import float32_bounds, float32_limits
from fieldloop.signature import Category, FeatureSpec

UNKNOWN_CODE = -1.0
"""Code of a category that was not seen in training, where the model allows one."""

_FLOAT32 = np.dtype(np.float32)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_BYTES = (bytes, bytearray, memoryview)
_MANY = 24
"""From so many values on arrays are faster than Python numbers."""
_LISTED = 12
"""How many names or categories an error lists."""


class TabularEncoder:
    """Encodes raw rows of one model; precomputes what one row needs.

    Args:
        features: The row's features, in order.
    """

    def __init__(self, features: Sequence[FeatureSpec]) -> None:
        self._features = tuple(features)
        self._names = tuple(feature.name for feature in features)
        self._codes: tuple[dict[Category, int] | None, ...] = tuple(
            {category: code for code, category in enumerate(feature.categories)}
            if feature.categories
            else None
            for feature in features
        )
        self._is_numeric = not any(feature.categories for feature in features)
        self._size = len(self._features)
        # Packing checks the count and refuses text, in a third of the time NumPy takes to convert.
        self._pack = struct.Struct(f"={self._size}f").pack
        self._pick: Callable[[Mapping[str, Any]], tuple[Any, ...]] = (
            itemgetter(*self._names) if self._size > 1 else lambda row: (row[self._names[0]],)
        )
        limits = [float32_limits(feature) for feature in features]
        self._lows = [low for low, _ in limits]
        self._highs = [high for _, high in limits]
        self._low, self._high = float32_bounds(features)
        self._shape = (1, self._size)
        self._all = np.ones(self._size, np.bool_).tobytes()

    def ordinary(self, raw: object) -> NDArray[np.float32] | None:
        """Encode a row of numbers that all lie in their ranges; None for any other row.

        Nearly every row of a device is one, so it has a short way: one comparison says that each
        value is a number, is there and is in range. `row` can say what is wrong with the others.
        """
        if not self._is_numeric:
            return None
        try:
            kind = type(raw)
            values: Any = raw
            if kind is dict:
                values = self._pick(values)
            elif kind is np.ndarray:
                if self._size >= _MANY and values.dtype == _FLOAT32:
                    return self._ordinary_array(values)
                values = values.tolist()  # Python numbers pack faster
            elif kind is not list and kind is not tuple:
                return None
            if all(map(le, self._lows, values)) and all(map(le, values, self._highs)):
                return np.ndarray(self._shape, _FLOAT32, self._pack(*values))
        except (TypeError, KeyError, ValueError, OverflowError, struct.error):
            pass
        return None

    def _ordinary_array(self, values: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Do so for many values in the right dtype, which arrays compare faster."""
        # Comparing bytes is several times faster than `all()`; NaN is in no range.
        if (
            values.shape == self._shape[1:]
            and (values >= self._low).tobytes() == self._all
            and (values <= self._high).tobytes() == self._all
        ):
            return values[None].copy()
        return None

    def row(self, raw: object) -> NDArray[np.float32]:
        """Encode one raw row; returns shape (1, features).

        Raises:
            SignatureError: A wrong number of values, a missing feature, or a value that does not
                fit; names the feature.
        """
        rows = self.ordinary(raw)
        if rows is not None:
            return rows
        return np.asarray([self._careful(raw, "")], dtype=np.float32)

    def rows(self, raw: object) -> NDArray[np.float32]:
        """Encode many raw rows; returns shape (n, features).

        Args:
            raw: A list of dicts or sequences, or an array of shape (n, features).

        Raises:
            SignatureError: As for `row`; names the row and the feature.
        """
        if isinstance(raw, np.ndarray):
            self._check_columns(raw)
            if self._is_numeric and raw.dtype.kind in "fiub":
                return self._numbers(raw)
            raw = raw.tolist()
        if isinstance(raw, (str, Mapping, *_BYTES)) or not isinstance(raw, Sequence):
            raise SignatureError(
                f"a batch must be a list of rows or an array, not {type(raw).__name__}",
                advice="Give a list of rows; put a single row into a list too.",
            )
        encoded = np.empty((len(raw), self._size), dtype=np.float32)
        for number, row in enumerate(raw):
            encoded[number] = self._careful(row, f"row {number}")
        return encoded

    def _check_columns(self, raw: NDArray[Any]) -> None:
        if raw.ndim != 2 or raw.shape[1] != self._size:  # noqa: PLR2004 - rows and columns
            raise SignatureError(
                f"an array of shape {raw.shape} came where (n, {self._size}) is needed",
                advice=f"Give one column for each of {_listed(self._names)}.",
            )

    def _numbers(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """Encode a numeric array of numeric features at once."""
        with np.errstate(over="ignore"):
            rows = raw.astype(np.float32)
        bad = ~np.isfinite(rows)
        if bad.any():
            for number, column in np.argwhere(bad).tolist():
                self._cell(column, raw[number, column], f"row {number}")
        return rows

    def _careful(self, raw: object, where: str) -> list[float]:
        """Encode one row value by value; the way that can say what is wrong."""
        values = self._values(raw, where)
        return [self._cell(position, value, where) for position, value in enumerate(values)]

    def _values(self, raw: object, where: str) -> Sequence[Any]:
        if isinstance(raw, Mapping):
            missing = [name for name in self._names if name not in raw]
            if missing:
                extra = [str(key) for key in raw if key not in self._names]
                raise SignatureError(
                    f"the row lacks {_listed(missing)}",
                    where=where,
                    advice=f"Give every feature; unknown here: {_listed(extra)}."
                    if extra
                    else "Give every feature; None stands for a missing value.",
                )
            return [raw[name] for name in self._names]
        if isinstance(raw, np.ndarray) and raw.ndim == 1:
            raw = raw.tolist()
        if isinstance(raw, (str, *_BYTES)) or not isinstance(raw, Sequence):
            raise SignatureError(
                f"a row must be a dict or a sequence, not {_described(raw)}",
                where=where,
                advice=f"Give {_listed(self._names)}.",
            )
        if len(raw) != self._size:
            raise SignatureError(
                f"the row has {len(raw)} values, the model takes {self._size}",
                where=where,
                advice=f"Give {_listed(self._names)}, in this order.",
            )
        return raw

    def _cell(self, position: int, value: object, where: str) -> float:
        feature, codes = self._features[position], self._codes[position]
        place = f"{where}, feature '{feature.name}'" if where else f"feature '{feature.name}'"
        if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
            if not feature.missing_allowed:
                raise SignatureError(
                    "a value is missing, and the model has no answer for that",
                    where=place,
                    advice="Fill it in, or train with missing values.",
                )
            return math.nan
        if codes is not None:
            return _code(value, feature, codes, place)
        return _number(value, place)


def _code(value: object, feature: FeatureSpec, codes: Mapping[Category, int], place: str) -> float:
    try:
        code = codes.get(value)  # type: ignore[call-overload]  # any hashable may be looked up
    except TypeError:
        code = None
    if code is not None:
        return float(code)
    if feature.unknown == "encode" and isinstance(value, (str, bool, int, float, np.generic)):
        return UNKNOWN_CODE
    raise SignatureError(
        f"{_described(value)} is not a known category",
        where=place,
        advice=f"Use one of {_listed([repr(category) for category in codes])}.",
    )


def _number(value: object, place: str) -> float:
    is_no_number = isinstance(value, (str, np.ndarray, *_BYTES))
    try:
        number = math.nan if is_no_number else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise SignatureError(
            f"{_described(value)} came where a number belongs",
            where=place,
            advice="Give a number in the feature's unit.",
        )
    if abs(number) > _FLOAT32_MAX:
        raise SignatureError(
            f"{_described(value)} is too large for a 32-bit float",
            where=place,
            advice="Give a finite number in the feature's unit.",
        )
    return number


def _described(value: object) -> str:
    text = repr(value)
    return f"{text[:60]}…" if len(text) > 60 else text  # noqa: PLR2004 - a line's worth


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
