"""The way down all trees of a forest at once, for all rows at once.

Leaves come first: state 0 … n-1 is a row of the leaf table, the states behind are inner nodes. A
table has one row of four int32 a state:

    column     which column of the input is asked
    threshold  the question: value <= threshold? A float32's bits, or a code of an int8 table
    right      next state if no
    left       next state if yes (or if the value is missing); a leaf's is the leaf itself

One level walks a (batch, trees) table of states:

    GATHER     the rows of the states, (batch, trees, 4)
    TRANSPOSE  and UNPACK them into their four fields; BITCAST the threshold
    GATHER     the numbers asked
    GREATER    and SELECT the next states

A leaf stays where it is whatever it asks, so no threshold need be infinite. The roots' questions
are constants, so the first level takes a single GATHER. Levels are written out one by one, about
1 KB each: a WHILE would be smaller, but is slower, and tflite-runtime 2.14 cannot resize its batch.
The table is stored in int16 if it fits and if that pays for the CAST.

Rows, because GATHER copies item by item: 2.3 ns each, be it one number or a row of four, while the
other ops take 0.1 to 0.5 ns a number (measured on x86, one thread). With 100 trees a level takes
0.9 µs for one row of the input; with a table for each field, 5 GATHERs, it took 1.5. Asking two
levels at once is no faster (0.9 to 1.5 µs a level): it asks three numbers where one way down has
two, or selects as much as it saves.

A missing value (NaN) fails GREATER and goes left. Where it must go right the node asks a second
copy of the input, in which missing values became a number above every threshold. A question that
every number passes, or none, only tells missing values from numbers: it asks a table of flags.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.thresholds import ThresholdTable

CAST_BYTES = 240
"""What one CAST costs in the file; the table is stored small if it saves more."""

NUMBER, RAISED, MISSING, ANSWERED = range(4)
"""What a node asks: the number; the number with missing values above every threshold; whether the
value is missing; a column of answers that were given before."""


@dataclass(frozen=True, eq=False)
class States:
    """The state tables of a forest.

    Attributes:
        asked: The table of numbers that the nodes ask, float32 or int8 (-1, width).
        kind: (n,) NUMBER, RAISED, MISSING or ANSWERED.
        column: (n,) int32, in the table of its kind.
        threshold: (n,) float32, or int32 for an int8 table.
        left: (n,) int32.
        right: (n,) int32.
        roots: (trees,) the first state of each tree, int32.
        leaf_count: Number of leaf states.
        depth: Questions on the longest way.
    """

    asked: Tensor
    kind: NDArray[np.int8]
    column: NDArray[np.int32]
    threshold: NDArray[Any]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    roots: NDArray[np.int32]
    leaf_count: int
    depth: int

    @classmethod
    def lay_out(
        cls,
        trees: Sequence[Any],
        leaf_row: NDArray[Any],
        table: ThresholdTable,
        compared_as: Literal["float32", "float64"],
    ) -> "States":
        """Number the states and fold every question into the model's input.

        Args:
            trees: `forest.Tree`s.
            leaf_row: Row of the leaf table for each leaf, in the trees' order.
            table: What is asked.
            compared_as: What the library casts its input to before it compares.
        """
        leaf_count = int(leaf_row.max()) + 1
        left, right, roots = _numbered(trees, leaf_row, leaf_count)
        questions = _folded(trees, table, compared_as)
        yes, no = questions.ways(left[leaf_count:], right[leaf_count:])

        def behind_leaves(entries: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([np.zeros(leaf_count, entries.dtype), entries])

        return cls(
            asked=table.tensor,
            kind=behind_leaves(questions.kind),
            column=behind_leaves(questions.column),
            threshold=behind_leaves(questions.threshold),
            left=np.concatenate([left[:leaf_count], yes]),
            right=np.concatenate([right[:leaf_count], no]),
            roots=roots,
            leaf_count=leaf_count,
            depth=max(tree.depth for tree in trees),
        )

    def emit(self, g: Graph, answers: Tensor | None = None) -> Tensor:
        """Return the leaf row that each row reaches in each tree, int32 (-1, trees).

        Args:
            g: The main graph.
            answers: int32 (-1, m): columns that are 1 (right) or 0 (left).
        """
        asked, column = self._asked(g, answers)
        first = g.gather(asked, column[self.roots], axis=1)
        above = g.greater(first, self.threshold[self.roots].astype(asked.dtype))
        state = g.select(above, self.right[self.roots], self.left[self.roots])
        rows = self._rows(asked.dtype, column)
        for _ in range(self.depth - 1):
            state = self._level(g, asked, rows, state)
        return state

    def _asked(self, g: Graph, answers: Tensor | None) -> tuple[Tensor, NDArray[np.int32]]:
        """Return the tables of all kinds asked side by side, and where in them each node asks."""
        asked = g.cast(self.asked, "int32") if self.asked.dtype == "int8" else self.asked
        parts = {NUMBER: asked}
        if np.isin(self.kind, (RAISED, MISSING)).any():
            is_missing = g.not_equal(asked, asked)
            if (self.kind == RAISED).any():
                parts[RAISED] = g.select(is_missing, self._beyond(), asked)
            if (self.kind == MISSING).any():
                parts[MISSING] = g.cast(is_missing, asked.dtype)
        if answers is not None:
            parts[ANSWERED] = g.cast(answers, asked.dtype)
        start, place = np.zeros(ANSWERED + 1, np.int32), 0
        for kind, part in parts.items():
            start[kind], place = place, place + part.shape[1]
        return g.concat(list(parts.values()), axis=1), self.column + start[self.kind]

    def _beyond(self) -> NDArray[np.float32]:
        """For each column a number clearly above every threshold that its raised copy meets."""
        highest = np.zeros(self.asked.shape[1])
        raised = self.kind == RAISED
        np.maximum.at(highest, self.column[raised], self.threshold[raised].astype(np.float64))
        return np.minimum(2 * highest + 1, np.finfo(np.float32).max).astype(np.float32)

    def _rows(self, dtype: str, column: NDArray[np.int32]) -> NDArray[Any]:
        """Return column, threshold, right and left of every state, int16 or int32 (n, 4)."""
        threshold = self.threshold.astype(dtype).view(np.int32)
        rows = np.stack([column, threshold, self.right, self.left], axis=1)
        small = rows.astype(np.int16)
        pays = rows.nbytes - small.nbytes > CAST_BYTES * self.depth
        return small if pays and np.array_equal(small, rows) else rows

    def _level(self, g: Graph, asked: Tensor, rows: NDArray[Any], state: Tensor) -> Tensor:
        found = g.gather(g.constant(rows, str(rows.dtype)), state)
        fields = g.cast(g.transpose(found, (2, 0, 1)), "int32")
        at, threshold, right, left = g.unpack(fields)
        if asked.dtype == "float32":
            threshold = g.bitcast(threshold, "float32")
        above = g.greater(g.gather(asked, at, axis=1, batch_dims=1), threshold)
        return g.select(above, right, left)


@dataclass(frozen=True, eq=False)
class _Questions:
    """The inner nodes' questions about the model's input.

    Attributes:
        kind: (n,) see above.
        column: (n,) int32.
        threshold: (n,) float32 or int32.
        only_left: (n,) nobody goes right.
        only_right: (n,) nobody goes left.
        swapped: (n,) who passes the question goes left instead of right.
    """

    kind: NDArray[np.int8]
    column: NDArray[np.int32]
    threshold: NDArray[Any]
    only_left: NDArray[np.bool_]
    only_right: NDArray[np.bool_]
    swapped: NDArray[np.bool_]

    def ways(
        self, left: NDArray[np.int32], right: NDArray[np.int32]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the next state after GREATER says no, and after it says yes."""
        low = np.where(self.only_right | self.swapped, right, left)
        high = np.where(self.only_left | self.swapped, left, right)
        return low, high


