"""Support vector machines of libsvm: one kernel table, one weighted sum per pair of classes.

A fitted machine is a list of support vectors s and, for each pair of classes i < j, coefficients:

    sum over s of coefficient · K(x, s) + intercept        above 0 is a vote for i, else for j

The table K is made by one product with all support vectors, the sums by another. For the RBF
kernel ‖x - s‖² is expanded, which is exact in float32 only near zero: rows and support vectors are
centred first (uncentred, features that lie far from zero gave wrong labels for half of the rows).
Where the kernel is so narrow that even the centred expansion is too coarse, the differences
themselves are squared, which costs more memory.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM

from fieldloop_cloud.compile.classical.compact import Compact
from fieldloop_cloud.compile.classical.coupling import pairwise_coupling
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value, host_array

NARROW = 50.0
"""Above this gamma · ‖s‖² the expanded norm is too coarse: exponents are off by NARROW · 2⁻²³."""


@dataclass(frozen=True)
class Machine:
    """What libsvm computes with, as plain arrays.

    Attributes:
        kernel: linear, rbf, poly or sigmoid.
        gamma: The kernel's factor.
        coef0: The kernel's offset (poly, sigmoid).
        degree: The power (poly).
        vectors: Support vectors, (m, n_features).
        coefficients: One row a sum, (p, m).
        intercepts: (p,).
    """

    kernel: str
    gamma: float
    coef0: float
    degree: int
    vectors: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]

    @classmethod
    def of(cls, estimator: Any, context: Context) -> "Machine":
        """Read a fitted estimator; its private arrays have libsvm's signs."""
        if callable(estimator.kernel) or estimator.kernel == "precomputed":
            raise context.refuse(
                f"a {'callable' if callable(estimator.kernel) else 'precomputed'} kernel cannot be "
                "compiled",
                parameter="kernel",
                advice="Fit with kernel='rbf', 'linear', 'poly' or 'sigmoid', or put the feature "
                "map in front as a transformer (Nystroem) with a linear machine behind it.",
            )
        if estimator.kernel not in {"linear", "rbf", "poly", "sigmoid"}:
            raise context.refuse(
                f"unknown kernel {estimator.kernel!r}",
                parameter="kernel",
                advice="Fit with kernel='rbf', 'linear', 'poly' or 'sigmoid'.",
            )
        dual = host_array(estimator._dual_coef_)  # dual_coef_ has its sign turned for two classes
        if hasattr(estimator, "classes_"):
            support = estimator.n_support_
            coefficients = _one_row_a_pair(dual, list(support))
            groups = np.repeat(np.arange(len(support)), support)
        else:
            coefficients = dual
            groups = dual[0] > 0
        order = _interleaved(groups)
        return cls(
            kernel=estimator.kernel,
            gamma=float(estimator._gamma),  # noqa: SLF001 - the number behind 'scale' and 'auto'
            coef0=float(estimator.coef0),
            degree=int(estimator.degree),
            vectors=host_array(estimator.support_vectors_)[order],
            coefficients=coefficients[:, order],
            intercepts=np.asarray(estimator._intercept_, np.float64),
        )

    def sums(self, value: Value, context: Context) -> Tensor:
        """Emit all weighted sums, float32 (-1, p)."""
        if self.kernel == "linear" or not len(self.vectors):
            primal = self.coefficients @ self.vectors
            return context.linear(value, primal, self.intercepts)
        table = (
            _rbf(self, value, context) if self.kernel == "rbf" else _product(self, value, context)
        )
        weights = context.weights(self.coefficients, name="dual_coefficients")
        return context.graph.fully_connected(table, weights, self.intercepts)


def _one_row_a_pair(dual: NDArray[np.float64], support: list[int]) -> NDArray[np.float64]:
    """Spread libsvm's packed coefficients (k - 1, m) to one row for each pair i < j."""
    ends = np.cumsum([0, *support])
    pairs = list(combinations(range(len(support)), 2))
    rows = np.zeros((len(pairs), dual.shape[1]))
    for row, (i, j) in zip(rows, pairs, strict=True):
        row[ends[i] : ends[i + 1]] = dual[j - 1, ends[i] : ends[i + 1]]
        row[ends[j] : ends[j + 1]] = dual[i, ends[j] : ends[j + 1]]
    return rows


def _interleaved(groups: NDArray[Any]) -> NDArray[np.intp]:
    """Return an order in which all groups advance at the same pace.

    Each sum's coefficients cancel between its two classes. Class after class, the running sum would
    grow to thousands before it falls again and lose float32's last digits on the way.
    """
    pace = np.empty(len(groups))
    for group in np.unique(groups):
        mine = groups == group
        pace[mine] = (np.arange(mine.sum()) + 0.5) / mine.sum()
    return np.argsort(pace, kind="stable")


def _rbf(machine: Machine, value: Value, context: Context) -> Tensor:
    """exp(-gamma ‖x - s‖²), (-1, m)."""
    g = context.graph
    compact = Compact.of(value, machine.vectors, context)
    if compact is not None and machine.gamma * _largest(compact.numbers * compact.scale) <= NARROW:
        return _rbf_of_whole_numbers(machine.gamma, compact, g)
    table, shift = value.centred()
    vectors, gamma = machine.vectors - shift, machine.gamma
    if gamma * _largest(vectors) > NARROW:
        stored = context.weights(vectors, name="support_vectors")
        apart = g.squared_difference(g.expand_dims(table, 1), stored)
        return g.exp(g.mul(g.sum(apart, 2), -gamma))
    stored, vectors = context.stored(2 * gamma * vectors, name="support_vectors")
    norms = -(vectors**2).sum(axis=1) / (4 * gamma)
    own = g.mul(g.sum(g.square(table), 1, keepdims=True), gamma)
    return _closeness(g, g.fully_connected(table, stored, norms), own)


