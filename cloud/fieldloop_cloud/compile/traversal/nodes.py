"""All nodes of a forest as one set of arrays.

Leaves come first: state 0 … n-1 is a row of the leaf table, the states behind are inner nodes. A
leaf's next state is the leaf itself, whatever it asks, so no threshold need be infinite.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.thresholds import ThresholdTable
from fieldloop_cloud.compile.traversal.questions import (
    ANSWERED,
    MISSING,
    NUMBER,
    RAISED,
    Questions,
    folded_questions,
)


@dataclass(frozen=True, eq=False)
class Nodes:
    """The states of a forest and the table that they ask.

    Attributes:
        asked: What the nodes ask, float32 or (for an int8 input) int32 (-1, width).
        column: (n,) int32, in `asked`.
        threshold: (n,) of `asked`'s dtype; a row goes right if asked > threshold.
        left: (n,) next state, int32.
        right: (n,) next state, int32.
        roots: (trees,) the first state of each tree, int32.
        depths: (trees,) questions on the longest way of each tree.
        leaf_count: Number of leaf states.
    """

    asked: Tensor
    column: NDArray[np.int32]
    threshold: NDArray[Any]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    roots: NDArray[np.int32]
    depths: NDArray[np.intp]
    leaf_count: int

    @classmethod
    def lay_out(
        cls,
        g: Graph,
        trees: Sequence[Any],
        leaf_row: NDArray[Any],
        *,
        table: ThresholdTable,
        compared_as: Literal["float32", "float64"],
        answers: Tensor | None,
    ) -> "Nodes":
        """Number the states and fold every question into the model's input.

        Args:
            g: The main graph.
            trees: `forest.Tree`s.
            leaf_row: Row of the leaf table for each leaf, in the trees' order.
            table: What is asked.
            compared_as: What the library casts its input to before it compares.
            answers: int32 (-1, m): columns that are 1 (right) or 0 (left).
        """
        leaf_count = int(leaf_row.max()) + 1
        left, right, roots = _numbered(trees, leaf_row, leaf_count)
        questions = folded_questions(trees, table, compared_as)
        low, high = questions.ways(left[leaf_count:], right[leaf_count:])
        asked, column = _asked(g, table.tensor, questions, answers)

        def behind_leaves(entries: NDArray[Any], dtype: str) -> NDArray[Any]:
            return np.concatenate([np.zeros(leaf_count, dtype), entries.astype(dtype)])

        return cls(
            asked=asked,
            column=behind_leaves(column, "int32"),
            threshold=behind_leaves(questions.threshold, asked.dtype),
            left=np.concatenate([left[:leaf_count], low]),
            right=np.concatenate([right[:leaf_count], high]),
            roots=roots,
            depths=np.array([tree.depth for tree in trees]),
            leaf_count=leaf_count,
        )

    @property
    def depth(self) -> int:
        """Questions on the longest way of all."""
        return int(self.depths.max())


def _asked(
    g: Graph, table: Tensor, questions: Questions, answers: Tensor | None
) -> tuple[Tensor, NDArray[np.int32]]:
    """Return the tables of all kinds asked side by side, and where in them each node asks."""
    asked = g.cast(table, "int32") if table.dtype == "int8" else table
    parts = {NUMBER: asked}
    if np.isin(questions.kind, (RAISED, MISSING)).any():
        is_missing = g.not_equal(asked, asked)
        if (questions.kind == RAISED).any():
            parts[RAISED] = g.select(is_missing, questions.beyond(asked.shape[1]), asked)
        if (questions.kind == MISSING).any():
            parts[MISSING] = g.cast(is_missing, asked.dtype)
    if answers is not None:
        parts[ANSWERED] = g.cast(answers, asked.dtype)
    start, place = np.zeros(ANSWERED + 1, np.int32), 0
    for kind, part in parts.items():
        start[kind], place = place, place + part.shape[1]
    return g.concat(list(parts.values()), axis=1), questions.column + start[questions.kind]


def _numbered(
    trees: Sequence[Any], leaf_row: NDArray[Any], leaf_count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return the left and right successor of every state, and the trees' roots."""
    left, right = [np.arange(leaf_count)], [np.arange(leaf_count)]
    roots, leaves_seen, states = [], 0, leaf_count
    for tree in trees:
        is_leaf, inner = tree.left < 0, tree.inner
        count = int(is_leaf.sum())
        state = np.empty(len(is_leaf), np.intp)
        state[is_leaf] = leaf_row[leaves_seen : leaves_seen + count]
        state[inner] = states + np.arange(len(inner))
        leaves_seen, states = leaves_seen + count, states + len(inner)
        left.append(state[tree.left[inner]])
        right.append(state[tree.right[inner]])
        roots.append(state[0])
    return (
        np.concatenate(left).astype(np.int32),
        np.concatenate(right).astype(np.int32),
        np.array(roots, np.int32),
    )
