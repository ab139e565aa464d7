"""Ensembles of decision trees as data: sums over trees of the leaf values reached.

A library's trees become `Tree` tables, a `Forest` adds up their leaves. The way down to the leaves
is `compile.traversal.walk`'s.

Sums are int32 in fixed point. They are exact: trees may come in any order, and equal sums stay
equal, which float32 cannot promise. Leaves with the same values share a row of the leaf table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.traversal.walk import leaf_rows
from fieldloop_cloud.compile.value import Value

SUM_BITS = 30
"""Sums of leaves stay below 2 to the power of this."""

PACKED_BITS = 14
"""Leaves packed into int16 are at most 2 to the power of this."""

PACKED_FROM_BYTES = 1024
"""Float16 and int8 models pack leaf tables from this size; rounding smaller ones gains nothing."""


@dataclass(frozen=True, eq=False)
class Tree:
    """One binary tree in the order its library stores it; node 0 is the root.

    Attributes:
        column: (n,) column asked; anything at a leaf. Columns behind the last one of the input
            table are those of `Forest.answers`.
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

    @cached_property
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
        scale: (k,) real = tensor · scale + offset; powers of two, all equal unless the forest is
            centred.
        offset: (k,) float64; zeros unless the forest is centred.
    """

    graph: Graph
    tensor: Tensor
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    def real(self, factor: float = 1.0) -> Tensor:
        """Return sums · factor as float32 (-1, k)."""
        g = self.graph
        made = g.mul(g.cast(self.tensor, "float32"), (self.scale * factor).astype(np.float32))
        rest = (self.offset * factor).astype(np.float32)
        return g.add(made, rest) if rest.any() else made

    def column(self, factor: float = 1.0) -> Tensor:
        """Return the only sum · factor as float32 (-1,)."""
        return self.graph.reshape(self.real(factor), (-1,))

    def largest(self) -> Tensor:
        """Return the index of the first largest sum, int32 (-1,)."""
        return self.graph.arg_max(self.tensor)

    def at_least(self, bound: float) -> Tensor:
        """Return 1 where the only sum is not below `bound`, else 0, int32 (-1,)."""
        g = self.graph
        reached = g.greater_equal(self.tensor, np.int32(math.ceil(bound / self.scale[0])))
        return g.reshape(g.cast(reached, "int32"), (-1,))

    def above_zero(self) -> Tensor:
        """Return 1 where the only sum is positive, else 0, int32 (-1,)."""
        g = self.graph
        return g.reshape(g.cast(g.greater(self.tensor, np.int32(0)), "int32"), (-1,))


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees that are asked together.

    Attributes:
        trees: If `groups` is above 1, tree t adds to the sum t mod `groups`, and its leaves have
            one value each.
        groups: Number of sums that the trees take turns in (one a class, in boosting).
        baseline: Added to the sums: a number, or one for each.
        centred: Whether every sum has a scale of its own and is kept around its middle. Finer for
            targets of several sizes and far from zero, but the integers can no longer be compared
            with each other. For regression.
        compared_as: What the library casts its input to before it compares.
        answers: int32 (-1, m): questions that are answered already: 1 goes right, 0 left.
        targets: Which of a leaf's values belong together, as the shares of one target's classes;
            the largest of each target stays the largest.
    """

    trees: Sequence[Tree]
    groups: int = 1
    baseline: Any = 0.0
    centred: bool = False
    compared_as: Literal["float32", "float64"] = "float32"
    answers: Tensor | None = None
    targets: tuple[slice, ...] = (slice(None),)

    def sums(self, context: Context, value: Value) -> Sums:
        """Emit the traversal and the sums of the leaves reached."""
        return self._deepest_first()._sums(context, value)  # noqa: SLF001 - this class's own

    def _sums(self, context: Context, value: Value) -> Sums:
        fixed, start, scale, offset = self._fixed_point(packed=False)
        if context.precision != "float32":
            distinct = np.unique(np.concatenate(fixed), axis=0)
            if distinct.nbytes >= PACKED_FROM_BYTES:
                fixed, start, scale, offset = self._fixed_point(packed=True)
        rows, reached = self._reached(np.concatenate(fixed), context, value)
        g = context.graph
        found = self._leaves(g, rows, reached)
        total = g.sum(found, 1) if len(self.trees) > 1 else g.reshape(found, (-1, rows.shape[1]))
        return Sums(g, g.add(total, start) if start.any() else total, scale, offset)

    def values(self, context: Context, value: Value) -> Tensor:
        """Emit the traversal and return each tree's own values, float32 (-1, trees, width)."""
        leaves = np.concatenate([tree.values[tree.left < 0] for tree in self.trees])
        rows, reached = self._reached(leaves.astype(np.float32), context, value)
        return context.graph.gather(rows, reached)

    def _deepest_first(self) -> "Forest":
        """Return the same sums with the trees of each group sorted by depth."""
        groups = [
            sorted(self.trees[k :: self.groups], key=lambda tree: -tree.depth)
            for k in range(self.groups)
        ]
        return replace(self, trees=[tree for turn in zip(*groups, strict=True) for tree in turn])

    def _reached(
        self, leaves: NDArray[Any], context: Context, value: Value
    ) -> tuple[NDArray[Any], Tensor]:
        """Return the distinct leaf rows and which of them each row reaches in each tree."""
        rows, leaf_row = np.unique(leaves, axis=0, return_inverse=True)
        table = context.thresholds(value)
        reached = leaf_rows(
            context.graph,
            self.trees,
            leaf_row.reshape(-1),
            table=table,
            compared_as=self.compared_as,
            answers=self.answers,
        )
        return rows, reached

    def _leaves(self, g: Graph, rows: NDArray[Any], reached: Tensor) -> Tensor:
        """Return the leaf rows reached, int32 (-1, trees of a group, sums)."""
        if rows.shape[1] > 1:
            return g.cast(g.gather(g.constant(rows, str(rows.dtype)), reached), "int32")
        table = g.constant(rows[:, 0], str(rows.dtype))
        found = g.cast(g.gather(table, reached), "int32")
        return g.reshape(found, (-1, len(self.trees) // self.groups, self.groups))

    def _fixed_point(
        self, *, packed: bool
    ) -> tuple[list[NDArray[Any]], NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
        """Return each tree's leaves as integers, the baseline as integers, scale and offset."""
        leaves = [tree.values[tree.left < 0] for tree in self.trees]
        groups, width = self.groups, leaves[0].shape[1]
        middle, offset = np.zeros((groups, width)), np.zeros(groups * width)
        start = np.broadcast_to(np.asarray(self.baseline, np.float64).ravel(), offset.shape)
        if self.centred:
            together = [np.concatenate(leaves[group::groups]) for group in range(groups)]
            middle = np.array([(own.max(axis=0) + own.min(axis=0)) / 2 for own in together])
            offset = start + middle.ravel() * (len(leaves) // groups)
            start = np.zeros(offset.shape)
        turns = [number % groups for number in range(len(leaves))]
        apart = [values - middle[turn] for values, turn in zip(leaves, turns, strict=True)]
        bounds = np.array([np.abs(values).max(axis=0) for values in apart])
        if self.centred:
            taking_turns = bounds.reshape(-1, groups, width)
            largest, total = taking_turns.max(axis=0), taking_turns.sum(axis=0)
        else:
            largest, total = bounds.max(), bounds.max(axis=1).sum() + np.abs(start).max()
        exponent = SUM_BITS - _bits(total)
        kind: Any = np.int32
        if packed:
            exponent = np.minimum(exponent, PACKED_BITS - _bits(largest))
            kind = np.int16
        step = np.broadcast_to(np.ldexp(1.0, exponent), (groups, width))
        fixed = [
            np.rint(values * step[turn]).astype(kind)
            for values, turn in zip(apart, turns, strict=True)
        ]
        if len(leaves) == 1:
            for target in self.targets:
                fixed[0][:, target] = _same_winner(leaves[0][:, target], fixed[0][:, target])
        steps = step.ravel()
        return fixed, np.rint(start * steps).astype(np.int32), 1.0 / steps, offset


def in_turns(trees: Sequence[Tree], group: Sequence[int]) -> tuple[int, list[Tree]]:
    """Return the number of groups and the trees in an order in which the groups take turns.

    Args:
        trees: As many of each group.
        group: For each tree the sum that it adds to.
    """
    count = max(group) + 1
    of_group = [[t for t, g in zip(trees, group, strict=True) if g == k] for k in range(count)]
    return count, [tree for turn in zip(*of_group, strict=True) for tree in turn]


def _same_winner(values: NDArray[np.float64], fixed: NDArray[Any]) -> NDArray[Any]:
    """Let the largest value of each leaf of a single tree be the largest integer, too.

    Values closer than the fixed point's step would tie, and a tie goes to the first class.
    """
    winner, rows = values.argmax(axis=1), np.arange(len(values))
    lost = fixed.argmax(axis=1) != winner
    fixed[rows[lost], winner[lost]] = fixed.max(axis=1)[lost] + 1
    return fixed


def _bits(bounds: Any) -> NDArray[np.int64]:
    """Return the smallest b with bound <= 2 to the power of b; 0 for a bound of 0."""
    mantissa, exponent = np.frexp(bounds)
    is_power = mantissa == 0.5  # noqa: PLR2004 - frexp's mantissa of a power of two
    return np.asarray(exponent - is_power, np.int64)