def _rbf_of_whole_numbers(gamma: float, compact: Compact, g: Graph) -> Tensor:
    """The same from whole numbers: their factors, and gamma, are with the row."""
    factor = gamma * compact.scale**2
    weighted = g.mul(compact.near, factor)
    own = g.sum(g.mul(weighted, compact.near), 1, keepdims=True)
    norms = -(compact.numbers**2 @ factor)
    return _closeness(g, g.fully_connected(g.mul(weighted, 2.0), compact.points, norms), own)


def _closeness(g: Graph, product: Tensor, own: Tensor) -> Tensor:
    # A distance cannot be negative; rounding can make it so.
    return g.exp(g.minimum(g.sub(product, own), 0.0))


def _largest(vectors: NDArray[np.float64]) -> float:
    """Largest squared norm."""
    return float((vectors**2).sum(axis=1).max())


def _product(machine: Machine, value: Value, context: Context) -> Tensor:
    """(gamma x·s + c)^degree or tanh(gamma x·s + c), (-1, m)."""
    g = context.graph
    table, shift = value.centred()
    stored, vectors = context.stored(machine.gamma * machine.vectors, name="support_vectors")
    inner = g.fully_connected(table, stored, vectors @ shift + machine.coef0)
    return g.tanh(inner) if machine.kernel == "sigmoid" else _power(inner, machine.degree, context)


def _power(base: Tensor, degree: int, context: Context) -> Tensor:
    """base^degree by squaring, as libsvm does it; anything to the power 0 is 1."""
    g = context.graph
    result: Tensor | None = None
    square = base
    while degree:
        if degree & 1:
            result = square if result is None else g.mul(result, square)
        degree >>= 1
        if degree:
            square = g.mul(square, square)
    return g.add(g.mul(base, 0.0), 1.0) if result is None else result


@lowers(SVC, NuSVC)
def classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """One-vs-one machines: votes, decisions and, if fitted for them, coupled probabilities."""
    g = context.graph
    count = len(estimator.classes_)
    sums = Machine.of(estimator, context).sums(value, context)
    first_wins = g.cast(g.greater(sums, 0.0), "float32")
    label = g.arg_max(_votes(g, first_wins, count))
    two_classes = count == 2  # noqa: PLR2004 - scikit-learn turns the sign for two
    if two_classes:
        decision = g.reshape(g.neg(sums), (-1,))
    elif estimator.decision_function_shape == "ovo":
        decision = sums
    else:
        # Here, unlike in libsvm's own vote, a sum of exactly zero counts for the first class.
        not_second = g.cast(g.greater_equal(sums, 0.0), "float32")
        decision = pair_decision(g, not_second, sums, count)
        if estimator.break_ties:
            label = g.arg_max(decision)
    outputs = {"label": label, "decision": decision}
    if len(estimator._probA):  # noqa: SLF001 - probA_ warns since scikit-learn 1.9
        slope, offset = estimator._probA, estimator._probB  # noqa: SLF001 - as above
        outputs["probabilities"] = pairwise_coupling(g, sums, slope, offset, count)
    return outputs


def _votes(g: Graph, first_wins: Tensor, count: int) -> Tensor:
    """Votes for each class, (-1, count); ARG_MAX takes the first of equals, as libsvm does."""
    pairs = list(combinations(range(count), 2))
    weights, base = np.zeros((count, len(pairs))), np.zeros(count)
    for p, (i, j) in enumerate(pairs):
        weights[i, p], weights[j, p] = 1, -1
        base[j] += 1
    return g.fully_connected(first_wins, weights, base)


def pair_decision(g: Graph, first_wins: Tensor, sums: Tensor, count: int) -> Tensor:
    """Emit votes plus the sums squeezed into (-1/3, 1/3): scikit-learn's decision from pairs.

    Args:
        g: The graph.
        first_wins: 1 where the pair i < j goes to i, else 0, float32 (-1, pairs).
        sums: How sure it is, above zero for i, float32 (-1, pairs).
        count: Number of classes.
    """
    signs = np.zeros((count, sums.shape[1]))
    for p, (i, j) in enumerate(combinations(range(count), 2)):
        signs[i, p], signs[j, p] = 1, -1
    total = g.fully_connected(sums, signs)
    squeezed = g.div(total, g.mul(g.add(g.abs(total), 1.0), 3.0))
    return g.add(_votes(g, first_wins, count), squeezed)


@lowers(SVR, NuSVR)
def regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """One weighted sum."""
    sums = Machine.of(estimator, context).sums(value, context)
    return {"value": context.graph.reshape(sums, (-1,))}


@lowers(OneClassSVM)
def one_class(estimator: Any, value: Value, context: Context) -> Outputs:
    """One weighted sum; above zero is an inlier."""
    g = context.graph
    decision = g.reshape(Machine.of(estimator, context).sums(value, context), (-1,))
    return {
        "label": g.cast(g.greater(decision, 0.0), "int32"),
        "decision": decision,
        "score": g.add(decision, float(np.ravel(estimator.offset_)[0])),
    }
