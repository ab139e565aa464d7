"""Scores with intervals, named as scikit-learn names them.

A share of rows (accuracy) gets Wilson's interval and the area under the ROC curve DeLong's; every
other score gets a percentile bootstrap over rows. For classification the bootstrap draws confusion
tables instead of rows, which is the same thing and fast.
"""

import math
from statistics import NormalDist
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.train.intervals import LEVEL, wilson
from fieldloop_cloud.train.roc import roc_auc

__all__ = [
    "LEVEL",
    "METRICS",
    "PROBABILITY_METRICS",
    "Estimate",
    "Task",
    "class_f1",
    "confusion",
    "estimate",
    "estimates",
    "is_better",
    "wilson",
]

Task = Literal["classification", "regression"]

METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"),
    "regression": ("r2", "root_mean_squared_error", "mean_absolute_error"),
}
"""Metrics of each task; the first is the default to choose by."""

PROBABILITY_METRICS: tuple[str, ...] = ("roc_auc", "log_loss")
"""Metrics of classification that need probabilities. The area is each class's against the rest,
averaged over the classes."""

_LESS_IS_BETTER = ("log_loss", "root_mean_squared_error", "mean_absolute_error")

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


def confusion(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], class_count: int
) -> NDArray[np.int64]:
    """Count rows by true class (rows) and predicted class (columns); inputs have shape (n,)."""
    cells = truth.astype(np.int64) * class_count + predicted.astype(np.int64)
    counts = np.bincount(cells, minlength=class_count * class_count)
    return counts.reshape(class_count, class_count).astype(np.int64)


def is_better(metric: str, value: float, other: float) -> bool:
    """Whether a score beats another one; of errors and losses less is better.

    Example:
        >>> is_better("accuracy", 0.9, 0.8), is_better("log_loss", 0.9, 0.8)
        (True, False)
    """
    return value < other if metric in _LESS_IS_BETTER else value > other


def estimate(
    metric: str,
    truth: NDArray[np.generic],
    predicted: NDArray[np.generic],
    *,
    probabilities: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Estimate:
    """Score predictions, with a 95 % interval.

    Args:
        metric: One of `METRICS`, or of `PROBABILITY_METRICS`.
        truth: Class indices or values, shape (n,), n > 0.
        predicted: The same for the predictions.
        probabilities: Of the classes, (n, classes); `PROBABILITY_METRICS` need them.
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
    if metric in PROBABILITY_METRICS:
        assert probabilities is not None, f"{metric} needs probabilities"
        if metric == "roc_auc":
            value, low, high = roc_auc(truth.astype(np.int64), probabilities)
            return Estimate(metric=metric, value=value, low=low, high=high, row_count=count)
    random = np.random.default_rng(seed)
    if metric == "log_loss" and probabilities is not None:
        value, draws = _mean_draws(_row_log_losses(truth, probabilities), random)
    elif metric in METRICS["classification"]:
        value, draws = _classification_draws(metric, truth, predicted, random)
    else:
        value, draws = _regression_draws(metric, truth, predicted, random)
    return _between(metric, value, draws, count)


def _between(metric: str, value: float, draws: NDArray[np.float64], row_count: int) -> Estimate:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # A bootstrap of a bounded score can miss the point estimate when that sits at the bound.
    return Estimate(
        metric=metric,
        value=value,
        low=min(float(low), value),
        high=max(float(high), value),
        row_count=row_count,
    )


def estimates(
    task: Task,
    truth: NDArray[np.generic],
    predicted: NDArray[np.generic],
    *,
    probabilities: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> tuple[Estimate, ...]:
    """Score predictions by every metric of a task; arguments as for `estimate`."""
    more = PROBABILITY_METRICS if probabilities is not None else ()
    return tuple(
        estimate(metric, truth, predicted, probabilities=probabilities, seed=seed)
        for metric in (*METRICS[task], *more)
    )


def class_f1(
    truth: NDArray[np.generic], predicted: NDArray[np.generic], class_count: int, *, seed: int = 0
) -> tuple[Estimate, ...]:
    """Return the F1 score of each class, in the order of the indices.

    A class that neither occurs nor is predicted scores 0.

    Example:
        >>> [round(e.value, 2) for e in class_f1(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)]
        [0.67, 0.67]
    """
    random = np.random.default_rng(seed)
    right, actual, claimed = _drawn_tables(truth, predicted, class_count, random)
    total = actual + claimed
    table = np.divide(2 * right, total, out=np.zeros_like(total), where=total > 0)
    return tuple(_between("f1", float(column[0]), column[1:], len(truth)) for column in table.T)


def _row_log_losses(
    truth: NDArray[np.generic], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    # Clipped as scikit-learn clips: one row that was sure and wrong must not be infinite.
    tiny = np.finfo(np.float32).eps
    table = np.clip(probabilities, tiny, 1.0)
    table = table / table.sum(axis=1, keepdims=True)
    said = table[np.arange(len(truth)), truth.astype(np.int64)]
    losses: NDArray[np.float64] = -np.log(said)
    return losses


def _mean_draws(
    values: NDArray[np.float64], random: np.random.Generator
) -> tuple[float, NDArray[np.float64]]:
    draws = [values[random.integers(0, len(values), len(values))].mean() for _ in range(_RESAMPLES)]
    return float(values.mean()), np.asarray(draws)


def _classification_draws(
    metric: str,
    truth: NDArray[np.generic],
    predicted: NDArray[np.generic],
    random: np.random.Generator,
) -> tuple[float, NDArray[np.float64]]:
    classes, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    true, said = codes[: len(truth)], codes[len(truth) :]
    right, actual, claimed = _drawn_tables(true, said, len(classes), random)
    if metric == "balanced_accuracy":
        scores = _mean_where(right, actual, actual > 0)
    elif metric == "f1_macro":
        scores = _mean_where(2 * right, actual + claimed, actual + claimed > 0)
    else:
        total = actual + claimed
        f1 = np.divide(2 * right, total, out=np.zeros_like(total), where=total > 0)
        scores = (f1 * actual).sum(axis=1) / actual.sum(axis=1)
    return float(scores[0]), scores[1:]


def _drawn_tables(
    true: NDArray[Any], said: NDArray[Any], class_count: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return rows right, actual and claimed of each class: as they are, then as resampled."""
    true, said = true.astype(np.int64), said.astype(np.int64)
    cells, counts = np.unique(true * class_count + said, return_counts=True)
    rows, columns = np.divmod(cells, class_count)
    by_truth = (rows[:, np.newaxis] == np.arange(class_count)).astype(np.float64)
    by_said = (columns[:, np.newaxis] == np.arange(class_count)).astype(np.float64)
    hits = by_truth * (rows == columns)[:, np.newaxis]
    draws = random.multinomial(len(true), counts / counts.sum(), size=_RESAMPLES)
    every = np.vstack([counts, draws]).astype(np.float64)
    return every @ hits, every @ by_truth, every @ by_said


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