def _folded(
    trees: Sequence[Any], table: ThresholdTable, compared_as: Literal["float32", "float64"]
) -> _Questions:
    """Return the question of every inner node, about the model's input."""

    def inner(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(tree, name)[tree.inner] for tree in trees])

    column, limit, missing_right = inner("column"), inner("threshold"), ~inner("missing_left")
    width = table.value.width
    asks = column < width
    folded = table.fold(column[asks], limit[asks], compared_as=compared_as)
    with np.errstate(over="ignore"):
        image = folded.nan_image.astype(compared_as).astype(np.float64)
    missing_right[asks] = np.where(np.isnan(image), missing_right[asks], image > limit[asks])
    place = column - width
    place[asks] = folded.columns
    threshold = np.zeros(len(column), folded.thresholds.dtype)
    threshold[asks] = folded.thresholds
    if threshold.dtype.kind == "i":
        info, floats = np.iinfo(np.int8), False
        all_pass, none_pass = threshold >= info.max, threshold < info.min
    else:
        top, floats = np.finfo(np.float32).max, True
        all_pass, none_pass = threshold >= top, threshold <= -top
    missing_tells = floats & ((all_pass & missing_right) | (none_pass & ~missing_right))
    kind = np.where(missing_right & floats, RAISED, NUMBER)
    kind[missing_tells] = MISSING
    kind[all_pass & ~missing_tells | none_pass & ~missing_tells] = NUMBER
    kind[~asks] = ANSWERED
    threshold[all_pass | none_pass] = 0
    return _Questions(
        kind=kind.astype(np.int8),
        column=place.astype(np.int32),
        threshold=threshold,
        only_left=all_pass & ~missing_tells,
        only_right=none_pass & ~missing_tells,
        swapped=none_pass & missing_tells,
    )


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
