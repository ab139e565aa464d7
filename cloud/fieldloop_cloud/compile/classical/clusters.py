"""Cluster centres and Gaussian mixtures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.mixture import GaussianMixture

from fieldloop_cloud.compile.classical.distances import Metric, differences
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

EUCLID = Metric(2.0)


@lowers(KMeans, MiniBatchKMeans)
def centres(estimator: Any, value: Value, context: Context) -> Outputs:
    """Number of the nearest centre, and the distances to all."""
    g = context.graph
    apart = differences(value, np.asarray(estimator.cluster_centers_, np.float64), context)
    return {"label": g.arg_min(EUCLID.ranks(g, apart)), "distances": EUCLID.lengths(g, apart)}


@lowers(GaussianMixture)
def mixture(estimator: Any, value: Value, context: Context) -> Outputs:
    """Responsibilities of the components, and the log density of the row."""
    g = context.graph
    apart = differences(value, np.asarray(estimator.means_, np.float64), context)
    roots = np.asarray(estimator.precisions_cholesky_, np.float64)
    whitened = _whiten(g, apart, roots, estimator.covariance_type)
    squares = g.sum(g.square(whitened), 2)
    constant = np.log(estimator.weights_) + _log_determinants(estimator, roots)
    constant = constant - 0.5 * value.width * np.log(2 * np.pi)
    joint = g.sub(constant, g.mul(squares, 0.5))
    top = g.reduce_max(joint, 1, keepdims=True)
    rest = g.log(g.sum(g.exp(g.sub(joint, top)), 1, keepdims=True))
    return {
        "label": g.arg_max(joint),
        "probabilities": g.softmax(joint),
        "score": g.reshape(g.add(top, rest), (-1,)),
    }


def _whiten(g: Graph, apart: Tensor, roots: NDArray[np.float64], kind: str) -> Tensor:
    """Emit differences (-1, k, f) times each component's root of the precision."""
    count, width = apart.shape[1:]
    if kind == "diag":
        return g.mul(apart, roots)
    if kind == "spherical":
        return g.mul(apart, roots[:, None])
    if kind == "tied":
        flat = g.fully_connected(g.reshape(apart, (-1, width)), roots.T)
        return g.reshape(flat, (-1, count, width))
    parts = []
    for number in range(count):
        mine = g.reshape(g.slice(apart, (0, number, 0), (-1, 1, -1)), (-1, width))
        parts.append(g.fully_connected(mine, roots[number].T))
    return g.pack(parts, axis=1)


def _log_determinants(estimator: Any, roots: NDArray[np.float64]) -> Any:
    """Return log |root of the precision| of each component (one number if they share it)."""
    kind, width = estimator.covariance_type, estimator.means_.shape[1]
    if kind == "full":
        return np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    if kind == "tied":
        return np.log(np.diag(roots)).sum()
    return np.log(roots).sum(axis=1) if kind == "diag" else width * np.log(roots)
