"""Every criterion for one fitted model: values where they are valid, reasons elsewhere.

Information criteria of different families have nothing to do with each other, so there is never
one column of them across families: compare families by validation.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.criteria.bounds import holdout_bound, radius_margin_bound, srm_bound
from fieldloop_cloud.select.criteria.gaussian import INFORMATION, linear, nearest_neighbours
from fieldloop_cloud.select.criteria.logistic import logistic
from fieldloop_cloud.select.criteria.verdicts import Assessment, CriterionName, refused
from fieldloop_cloud.train.metrics import Estimate

_NO_LIKELIHOOD = {
    "SVC": "the hinge loss is no likelihood; choose by cross-validation",
    "LinearSVC": "the hinge loss is no likelihood; choose by cross-validation",
    "SVR": "the epsilon-insensitive loss is no likelihood; choose by cross-validation",
    "KNeighborsClassifier": "k-NN has no likelihood for classes; choose by cross-validation",
    "MLPClassifier": "a net is a singular model: its parameters are not identified",
    "MLPRegressor": "a net is a singular model: its parameters are not identified",
    "GaussianNB": "its likelihood is that of the features, not of the classes given them",
}
_TREES = "leaves are not degrees of freedom: where they split was chosen by the data"
_MAX_KERNEL_ROWS = 3000


def assess(model: Any, train: Dataset, *, on: str = "") -> tuple[Assessment, ...]:
    """Assess a fitted classical model by every criterion that needs the rows it was fitted on.

    Args:
        model: A fitted scikit-learn Pipeline or estimator.
        train: The rows that it was fitted on.
        on: What its columns are, where they are not the data's own: another family then.
    """
    estimator, inside = _unwrapped(model, train)
    name = type(_core(estimator)).__name__
    family = f"{name}{on and ' on ' + on}, {len(train)} rows"
    try:
        found = _information(model, estimator, inside, train, family)
        found += _structural(model, estimator, inside, train, family)
    except np.linalg.LinAlgError as error:
        names: tuple[CriterionName, ...] = (*INFORMATION, "SRM bound", "radius-margin bound")
        return tuple(refused(names, family, f"it cannot be computed: {error}"))
    return tuple(found)


def assess_net() -> tuple[Assessment, ...]:
    """Assess a net: information criteria and capacity bounds say nothing about it."""
    family = "net"
    singular = "a net is a singular model: its parameters are not identified"
    found = refused(INFORMATION, family, singular)
    vacuous = "a net's capacity exceeds its rows, so the bound is vacuous"
    found += refused(("SRM bound",), family, vacuous)
    found += refused(("radius-margin bound",), family, "it belongs to support vector machines")
    return tuple(found)


def assess_held_out(score: Estimate, *, model_count: int, family: str) -> Assessment:
    """Assess a score on held-out rows.

    Args:
        score: On rows that the model was not fitted on.
        model_count: Models that were compared on them.
        family: Of the verdict.
    """
    if score.metric != "accuracy":
        reason = f"the bound is for the share of right answers, not for {score.metric}"
        return refused(("hold-out bound",), family, reason)[0]
    return holdout_bound(
        1 - score.value, row_count=score.row_count, model_count=model_count, family=family
    )


_UNBOUNDED = "the bound needs a loss with an upper limit, which a regression has not"


def _unwrapped(model: Any, train: Dataset) -> tuple[Any, NDArray[np.float64] | None]:
    """Return the estimator at a pipeline's end and its input; None where `y` chose the columns."""
    rows = train.flat.astype(np.float64)
    steps = getattr(model, "steps", None)
    if steps is None:
        return model, rows
    chosen = any(type(step).__module__.startswith("sklearn.feature_selection") for _, step in steps)
    estimator = steps[-1][1]
    if len(steps) == 1:
        return estimator, rows
    return estimator, None if chosen else np.asarray(model[:-1].transform(rows), dtype=np.float64)


def _information(
    model: Any,
    estimator: Any,
    inside: NDArray[np.float64] | None,
    train: Dataset,
    family: str,
) -> list[Assessment]:
    name = type(estimator).__name__
    if inside is None:
        reason = "its columns were chosen by the target, which the criteria do not count"
        return refused(INFORMATION, family, reason)
    rows = train.flat.astype(np.float64)
    if name in ("LinearRegression", "Ridge"):
        return linear(
            inside,
            train.y.astype(np.float64),
            np.asarray(model.predict(rows)),
            penalty=float(getattr(estimator, "alpha", 0.0)),
            family=family,
            has_intercept=bool(estimator.fit_intercept),
        )
    if name == "LogisticRegression":
        return _logistic(model, estimator, inside, train, family)
    if name == "KNeighborsRegressor":
        return nearest_neighbours(
            train.y.astype(np.float64),
            np.asarray(model.predict(rows)),
            neighbour_count=int(estimator.n_neighbors),
            family=family,
        )
    return refused(INFORMATION, family, _reason(estimator))


