"""Decision trees as node tables: the one traversal behind every tree ensemble.

A forest is data. Leaves come first: state 0 … n-1 is a row of the leaf table, shared by all leaves
that hold the same values; the states behind are inner nodes. Every table has one entry a state:

    column     which column of the input is asked
    threshold  the question: value <= threshold?
    left       next state if yes (or if the value is missing); a leaf's is the leaf itself
    right      next state if no

One level of all trees for all rows is then GATHER x 5, GREATER, SELECT on a (batch, trees) table of
states. A leaf stays where it is whatever it asks, so no threshold need be infinite. The roots'
questions are constants, so the first level has a single GATHER. Deep forests run the same level in
a WHILE until every state is a leaf.

Answers are sums over trees of leaf values. They are added as int32 in fixed point, which is exact:
trees may come in any order and equal sums stay equal, which float32 cannot promise.

A missing value (NaN) fails GREATER and goes left. Where it must go right the node asks a second
copy of the input, in which missing values became a number above every threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.thresholds import ThresholdTable
from fieldloop_cloud.compile.value import Value

UNROLLED_LEVELS = 24
"""Deeper forests loop: a level costs about 1 KB of file."""

SUM_BITS = 30
"""Sums of leaves stay below 2 to the power of this."""

PACKED_BITS = 14
"""Leaves of packed forests (float16, int8) are int16 below 2 to the power of this, or equal."""


@dataclass(frozen=True, eq=False)
class Tree:
    """One binary tree in the order its library stores it; node 0 is the root.

    Attributes:
        column: (n,) column asked, any number at a leaf.
        threshold: (n,) float64; a row goes left if value <= threshold.
        left: (n,) left child, -1 at a leaf.
        right: (n,) right child.
        missing_left: (n,) whether a missing value goes left.
        values: (n, width) what a leaf adds to the sums; anything at an inner node.
    """

    column: NDArray[Any]
    threshold: NDArray[np.float64]
    left: NDArray[Any]
    right: NDArray[Any]
    missing_left: NDArray[np.bool_]
    values: NDArray[np.float64]

    @property
    def inner(self) -> NDArray[np.intp]:
        """Numbers of the inner nodes."""
        return np.flatnonzero(self.left >= 0)

    @property
    def depth(self) -> int:
        """Number of questions on the longest way; 0 for a single leaf."""
        level, depth = np.zeros(1, np.intp), 0
        while True:
            level = level[self.left[level] >= 0]
            if not len(level):
                return depth
            level = np.concatenate([self.left[level], self.right[level]])
            depth += 1


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of leaf values in fixed point.

    Attributes:
        graph: Where its ops go.
        tensor: int32 (-1, k): one sum a column, exact.
        scale: real = tensor · scale + offset.
        offset: (k,) float64.
    """

    graph: Graph
    tensor: Tensor
    scale: float
    offset: NDArray[np.float64]

    def real(self, factor: float = 1.0, shift: Any = 0.0) -> Tensor:
        """Return sums · factor + shift as float32 (-1, k)."""
        g = self.graph
        made = g.mul(g.cast(self.tensor, "float32"), np.float32(self.scale * factor))
        rest = (self.offset * factor + shift).astype(np.float32)
        return g.add(made, rest) if rest.any() else made


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees that are asked together.

    Attributes:
        trees: Tree t adds to the sums t mod `groups`, if `groups` is above 1; its leaves then have
            one value each.
        groups: Number of sums that the trees take turns in (one a class, in boosting).
        centred: Whether leaf values may be stored around their middle: finer in packed forests,
            but equal sums of different trees need not stay equal. For regression.
        compared_as: What the library casts its input to before it compares.
    """

    trees: Sequence[Tree]
    groups: int = 1
    centred: bool = False
    compared_as: Literal["float32", "float64"] = "float32"

    def sums(self, context: Context, value: Value) -> Sums:
        """Emit the traversal and the sums of the leaves reached."""
        fixed, scale, offset = self._fixed_point(packed=context.precision != "float32")
        rows, leaf_row = np.unique(np.concatenate(fixed), axis=0, return_inverse=True)
        states = _States.lay_out(self, leaf_row.reshape(-1), len(rows), context, value)
        reached = states.emit(context.graph)
        return Sums(context.graph, self._add_up(context.graph, rows, reached), scale, offset)

    def _add_up(self, g: Graph, rows: NDArray[Any], reached: Tensor) -> Tensor:
        width = rows.shape[1]
        table = g.constant(rows[:, 0] if width == 1 else rows, str(rows.dtype), name="leaves")
        found = g.cast(g.gather(table, reached), "int32")
        if width == 1:
            found = g.reshape(found, (-1, len(self.trees) // self.groups, self.groups))
        return g.sum(found, 1)

    def _fixed_point(
        self, *, packed: bool
    ) -> tuple[list[NDArray[Any]], float, NDArray[np.float64]]:
        """Return every tree's leaf rows as integers (all nodes), the scale and the offset."""
        leaves = [tree.values[tree.left < 0] for tree in self.trees]
        together = np.concatenate(leaves)
        middle = np.zeros(together.shape[1])
        if self.centred:
            middle = (together.max(axis=0) + together.min(axis=0)) / 2
        bounds = [np.abs(values - middle).max() for values in leaves]
        exponent = SUM_BITS - _bits(sum(bounds))
        kind: Any = np.int32
        if packed:
            exponent = min(exponent, PACKED_BITS - _bits(max(bounds)))
            kind = np.int16
        step = math.ldexp(1.0, exponent)
        fixed = [np.rint((values - middle) * step).astype(kind) for values in leaves]
        if len(self.trees) == 1:
            fixed = [_same_winner(leaves[0], fixed[0])]
        offset = np.repeat(middle, self.groups) * (len(self.trees) / self.groups)
        return fixed, 1.0 / step, offset


