"""Bounds on the true error rate that hold with probability 1 - delta, whatever the data are.

They rank models of nested families and warn; most are far above what is measured, and those that
say nothing are called vacuous.
"""

import math

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.select.criteria.verdicts import Verdict

DELTA = 0.05


def srm_bound(
    training_error: float, *, row_count: int, capacity: int, family: str, delta: float = DELTA
) -> Verdict:
    """Bound the error of a binary classifier by its training error and its capacity.

    error <= training error + sqrt((h (ln(2n/h) + 1) + ln(4/delta)) / n)

    Args:
        training_error: Share of training rows that it gets wrong.
        row_count: n.
        capacity: h, the VC dimension: columns + 1 for a linear rule.
        family: Of the verdict.
        delta: Probability that the bound fails.
    """
    gap = 1.0
    if capacity < row_count:
        inside = capacity * (math.log(2 * row_count / capacity) + 1) + math.log(4 / delta)
        gap = math.sqrt(inside / row_count)
    return _bound("SRM bound", family, training_error + gap, f"capacity {capacity}")


def holdout_bound(
    error: float, *, row_count: int, model_count: int, family: str, delta: float = DELTA
) -> Verdict:
    """Bound the error of the best of some models by its error on held-out rows.

    error <= held-out error + sqrt(ln(2 M / delta) / (2 n))

    Args:
        error: Share of held-out rows that it gets wrong.
        row_count: n, held-out rows.
        model_count: M, models compared on them.
        family: Of the verdict.
        delta: Probability that the bound fails.
    """
    gap = math.sqrt(math.log(2 * model_count / delta) / (2 * row_count))
    return _bound("hold-out bound", family, error + gap, f"{model_count} models compared")


def radius_margin_bound(
    kernel: NDArray[np.float64], coefficients: NDArray[np.float64], *, family: str
) -> Verdict:
    """Bound the leave-one-out error of a binary SVM without a row inside its margin.

    error <= R^2 |w|^2 / n, with R the radius of a ball around all rows in the kernel's space.

    Args:
        kernel: Kernel values of the training rows, (n, n).
        coefficients: alpha times the class's sign, 0 for rows that support nothing, (n,).
        family: Of the verdict.
    """
    squared_norm = float(coefficients @ kernel @ coefficients)
    # Around the mean: no smaller than the smallest ball, so the bound stays one.
    distances = np.diag(kernel) - 2 * kernel.mean(axis=1) + kernel.mean()
    value = float(distances.max()) * squared_norm / len(kernel)
    return _bound("radius-margin bound", family, value, f"margin {1 / math.sqrt(squared_norm):.3g}")


def _bound(name: str, family: str, value: float, note: str) -> Verdict:
    vacuous = "; vacuous: it allows any error" if value >= 1 else ""
    return Verdict(
        name=name,  # type: ignore[arg-type] # one of three literals of this module
        family=family,
        value=min(1.0, value),
        note=note + vacuous,
    )
