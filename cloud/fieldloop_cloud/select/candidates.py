"""The candidates: small frozen descriptions, preprocessing included.

A candidate says for which data it is meant, what it may cost, and how to build its estimators; it
holds no data and trains nothing. The portfolio is short on purpose: a few settings that are strong
on most data beat a search on small budgets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldloop.errors import ConfigError, GateError
from fieldloop_cloud.compile.conversion import INSTALL_DEEP, missing_packages
from fieldloop_cloud.data.dataset import Dataset, DataTask

Settings = dict[str, Any]
"""Hyper-parameters of one entry of a portfolio, by scikit-learn's names."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One kind of model.

    Attributes:
        name: As in reports and options.
        tasks: What it can predict.
        portfolio: Settings to try, in order.
        growth: Exponent of training time in the number of rows, for the time estimate.
        build: Makes an unfitted scikit-learn estimator from (data, settings, seed); None for nets.
        shrink: Returns settings of a model with about this share of the bytes, None if there is
            no smaller one; None for models that have no size to choose.
    """

    name: str
    tasks: tuple[DataTask, ...]
    portfolio: tuple[Settings, ...]
    growth: float
    build: Callable[[Dataset, Settings, int], Any] | None
    shrink: Callable[[Settings, float], Settings | None] | None = None

    @property
    def is_deep(self) -> bool:
        """Whether it is a net, which needs the extra `[deep]`."""
        return self.build is None

    def why_not(self, dataset: Dataset) -> str:
        """Return why it cannot be used on this data here; empty if it can."""
        if dataset.task not in self.tasks:
            return f"it does not do {dataset.task}"
        if not self.is_deep:
            return ""
        if dataset.kind != "image":
            return "it needs images"
        missing = missing_packages()
        return f"{missing}: {INSTALL_DEEP}" if missing else ""


def portfolio(names: tuple[str, ...] | None = None) -> tuple[Candidate, ...]:
    """Return candidates, the cheapest to train first.

    Args:
        names: Only these; None for all.

    Raises:
        ConfigError: A name that is not known.
    """
    if names is None:
        return CANDIDATES
    known = {candidate.name: candidate for candidate in CANDIDATES}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(
            f"there is no candidate {', '.join(unknown)}" if unknown else "no candidate is named",
            advice=f"Use some of: {', '.join(known)}.",
        )
    return tuple(candidate for candidate in CANDIDATES if candidate.name in names)


def preprocessing(dataset: Dataset, *, scale: bool) -> list[tuple[str, Any]]:
    """Return pipeline steps: impute what may be missing, one-hot categories, scale numbers."""
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415 - only when training
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415

    if dataset.image is not None:
        # Pixels share one scale already. Standardising each for itself would blow up the border,
        # which hardly varies in training: the first camera with some noise would be off the map.
        return []
    numeric = [i for i, spec in enumerate(dataset.features) if not spec.categories]
    coded = [i for i, spec in enumerate(dataset.features) if spec.categories]
    missing = any(dataset.features[i].missing_allowed for i in numeric)
    steps = _numeric_steps(missing=missing, scale=scale)
    if not coded:
        return steps
    from sklearn.pipeline import Pipeline  # noqa: PLC0415

    codes = [np.arange(len(dataset.features[i].categories), dtype=np.float64) for i in coded]
    encoder = OneHotEncoder(categories=codes, handle_unknown="ignore", sparse_output=False)
    parts: list[tuple[str, Any, list[int]]] = [("categories", encoder, coded)]
    if numeric:
        parts.insert(0, ("numbers", Pipeline(steps) if steps else "passthrough", numeric))
    return [("columns", ColumnTransformer(parts))]


def _numeric_steps(*, missing: bool, scale: bool) -> list[tuple[str, Any]]:
    from sklearn.impute import SimpleImputer  # noqa: PLC0415 - only when training
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    steps: list[tuple[str, Any]] = []
    if missing:
        steps.append(("impute", SimpleImputer(strategy="median")))
    if scale:
        steps.append(("scale", StandardScaler()))
    return steps


def _pipeline(dataset: Dataset, estimator: Any, *, scale: bool) -> Any:
    from sklearn.pipeline import Pipeline  # noqa: PLC0415 - only when training

    return Pipeline([*preprocessing(dataset, scale=scale), ("model", estimator)])


def _logistic(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - only when training

    model = LogisticRegression(max_iter=2000, random_state=seed, **settings)
    return _pipeline(dataset, model, scale=True)


def _ridge(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.linear_model import Ridge  # noqa: PLC0415 - only when training

    return _pipeline(dataset, Ridge(random_state=seed, **settings), scale=True)


def _svm(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.calibration import CalibratedClassifierCV  # noqa: PLC0415 - only when training
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415
    from sklearn.svm import SVC  # noqa: PLC0415

    smallest = min(count for count in dataset.class_counts if count)
    if smallest < 2:  # noqa: PLR2004 - one to fit, one to calibrate
        raise GateError(
            "a class has a single training row, and calibration needs two",
            where="svm-rbf",
            advice="Bring more rows of it, or merge it with another class.",
        )
    folds = StratifiedKFold(min(5, smallest), shuffle=True, random_state=seed)
    # One SVM on all rows; Platt's sigmoids are fitted on cross-validated decisions, as
    # SVC(probability=True) did before scikit-learn deprecated it.
    model = CalibratedClassifierCV(
        SVC(kernel="rbf", **settings), method="sigmoid", cv=folds, ensemble=False
    )
    return _pipeline(dataset, model, scale=True)


def _forest(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.ensemble import (  # noqa: PLC0415 - only when training
        RandomForestClassifier,
        RandomForestRegressor,
    )

    kind = RandomForestClassifier if dataset.task == "classification" else RandomForestRegressor
    return _pipeline(dataset, kind(random_state=seed, n_jobs=1, **settings), scale=False)


_FEW_TREES = 10
_LOWEST_DEPTH = 3


def _smaller_forest(settings: Settings, share: float) -> Settings | None:
    """Fewer trees first; below ten of them shallower ones."""
    trees, depth = int(settings["n_estimators"]), int(settings["max_depth"])
    if trees == 1 and depth <= _LOWEST_DEPTH:
        return None
    fitting = min(trees - 1, int(trees * share))
    if fitting < _FEW_TREES and depth > _LOWEST_DEPTH:
        return {**settings, "n_estimators": min(trees, _FEW_TREES), "max_depth": depth - 1}
    return {**settings, "n_estimators": max(1, fitting)}


CANDIDATES: tuple[Candidate, ...] = (
    Candidate("logistic", ("classification",), ({"C": 1.0}, {"C": 0.03}), 1.0, _logistic),
    Candidate("ridge", ("regression",), ({"alpha": 1.0}, {"alpha": 30.0}), 1.0, _ridge),
    Candidate(
        "random-forest",
        ("classification", "regression"),
        ({"n_estimators": 100, "max_depth": 12}, {"n_estimators": 40, "max_depth": 10}),
        1.1,
        _forest,
        _smaller_forest,
    ),
    Candidate(
        "svm-rbf",
        ("classification",),
        ({"C": 10.0, "gamma": "scale"}, {"C": 1.0, "gamma": "scale"}),
        2.0,
        _svm,
    ),
    Candidate("cnn", ("classification",), ({},), 1.0, None),
)
"""Every candidate, the cheapest to train first."""
