"""What happens to values outside the range that was seen in training."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, SignatureError
from fieldloop.signature import FeatureSpec

RangePolicy = Literal["flag", "reject", "clip"]
"""`flag` names the features in the answer, `reject` refuses the row, `clip` moves the value to the
nearest one seen in training and names the feature. An unknown category has no nearest one: `clip`
flags it."""


class RangeCheck:
    """The ranges of one model's features; compares as float32, like the row.

    Args:
        features: In the order of the columns.
        columns: Where the features lie in an encoded row.
        policy: What to do.

    Raises:
        ConfigError: An unknown policy.

    Example:
        >>> check = RangeCheck((FeatureSpec(name="volts", low=0.0, high=5.0),), policy="clip")
        >>> rows = np.array([[7.0]], dtype=np.float32)
        >>> check.outside(rows), check.clipped(rows).tolist()
        ([('volts',)], [[5.0]])
    """

    def __init__(
        self,
        features: Sequence[FeatureSpec],
        *,
        columns: slice = slice(None),
        policy: RangePolicy = "flag",
    ) -> None:
        if policy not in get_args(RangePolicy):
            raise ConfigError(
                f"'{policy}' is not a range policy",
                advice=f"Use one of {', '.join(get_args(RangePolicy))}.",
            )
        self._features = tuple(features)
        self._columns = columns
        self._policy = policy
        limits = [bounds(feature) for feature in features]
        self._lows = np.asarray([low for low, _ in limits], dtype=np.float32)
        self._highs = np.asarray([high for _, high in limits], dtype=np.float32)
        self._is_number = np.asarray([not feature.categories for feature in features])

    @property
    def clips(self) -> bool:
        """Whether the model must see clipped rows."""
        return self._policy == "clip"

    def outside(self, rows: NDArray[np.float32]) -> list[tuple[str, ...]]:
        """Name, for each row, the features out of range.

        Args:
            rows: Encoded rows, shape (n, …). An unknown category is outside, a missing value not.

        Raises:
            SignatureError: There is one, and the policy is `reject`; names the first.
        """
        values = rows[:, self._columns]
        outside = (values < self._lows) | (values > self._highs)
        if not outside.any():
            return [()] * len(rows)
        if self._policy == "reject":
            row, column = (int(place[0]) for place in np.nonzero(outside))
            raise self._refusal(column, float(values[row, column]), row, len(rows))
        return [
            tuple(self._features[column].name for column in np.flatnonzero(row).tolist())
            for row in outside
        ]

    def clipped(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a copy of encoded rows whose numbers lie in their ranges."""
        rows = rows.copy()
        values = rows[:, self._columns]
        inside = np.clip(values, self._lows, self._highs)
        rows[:, self._columns] = np.where(self._is_number, inside, values)
        return rows

    def _refusal(self, column: int, value: float, row: int, count: int) -> SignatureError:
        feature = self._features[column]
        where = f"feature '{feature.name}'"
        if count > 1:
            where = f"row {row}, {where}"
        if feature.categories:
            return SignatureError(
                "this category was not seen in training",
                where=where,
                advice="Use a known one, or allow it: out_of_range = 'flag'.",
            )
        low, high = bounds(feature)
        return SignatureError(
            f"{value:g} lies outside {low:g} … {high:g}, what was seen in training",
            where=where,
            advice="Check the sensor and its unit, or allow it: out_of_range = 'flag' or 'clip'.",
        )


def bounds(feature: FeatureSpec) -> tuple[float, float]:
    """Return the smallest and largest encoded value that was seen; infinite if not known."""
    if feature.categories:
        return 0.0, len(feature.categories) - 1.0
    low = -math.inf if feature.low is None else feature.low
    return low, math.inf if feature.high is None else feature.high


def float32_limits(feature: FeatureSpec) -> tuple[float, float]:
    """Return limits for unrounded numbers: within them is what float32 rounds into the range.

    A row of Python numbers can so be checked before it is rounded. Infinite bounds become the
    largest float32, so that only finite numbers pass.

    Example:
        >>> low, high = float32_limits(FeatureSpec(name="x", low=0.3, high=0.7))
        >>> low <= 0.3, low <= float(np.float32(0.3)), low <= 0.29999, high >= 0.7
        (True, True, False, True)
    """
    low, high = bounds(feature)
    return -_upper_limit(-low), _upper_limit(high)


def float32_bounds(
    features: Sequence[FeatureSpec],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the limits of values that are float32 already, one a feature; only finite ones pass.

    Example:
        >>> low, high = float32_bounds([FeatureSpec(name="x", low=0.0)])
        >>> float(low[0]), bool(np.isfinite(high[0]))
        (0.0, True)
    """
    limits = np.asarray([bounds(feature) for feature in features]).reshape(-1, 2)
    largest = float(np.finfo(np.float32).max)
    low, high = np.clip(limits, -largest, largest).astype(np.float32).T.copy()
    return low, high


def _upper_limit(high: float) -> float:
    """Return the largest float64 that float32 rounds to `high` or less."""
    largest = np.finfo(np.float32).max
    top = np.float32(min(max(high, -float(largest)), float(largest)))
    if top == largest:
        return float(largest)
    middle = (float(top) + float(np.nextafter(top, np.float32(np.inf)))) / 2
    return middle if np.float32(middle) <= top else math.nextafter(middle, -math.inf)
