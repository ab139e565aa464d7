"""AIC, AICc, BIC and TIC of models with normal errors: least squares, ridge, k-NN regression.

-2 log likelihood = n (ln(2 pi RSS / n) + 1) at the best variance. A fit is linear in the target,
y_hat = S y; its degrees of freedom are the trace of S: the columns' number for least squares,
sum d^2 / (d^2 + lambda) for ridge, n / k for k-NN. The variance counts as one more parameter
everywhere, so the values are statsmodels' with one parameter added.
"""

import math

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.select.criteria.verdicts import Assessment, CriterionName, Verdict, refused

INFORMATION: tuple[CriterionName, ...] = ("AIC", "AICc", "BIC", "TIC")

CROWDED = 3
"""With fewer rows a parameter, the approximations behind the criteria break down."""

_RANK_TOLERANCE = 1e-10


def linear(
    X: NDArray[np.float64],
    y: NDArray[np.float64],
    predicted: NDArray[np.float64],
    *,
    penalty: float,
    family: str,
    has_intercept: bool = True,
) -> list[Assessment]:
    """Assess least squares (penalty 0) or ridge.

    Args:
        X: What the linear model itself was fitted on, (n, columns), without the intercept.
        y: Targets, (n,).
        predicted: Its answers on these rows, (n,).
        penalty: Ridge's lambda; the intercept is not penalised.
        family: Of the verdicts.
        has_intercept: Whether the model has one.
    """
    count, columns = X.shape[0], X.shape[1] + has_intercept
    if columns * CROWDED >= count:
        return refused(INFORMATION, family, crowded(columns, count))
    centred = X - X.mean(axis=0) if has_intercept else X
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    is_singular = singular.min(initial=np.inf) <= _RANK_TOLERANCE * singular.max(initial=0.0)
    if penalty == 0 and is_singular:
        reason = "columns depend on each other linearly, so the model is singular"
        return refused(INFORMATION, family, reason)
    shrinkage = singular**2 / (singular**2 + penalty)
    freedom = float(shrinkage.sum()) + has_intercept
    residual = y - predicted
    variance = float((residual**2).mean())
    if variance <= 0:
        return refused(INFORMATION, family, "the fit is perfect, so the likelihood is unbounded")
    leverage = (left**2 * shrinkage).sum(axis=1) + (1 / count if has_intercept else 0.0)
    standard = residual**2 / variance
    # tr[(H + lambda)^-1 J]: the coefficients' part, and the variance's, (kurtosis - 1) / 2.
    robust = float((leverage * standard).sum() + ((standard - 1) ** 2).mean() / 2)
    return _values(count, variance, freedom, robust, family)


def nearest_neighbours(
    y: NDArray[np.float64], predicted: NDArray[np.float64], *, neighbour_count: int, family: str
) -> list[Assessment]:
    """Assess a k-NN regression, which has n / k degrees of freedom."""
    count = len(y)
    freedom = count / neighbour_count
    variance = float(((y - predicted) ** 2).mean())
    if freedom * CROWDED >= count or variance <= 0:
        reason = f"{neighbour_count} neighbours make {freedom:.0f} parameters for {count} rows"
        return refused(INFORMATION, family, reason)
    found = _values(count, variance, freedom, 0.0, family)
    return found[:-1] + refused(("TIC",), family, "k-NN has no parameters to differentiate by")


def crowded(columns: int, count: int) -> str:
    """Say that there are too many parameters."""
    return (
        f"{columns} parameters for {count} rows are too many: fewer than {CROWDED} rows each, "
        "where the approximation breaks down"
    )


def _values(
    count: int, variance: float, freedom: float, robust: float, family: str
) -> list[Assessment]:
    deviance = count * (math.log(2 * math.pi * variance) + 1)
    parameters = freedom + 1
    aic = deviance + 2 * parameters
    correction = 2 * parameters * (parameters + 1) / (count - parameters - 1)
    note = f"{freedom:.1f} degrees of freedom"
    return [
        Verdict(name="AIC", family=family, value=aic, note=note),
        Verdict(name="AICc", family=family, value=aic + correction, note=note),
        Verdict(
            name="BIC", family=family, value=deviance + math.log(count) * parameters, note=note
        ),
        Verdict(
            name="TIC", family=family, value=deviance + 2 * robust, note=f"penalty {robust:.1f}"
        ),
    ]