def _logistic(
    model: Any,
    estimator: Any,
    inside: NDArray[np.float64],
    train: Dataset,
    family: str,
) -> list[Assessment]:
    if getattr(estimator, "l1_ratio", None) or getattr(estimator, "penalty", None) == "l1":
        return refused(INFORMATION, family, "an L1 penalty has no smooth likelihood")
    if estimator.class_weight is not None or not estimator.fit_intercept:
        return refused(INFORMATION, family, "weighted rows or a missing intercept are not counted")
    is_free = getattr(estimator, "penalty", "l2") is None or not np.isfinite(estimator.C)
    codes = np.searchsorted(model.classes_, train.y)
    return logistic(
        inside,
        codes.astype(np.int64),
        np.asarray(model.predict_proba(train.flat.astype(np.float64))),
        penalty=0.0 if is_free else 1.0 / float(estimator.C),
        family=family,
    )


def _reason(estimator: Any) -> str:
    name = type(_core(estimator)).__name__
    if name in _NO_LIKELIHOOD:
        return _NO_LIKELIHOOD[name]
    if any(part in name for part in ("Tree", "Forest", "Boost", "LGBM", "XGB", "Bagging")):
        return _TREES
    return f"no likelihood with counted parameters is known for {name}"


def _core(estimator: Any) -> Any:
    """Return the estimator inside a calibration."""
    calibrated = getattr(estimator, "calibrated_classifiers_", None)
    return calibrated[0].estimator if calibrated else estimator


def _structural(
    model: Any,
    estimator: Any,
    inside: NDArray[np.float64] | None,
    train: Dataset,
    family: str,
) -> list[Assessment]:
    names: tuple[CriterionName, ...] = ("SRM bound", "radius-margin bound")
    if train.task == "regression":
        return refused(names, family, _UNBOUNDED)
    core = _core(estimator)
    is_binary = len(np.unique(train.y)) == 2  # noqa: PLR2004 - the theory is for two classes
    if not is_binary:
        return refused(names, family, "the theory of capacity is for two classes")
    found: list[Assessment] = []
    is_linear = type(core).__name__ in ("LogisticRegression", "LinearSVC") or (
        getattr(core, "kernel", "") == "linear"
    )
    if is_linear and inside is not None:
        wrong = float((model.predict(train.flat.astype(np.float64)) != train.y).mean())
        found.append(
            srm_bound(wrong, row_count=len(train), capacity=inside.shape[1] + 1, family=family)
        )
    else:
        found += refused(("SRM bound",), family, "its capacity is unbounded or not known")
    return found + _radius_margin(core, inside, train, family)


def _radius_margin(
    core: Any, inside: NDArray[np.float64] | None, train: Dataset, family: str
) -> list[Assessment]:
    name: tuple[CriterionName, ...] = ("radius-margin bound",)
    if type(core).__name__ != "SVC":
        return refused(name, family, "it belongs to support vector machines")
    if inside is None or len(inside) > _MAX_KERNEL_ROWS or len(core.shape_fit_) == 0:
        return refused(name, family, "the kernel of all rows is not available")
    margins = core.decision_function(inside) * np.where(train.y == core.classes_[1], 1, -1)
    if margins.min() < 1 - 1e-3:
        return refused(name, family, "rows lie inside the margin, where the bound does not hold")
    from sklearn.metrics.pairwise import pairwise_kernels  # noqa: PLC0415 - slow to load

    parameters = {"gamma": core._gamma} if core.kernel in ("rbf", "poly", "sigmoid") else {}  # noqa: SLF001 - "scale" resolved
    if core.kernel in ("poly", "sigmoid"):
        parameters |= {"coef0": core.coef0}
    if core.kernel == "poly":
        parameters |= {"degree": core.degree}
    coefficients = np.zeros(len(inside))
    coefficients[core.support_] = core.dual_coef_[0]
    kernel = pairwise_kernels(inside, metric=core.kernel, **parameters)
    return [radius_margin_bound(kernel, coefficients, family=family)]
