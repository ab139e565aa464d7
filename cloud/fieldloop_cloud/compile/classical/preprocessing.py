"""Scalers: affine maps that emit nothing where the next estimator can absorb them."""

from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value


@lowers(StandardScaler)
def standard_scaler(estimator: Any, value: Value, _: Context) -> Outputs:
    """(x - mean) / scale."""
    scale = 1.0 if estimator.scale_ is None else np.asarray(estimator.scale_)
    mean = 0.0 if estimator.mean_ is None else np.asarray(estimator.mean_)
    return {"transformed": value.scaled(1.0 / scale, -mean / scale)}
