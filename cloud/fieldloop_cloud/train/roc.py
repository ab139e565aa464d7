"""The area under the ROC curve, with DeLong's interval."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.train.intervals import LEVEL, wilson


def roc_auc(
    truth: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return the area under the ROC curve and the ends of its interval; classes are averaged.

    Classes without rows, or with all of them, have no curve and are left out; with none left the
    area is 0.5. The interval is DeLong's (Biometrics 44 (1988), 837-845) on the scale of log odds.
    Where the classes are parted without a fault, which leaves no variance, it is Wilson's for the
    rows of the rarest class.

    Args:
        truth: Class indices, shape (n,).
        probabilities: Shape (n, classes).

    Example:
        >>> table = np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]])
        >>> roc_auc(np.array([0, 0, 1, 1]), table)[0]
        0.75
    """
    count = len(truth)
    areas: list[float] = []
    influence = np.zeros(count)
    rarest = count
    for index in range(probabilities.shape[1]):
        mine = truth == index
        if not 0 < mine.sum() < count:
            continue
        area, moved = _auc(mine, probabilities[:, index])
        areas.append(area)
        influence += moved
        rarest = min(rarest, int(mine.sum()), int((~mine).sum()))
    if not areas:
        return 0.5, 0.0, 1.0
    value = float(np.mean(areas))
    error = float(np.sqrt(np.mean((influence / len(areas)) ** 2) / count))
    return (value, *_log_odds_interval(value, error, rarest))


def _auc(mine: NDArray[np.bool_], score: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Return the area and how much each row moves it."""
    ours, others = np.sort(score[mine]), np.sort(score[~mine])

    def share_below(sample: NDArray[np.float64], values: NDArray[np.float64]) -> Any:
        left = np.searchsorted(sample, values, side="left")
        right = np.searchsorted(sample, values, side="right")
        return (left + right) / (2 * len(sample))  # ties count half

    above = share_below(others, score[mine])
    below = 1.0 - share_below(ours, score[~mine])
    area = float(above.mean())
    moved = np.empty(len(score))
    moved[mine] = (above - area) / mine.mean()
    moved[~mine] = (below - area) / (~mine).mean()
    return area, moved


def _log_odds_interval(value: float, error: float, rarest: int) -> tuple[float, float]:
    if error == 0 or not 0 < value < 1:
        low, high = wilson(round(value * rarest), rarest)
        return min(low, value), max(high, value)
    half = NormalDist().inv_cdf(0.5 + LEVEL / 2) * error / (value * (1 - value))
    odds = math.log(value / (1 - value))
    return 1 / (1 + math.exp(half - odds)), 1 / (1 + math.exp(-half - odds))
