"""Linear projections: matrices that the next linear estimator can absorb."""

from typing import Any

import numpy as np
from sklearn import decomposition as dc

from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value


@lowers(dc.PCA, dc.IncrementalPCA)
def pca(estimator: Any, value: Value, _: Context) -> Outputs:
    """(x - mean) · componentsᵀ, over the standard deviations if whitened."""
    matrix = np.asarray(estimator.components_, np.float64).T
    if estimator.whiten:
        spread = np.sqrt(np.asarray(estimator.explained_variance_, np.float64))
        matrix = matrix / np.maximum(spread, np.finfo(spread.dtype).eps)
    mean = np.asarray(estimator.mean_, np.float64)
    return {"transformed": value.projected(matrix, -mean @ matrix)}


@lowers(dc.TruncatedSVD)
def truncated_svd(estimator: Any, value: Value, _: Context) -> Outputs:
    """X · componentsᵀ."""
    return {"transformed": value.projected(np.asarray(estimator.components_).T)}


@lowers(dc.FastICA)
def fast_ica(estimator: Any, value: Value, _: Context) -> Outputs:
    """(x - mean) · componentsᵀ, where it whitens."""
    matrix = np.asarray(estimator.components_, np.float64).T
    mean = np.asarray(estimator.mean_) if estimator.whiten else np.zeros(value.width)
    return {"transformed": value.projected(matrix, -mean @ matrix)}


@lowers(dc.FactorAnalysis)
def factor_analysis(estimator: Any, value: Value, _: Context) -> Outputs:
    """Posterior mean of the factors (Barber, Bayesian Reasoning and Machine Learning, 21.2.33)."""
    loadings = np.asarray(estimator.components_, np.float64)
    scaled = loadings / np.asarray(estimator.noise_variance_)
    covariance = np.linalg.inv(np.eye(len(loadings)) + scaled @ loadings.T)
    matrix = scaled.T @ covariance
    return {"transformed": value.projected(matrix, -np.asarray(estimator.mean_) @ matrix)}
