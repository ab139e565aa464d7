"""Scores with intervals, named as scikit-learn names them.

A share of rows (accuracy) gets Wilson's interval; every other score gets a percentile bootstrap
over rows. For classification the bootstrap draws confusion tables instead of rows, which is the
same thing and fast.
"""

import math
from statistics import NormalDist
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Task = Literal["classification", "regression"]

METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro"),
    "regression": ("r2", "root_mean_squared_error", "mean_absolute_error"),
}
"""Metrics of each task; the first is the default to choose by. For the errors, less is better."""

LEVEL = 0.95
_RESAMPLES = 1000


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """One score with its interval.

    Attributes:
        metric: scikit-learn's name, for example `accuracy` or `r2`.
        value: The score on these rows.
        low: Lower end of the 95 % interval.
        high: Upper end.
        row_count: Rows it was measured on.
    """

    metric: str
    value: float
    low: float
    high: float
    row_count: int

    @property
    def standard_error(self) -> float:
        """Half the interval's width in units of a normal interval's."""
        return (self.high - self.low) / (2 * NormalDist().inv_cdf(0.5 + LEVEL / 2))


def wilson(successes: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (E. B. Wilson, JASA 22 (1927), 209-212).

    Example:
        >>> tuple(round(end, 3) for end in wilson(10, 10))
        (0.722, 1.0)
    """
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half /= 1 + z * z / count
    # At 0 and 1 the ends are exact; rounding must not push them past the share itself.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def confusion(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], class_count: int
) -> NDArray[np.int64]:
    """Count rows by true class (rows) and predicted class (columns); inputs have shape (n,)."""
    cells = truth.astype(np.int64) * class_count + predicted.astype(np.int64)
    counts = np.bincount(cells, minlength=class_count * class_count)
    return counts.reshape(class_count, class_count).astype(np.int64)


def estimate(
    metric: str, truth: NDArray[np.generic], predicted: NDArray[np.generic], *, seed: int = 0
) -> Estimate:
    """Score predictions, with a 95 % interval.

    Args:
        metric: One of `METRICS`.
        truth: Class indices or values, shape (n,), n > 0.
        predicted: The same for the predictions.
        seed: Of the bootstrap.

    Example:
        >>> estimate("accuracy", np.array([0, 1, 1]), np.array([0, 1, 0])).value
        0.6666666666666666
    """
    count = len(truth)
    if metric == "accuracy":
        right = int((truth == predicted).sum())
        low, high = wilson(right, count)
        return Estimate(metric=metric, value=right / count, low=low, high=high, row_count=count)
    random = np.random.default_rng(seed)
    if metric in METRICS["classification"]:
        value, draws = _classification_draws(metric, truth, predicted, random)
    else:
        value, draws = _regression_draws(metric, truth, predicted, random)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # A bootstrap of a bounded score can miss the point estimate when that sits at the bound.
    return Estimate(
        metric=metric,
        value=value,
        low=min(float(low), value),
        high=max(float(high), value),
        row_count=count,
    )


def estimates(
    task: Task, truth: NDArray[np.generic], predicted: NDArray[np.generic], *, seed: int = 0
) -> tuple[Estimate, ...]:
    """Score predictions by every metric of a task."""
    return tuple(estimate(metric, truth, predicted, seed=seed) for metric in METRICS[task])


def _classification_draws(
    metric: str,
    truth: NDArray[np.generic],
    predicted: NDArray[np.generic],
    random: np.random.Generator,
) -> tuple[float, NDArray[np.float64]]:
    classes, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    true, said = codes[: len(truth)], codes[len(truth) :]
    cells, counts = np.unique(true * len(classes) + said, return_counts=True)
    rows, columns = np.divmod(cells, len(classes))
    by_truth = (rows[:, np.newaxis] == np.arange(len(classes))).astype(np.float64)
    by_said = (columns[:, np.newaxis] == np.arange(len(classes))).astype(np.float64)
    hits = by_truth * (rows == columns)[:, np.newaxis]
    draws = random.multinomial(len(truth), counts / counts.sum(), size=_RESAMPLES)
    every = np.vstack([counts, draws]).astype(np.float64)
    right, actual, claimed = every @ hits, every @ by_truth, every @ by_said
    if metric == "balanced_accuracy":
        scores = _mean_where(right, actual, actual > 0)
    else:
        scores = _mean_where(2 * right, actual + claimed, actual + claimed > 0)
    return float(scores[0]), scores[1:]


def _mean_where(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], counted: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Average the ratios of each row over the classes that occur in it."""
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=counted)
    mean: NDArray[np.float64] = ratio.sum(axis=1) / counted.sum(axis=1)
    return mean


def _regression_draws(
    metric: str,
    truth: NDArray[np.generic],
    predicted: NDArray[np.generic],
    random: np.random.Generator,
) -> tuple[float, NDArray[np.float64]]:
    actual = truth.astype(np.float64)
    residual = predicted.astype(np.float64) - actual
    draws = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        rows = random.integers(0, len(actual), len(actual))
        draws[index] = _regression_score(metric, actual[rows], residual[rows])
    return _regression_score(metric, actual, residual), draws


def _regression_score(
    metric: str, actual: NDArray[np.float64], residual: NDArray[np.float64]
) -> float:
    if metric == "mean_absolute_error":
        return float(np.abs(residual).mean())
    squares = float((residual**2).sum())
    if metric == "root_mean_squared_error":
        return math.sqrt(squares / len(actual))
    spread = float(((actual - actual.mean()) ** 2).sum())
    if spread == 0:
        return 1.0 if squares == 0 else 0.0
    return 1.0 - squares / spread
