"""Class probabilities from pairwise ones, by libsvm's own iteration.

Each pair of classes i < j has a probability r_ij that i beats j. The class probabilities p minimise
Σ (r_ji p_i - r_ij p_j)², which libsvm solves by sweeps over the classes, stopping as soon as the
optimality error falls below 0.005 / k. That limit is loose, so only the same sweeps with the same
stop give the same numbers. Every row stops by itself: its steps become zero.

Wu, Lin and Weng, "Probability Estimates for Multi-class Classification by Pairwise Coupling",
JMLR 5 (2004), method 2.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor

LEAST = 1e-7
"""libsvm keeps pairwise probabilities this far from 0 and 1."""

TOLERANCE = 0.005
MAX_SWEEPS = 100


def pairwise_coupling(
    g: Graph, sums: Tensor, slope: NDArray[np.float64], offset: NDArray[np.float64], count: int
) -> Tensor:
    """Emit class probabilities, float32 (-1, count).

    Args:
        g: The main graph.
        sums: libsvm's decision values, one column a pair i < j, (-1, count · (count - 1) / 2).
        slope: Platt's A for each pair: r_ij = 1 / (1 + exp(A · sum + B)).
        offset: Platt's B.
        count: Number of classes.
    """
    quadratic, inverse = _quadratic_form(g, sums, slope, offset, count)
    start = g.add(g.mul(_column(g, sums), 0.0), np.full(count, 1 / count))
    product, level, live = _state(g, start, quadratic)
    counter = g.constant(np.zeros(1, np.int32))
    variables = (counter, start, product, level, live, quadratic, inverse)

    def unfinished(inner: Graph, v: Sequence[Tensor]) -> Tensor:
        some_live = inner.greater(inner.reduce_max(v[4], 0), 0.0)
        return inner.logical_and(some_live, inner.less(v[0], max(MAX_SWEEPS, count)))

    def sweep(inner: Graph, v: Sequence[Tensor]) -> Sequence[Tensor]:
        counter, share, product, level, live, quadratic, inverse = v
        steps = inner.mul(inverse, live)
        share = _sweep(inner, share, product=product, level=level, steps=steps, quadratic=quadratic)
        return (inner.add(counter, 1), share, *_state(inner, share, quadratic), quadratic, inverse)

    return g.while_(unfinished, sweep, variables)[1]


def _column(g: Graph, table: Tensor, number: int = 0) -> Tensor:
    """Return one column, (-1, 1); GATHER takes it in a third of SLICE's time."""
    return g.gather(table, np.array([number], np.int32), axis=1)


def _quadratic_form(
    g: Graph, sums: Tensor, slope: NDArray[np.float64], offset: NDArray[np.float64], count: int
) -> tuple[Tensor, Tensor]:
    """Return Q (-1, k, k) with Q_tt = Σ r_jt², Q_tj = -r_jt r_tj, and 1 / Q_tt (-1, k)."""
    pairs = list(combinations(range(count), 2))
    first = np.zeros((count, count), np.int32)  # where r_ij stands among the columns
    for p, (i, j) in enumerate(pairs):
        first[i, j], first[j, i] = p, p + len(pairs)
    logit = g.add(g.mul(sums, -slope), -offset)
    # Both from the logistic function: 1 - r loses the digits of a small probability.
    both = g.logistic(g.concat([logit, g.neg(logit)], axis=1))
    both = g.minimum(g.maximum(both, LEAST), 1 - LEAST)
    off_diagonal = 1.0 - np.eye(count)
    beats = g.mul(_square(g, both, first, count), off_diagonal)
    beaten = _square(g, both, first.T, count)
    diagonal = g.sum(g.square(beats), 1)
    spread = g.mul(g.expand_dims(diagonal, 1), np.eye(count))
    return g.sub(spread, g.mul(beats, beaten)), g.div(1.0, diagonal)


def _square(g: Graph, columns: Tensor, table: NDArray[np.int32], count: int) -> Tensor:
    return g.reshape(g.gather(columns, table.ravel(), axis=1), (-1, count, count))


def _state(g: Graph, share: Tensor, quadratic: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Qp (-1, k), pᵀQp (-1, 1) and 1 for each row that must go on, else 0 (-1, 1)."""
    product = g.sum(g.mul(quadratic, g.expand_dims(share, 1)), 2)
    level = g.sum(g.mul(share, product), 1, keepdims=True)
    error = g.reduce_max(g.abs(g.sub(product, level)), 1, keepdims=True)
    live = g.greater_equal(error, TOLERANCE / share.shape[1])
    return product, level, g.cast(live, "float32")


def _sweep(
    g: Graph, share: Tensor, *, product: Tensor, level: Tensor, steps: Tensor, quadratic: Tensor
) -> Tensor:
    """Optimise each class in turn and return p again.

    libsvm scales p to the sum 1 after each class. Here u = p · total is kept unscaled and divided
    once, which needs a fraction of the ops for the same numbers; level is uᵀQu.
    """
    count = share.shape[1]
    rows = _rows(g, quadratic)
    total: Tensor | None = None
    deltas = []
    for t in range(count):
        # The one SLICE is for tflite-runtime 2.14: it forgets to resize the results of a loop whose
        # body has static shapes only, and SLICE's is never static.
        here = _column(g, product, t) if t else g.columns(product, 0, 1)
        scaled = level if total is None else g.div(level, total)
        delta = g.mul(g.sub(scaled, here), _column(g, steps, t))
        deltas.append(delta)
        product = g.add(product, g.mul(delta, rows[t]))
        level = g.add(level, g.mul(delta, g.add(scaled, here)))
        total = g.add(delta, 1.0) if total is None else g.add(total, delta)
    assert total is not None
    return g.div(g.add(share, g.concat(deltas, axis=1)), total)


def _rows(g: Graph, quadratic: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of Q, each (-1, k)."""
    count = quadratic.shape[1]
    options = schema.UnpackOptionsT()
    options.axis, options.num = 1, count
    shape = (quadratic.shape[0], count)
    return g.emit("UNPACK", [quadratic], [(shape, "float32")] * count, options)
