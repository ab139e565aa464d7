"""The steps before the model: impute what may be missing, one-hot categories, scale numbers."""

from typing import Any

import numpy as np

from fieldloop_cloud.data.dataset import Dataset


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


def pipeline(dataset: Dataset, estimator: Any, *, scale: bool) -> Any:
    """Return an estimator behind its preprocessing."""
    from sklearn.pipeline import Pipeline  # noqa: PLC0415 - only when training

    return Pipeline([*preprocessing(dataset, scale=scale), ("model", estimator)])


def target_scaled(dataset: Dataset, estimator: Any) -> Any:
    """Return a regression pipeline whose model sees a standardised target.

    Distances, margins and gradient steps depend on the target's unit; a model must not.
    """
    from sklearn.compose import TransformedTargetRegressor  # noqa: PLC0415 - only when training
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    wrapped = TransformedTargetRegressor(estimator, transformer=StandardScaler())
    return pipeline(dataset, wrapped, scale=True)