@dataclass(frozen=True, eq=False)
class _States:
    """The node tables of a forest and the input they ask."""

    table: ThresholdTable
    column: NDArray[np.int32]
    threshold: NDArray[Any]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    roots: NDArray[np.int32]
    leaf_count: int
    depth: int
    packed: bool
    missing_right: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    @classmethod
    def lay_out(
        cls,
        forest: Forest,
        leaf_row: NDArray[Any],
        leaf_count: int,
        context: Context,
        value: Value,
    ) -> "_States":
        """Number the states and fold every question into the model's input."""
        left, right, roots = _numbered(forest.trees, leaf_row, leaf_count)
        inner = [tree.inner for tree in forest.trees]

        def gathered(name: str) -> NDArray[Any]:
            return np.concatenate(
                [getattr(t, name)[i] for t, i in zip(forest.trees, inner, strict=True)]
            )

        columns, limits = gathered("column"), gathered("threshold")
        table = context.thresholds(value)
        folded = table.fold(columns, limits, compared_as=forest.compared_as)
        image = folded.nan_image
        with np.errstate(over="ignore"):
            cast = image.astype(forest.compared_as).astype(np.float64)
        missing_right = np.where(np.isnan(image), ~gathered("missing_left"), cast > limits)
        threshold, left, right = _within_int8(folded.thresholds, left, right, leaf_count)
        blank = np.zeros(leaf_count, np.int32)
        return cls(
            table=table,
            column=np.concatenate([blank, folded.columns]).astype(np.int32),
            threshold=np.concatenate([blank.astype(threshold.dtype), threshold]),
            left=left,
            right=right,
            roots=roots,
            leaf_count=leaf_count,
            depth=max(tree.depth for tree in forest.trees),
            packed=context.precision != "float32",
            missing_right=np.concatenate([blank.astype(np.bool_), missing_right]),
        )

    def emit(self, g: Graph) -> Tensor:
        """Return the leaf row that each row reaches in each tree, int32 (-1, trees)."""
        asked, column = self._asked(g)
        first = g.gather(asked, column[self.roots], axis=1)
        compared = self.threshold[self.roots].astype(asked.dtype)
        state = g.select(g.greater(first, compared), self.right[self.roots], self.left[self.roots])
        if self.depth <= UNROLLED_LEVELS:
            for _ in range(self.depth - 1):
                state = self._level(g, asked, column, state)
            return state
        return self._loop(g, asked, column, state)

    def _asked(self, g: Graph) -> tuple[Tensor, NDArray[np.int32]]:
        """Return the table that the nodes ask, and which column each asks."""
        asked = self.table.tensor
        if asked.dtype == "int8":
            return g.cast(asked, "int32"), self.column
        if not self.missing_right.any():
            return asked, self.column
        width = asked.shape[1]
        highest = np.zeros(width)
        np.maximum.at(highest, self.column, self.threshold.astype(np.float64))
        above = np.minimum(2 * highest + 1, np.finfo(np.float32).max)
        raised = g.select(g.not_equal(asked, asked), above.astype(np.float32), asked)
        shifted = self.column + np.where(self.missing_right, width, 0)
        return g.concat([asked, raised], axis=1), shifted.astype(np.int32)

    def _level(self, g: Graph, asked: Tensor, column: NDArray[np.int32], state: Tensor) -> Tensor:
        at = self._look_up(g, column, state)
        threshold = self._look_up(g, self.threshold, state)
        found = g.gather(asked, at, axis=1, batch_dims=1)
        above = g.greater(found, g.cast(threshold, asked.dtype))
        right, left = self._look_up(g, self.right, state), self._look_up(g, self.left, state)
        return g.select(above, right, left)

    def _look_up(self, g: Graph, table: NDArray[Any], state: Tensor) -> Tensor:
        if table.dtype.kind == "f" or not self.packed:
            return g.gather(g.constant(table), state)
        return g.cast(g.gather(g.constant(table, _smallest(table)), state), "int32")

    def _loop(self, g: Graph, asked: Tensor, column: NDArray[np.int32], state: Tensor) -> Tensor:
        def going(inner: Graph, variables: tuple[Tensor, ...]) -> Tensor:
            highest = inner.reduce_max(inner.reduce_max(variables[1], 1), 0)
            return inner.greater_equal(highest, np.int32(self.leaf_count))

        def step(inner: Graph, variables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            table, now = variables
            return table, self._level(inner, table, column, now)

        return g.while_(going, step, (asked, state))[1]


def _numbered(
    trees: Sequence[Tree], leaf_row: NDArray[Any], leaf_count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return the left and right successor of every state, and the trees' roots."""
    left, right = [np.arange(leaf_count)], [np.arange(leaf_count)]
    roots, leaves_seen, states = [], 0, leaf_count
    for tree in trees:
        is_leaf = tree.left < 0
        inner = tree.inner
        state = np.empty(len(is_leaf), np.intp)
        state[is_leaf] = leaf_row[leaves_seen : leaves_seen + is_leaf.sum()]
        state[inner] = states + np.arange(len(inner))
        leaves_seen, states = leaves_seen + int(is_leaf.sum()), states + len(inner)
        left.append(state[tree.left[inner]])
        right.append(state[tree.right[inner]])
        roots.append(state[0])
    return (
        np.concatenate(left).astype(np.int32),
        np.concatenate(right).astype(np.int32),
        np.array(roots, np.int32),
    )


def _within_int8(
    threshold: NDArray[Any], left: NDArray[np.int32], right: NDArray[np.int32], leaf_count: int
) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
    """Make integer thresholds fit into int8: where no code passes, both ways lead right."""
    if threshold.dtype.kind == "f":
        return threshold, left, right
    never = np.flatnonzero(threshold < np.iinfo(np.int8).min)
    left = left.copy()
    left[leaf_count + never] = right[leaf_count + never]
    return np.maximum(threshold, np.iinfo(np.int8).min), left, right


def _same_winner(values: NDArray[np.float64], fixed: NDArray[Any]) -> NDArray[Any]:
    """Let the largest value of each leaf of a single tree be the largest integer, too.

    Values closer than the fixed point's step would tie, and a tie goes to the first class.
    """
    if values.shape[1] == 1:
        return fixed
    winner, rows = values.argmax(axis=1), np.arange(len(values))
    lost = fixed.argmax(axis=1) != winner
    fixed[rows[lost], winner[lost]] = fixed.max(axis=1)[lost] + 1
    return fixed


def _smallest(table: NDArray[Any]) -> str:
    """Return the smallest integer dtype that holds a table."""
    kinds = ("int8", "uint8", "int16")
    fits = (k for k in kinds if np.iinfo(k).min <= table.min() and table.max() <= np.iinfo(k).max)
    return next(fits, "int32")


def _bits(bound: float) -> int:
    """Return the smallest b with bound <= 2 to the power of b."""
    return math.ceil(math.log2(bound)) if bound > 0 else 0
