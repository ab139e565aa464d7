"""AIC, BIC and TIC of logistic regression, with or without an L2 penalty.

Degrees of freedom are tr[H (H + lambda)^-1] with H the Fisher information (Gray, JASA 87 (1992),
942-951), and TIC's penalty tr[(H + lambda)^-1 J] with J the scores' outer products. Without a
penalty the values are statsmodels'.
"""

import math

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.select.criteria.gaussian import CROWDED, INFORMATION, crowded
from fieldloop_cloud.select.criteria.separation import is_separated
from fieldloop_cloud.select.criteria.verdicts import Assessment, Verdict, refused

_MAX_PARAMETERS = 3000


def logistic(
    X: NDArray[np.float64],
    y: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    *,
    penalty: float,
    family: str,
) -> list[Assessment]:
    """Assess a logistic regression with an intercept.

    Args:
        X: What the model itself was fitted on, (n, columns), without the intercept.
        y: Class indices that count the columns of `probabilities`, (n,).
        probabilities: Its answers on these rows, (n, classes).
        penalty: lambda of lambda/2 |w|^2, for scikit-learn 1 / C.
        family: Of the verdicts.
    """
    count, classes = probabilities.shape
    design = np.column_stack([np.ones(count), X])
    free = (classes - 1) * design.shape[1]
    if free * CROWDED >= count or free > _MAX_PARAMETERS:
        return refused(INFORMATION, family, crowded(free, count))
    separated = is_separated(X, y)
    if separated is None:
        reason = "there are too many rows and classes to rule out that they are separated"
        return refused(INFORMATION, family, reason)
    if separated:
        reason = (
            "the classes are separated, wholly or up to rows on the border, so the likelihood has "
            "no maximum"
        )
        return refused(INFORMATION, family, reason)
    if penalty == 0 and np.linalg.matrix_rank(design) < design.shape[1]:
        reason = "columns depend on each other linearly, so the model is singular"
        return refused(INFORMATION, family, reason)
    freedom, robust = _traces(design, y, probabilities, penalty)
    chosen = np.clip(probabilities[np.arange(count), y], np.finfo(float).tiny, None)
    deviance = -2 * float(np.log(chosen).sum())
    note = f"{freedom:.1f} degrees of freedom"
    return [
        Verdict(name="AIC", family=family, value=deviance + 2 * freedom, note=note),
        *refused(("AICc",), family, "its correction is derived for normal errors"),
        Verdict(name="BIC", family=family, value=deviance + math.log(count) * freedom, note=note),
        Verdict(
            name="TIC", family=family, value=deviance + 2 * robust, note=f"penalty {robust:.1f}"
        ),
    ]


def _traces(
    design: NDArray[np.float64],
    y: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    penalty: float,
) -> tuple[float, float]:
    """Return tr[H (H + lambda)^-1] and tr[(H + lambda)^-1 J].

    Two classes share one weight vector, as in scikit-learn; more have one each, of which the
    common part has no effect and drops out with the pseudo-inverse.
    """
    count, columns = design.shape
    truth = np.zeros_like(probabilities)
    truth[np.arange(count), y] = 1.0
    shares, wrong = probabilities, truth - probabilities
    if probabilities.shape[1] == 2:  # noqa: PLR2004 - as said
        shares, wrong = probabilities[:, 1:], wrong[:, 1:]
    blocks = shares.shape[1]
    size = blocks * columns
    information = np.empty((size, size))
    for first in range(blocks):
        for second in range(first, blocks):
            weight = shares[:, first] * ((first == second) - shares[:, second])
            block = design.T @ (design * weight[:, np.newaxis])
            rows = slice(first * columns, (first + 1) * columns)
            others = slice(second * columns, (second + 1) * columns)
            information[rows, others] = block
            information[others, rows] = block.T
    scores = (wrong[:, :, np.newaxis] * design[:, np.newaxis, :]).reshape(count, size)
    ridge = np.full((blocks, columns), penalty)
    ridge[:, 0] = 0.0  # the intercept is not penalised
    inverse = np.linalg.pinv(information + np.diag(ridge.ravel()), hermitian=True)
    freedom = float((inverse * information).sum())
    robust = float(((scores @ inverse) * scores).sum())
    return freedom, robust
