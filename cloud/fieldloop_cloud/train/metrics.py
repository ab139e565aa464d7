"""Scores with intervals, named as scikit-learn names them."""

import msgspec


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """One score with its interval.

    Attributes:
        metric: scikit-learn's name, for example `accuracy` or `r2`.
        value: The score on these rows.
        low: Lower end of the interval.
        high: Upper end.
        row_count: Rows it was measured on.
        level: Coverage of the interval.
    """

    metric: str
    value: float
    low: float
    high: float
    row_count: int
    level: float = 0.95
