"""Down a large forest level by level: only the nodes on the way are asked.

A table has one row of four numbers a state: the column asked, the threshold, the next state if the
number is above it, the next state if not. One level walks a (batch, trees) table of states:

    GATHER     the rows of the states, (batch, trees, 4)
    TRANSPOSE  and UNPACK them into their four fields
    GATHER     the numbers asked
    GREATER    and SELECT the next states

The roots' questions are constants, so the first level takes a single GATHER. Trees that end are cut
off where that pays. Levels are written out one by one, about 1 KB each: a WHILE would be smaller,
but is slower, and tflite-runtime 2.14 cannot resize its batch. The table is stored in int16 if it
fits and if that pays for the CAST.

Integers travel as the bits of float32, which the runtimes transpose and select faster; BITCAST is
free. No op here computes with them.

What it costs, and why not less (x86, one thread, LiteRT 2.3, one row and 100 trees): GATHER copies
item by item, 2.0 to 2.5 ns each, be it one number or a row of four, so the two GATHERs of a level
take 0.5 µs of its 0.65; a forest of 100 trees and 10 levels cannot be faster than 5 µs plus the
runtime's own 2.3 µs a call, whatever the other ops take. Measured and not better: a table for each
field (1.5 µs a level). Reckoned from the costs of their ops and not built: two or three
levels a GATHER (0.9: what the rows save, selecting costs), sibling states with CAST and ADD instead
of SELECT (0.66, and leaves can no longer share a row), the first levels of all trees at once
(`dense` on the top only: gains 0.3 of 10 µs).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.traversal.nodes import Nodes

CAST_BYTES = 240
"""What one CAST costs in the file; a table is stored small if it saves more."""

CUT_STATES = 70
"""Cutting trees off pays if it saves this many steps (0.3 µs)."""


def walk_rows(g: Graph, nodes: Nodes) -> Tensor:
    """Return the leaf row that each row reaches in each tree, int32 (-1, trees)."""
    first = g.gather(nodes.asked, nodes.column[nodes.roots], axis=1)
    above = g.greater(first, nodes.threshold[nodes.roots])
    state = g.select(above, nodes.right[nodes.roots], nodes.left[nodes.roots])
    table = _table(nodes)
    ended: list[Tensor] = []
    for level in range(1, nodes.depth):
        live, trees = _live(nodes, level), state.shape[1]
        if (trees - live) * (nodes.depth - level) >= CUT_STATES:
            ended.insert(0, g.columns(state, live, trees))
            state = g.columns(state, 0, live)
        state = _level(g, nodes.asked, table, state)
    return g.concat([state, *ended], axis=1)


def _live(nodes: Nodes, level: int) -> int:
    """Number of trees, in front, that may have a question at this level."""
    return int(np.flatnonzero(nodes.depths > level)[-1]) + 1


def _table(nodes: Nodes) -> NDArray[Any]:
    """Return column, threshold, right and left of every state, (n, 4): int16, int32 or as bits."""
    threshold = nodes.threshold.view(np.int32)
    rows = np.stack([nodes.column, threshold, nodes.right, nodes.left], axis=1)
    small = rows.astype(np.int16)
    pays = rows.nbytes - small.nbytes > CAST_BYTES * nodes.depth
    if pays and np.array_equal(small, rows):
        return small
    return rows if nodes.asked.dtype == "int32" else rows.view(np.float32)


def _level(g: Graph, asked: Tensor, table: NDArray[Any], state: Tensor) -> Tensor:
    found = g.gather(g.constant(table, str(table.dtype)), state)
    if table.dtype != np.float32:
        found = g.bitcast(g.cast(found, "int32"), "float32")
    at, threshold, right, left = g.unpack(g.transpose(found, (2, 0, 1)))
    if asked.dtype == "int32":
        threshold = g.bitcast(threshold, "int32")
    number = g.gather(asked, g.bitcast(at, "int32"), axis=1, batch_dims=1)
    return g.bitcast(g.select(g.greater(number, threshold), right, left), "int32")
