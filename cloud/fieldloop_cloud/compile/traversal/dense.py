"""Down a small forest: every node is asked at once, then each tree follows the answers.

    GATHER   the columns asked, one for each block of nodes that ask the same
    GREATER  answers the questions of all nodes, (batch, blocks, nodes a block)
    SELECT   the next state of every node, (batch, states)
    GATHER   the next state of each tree, once a level

A level takes one GATHER instead of two, and none of the ops between them (`rows`), so that a few
thousand answers in advance are soon earned back. States are the places in the blocks: leaves fill
the first ones, then the nodes follow, sorted by what they ask. A file takes 8 bytes a state where a
table of rows takes 16, and 0.3 KB a level instead of 1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.traversal.nodes import Nodes
from fieldloop_cloud.compile.traversal.rows import CAST_BYTES

BLOCK_SIZES = (4, 8, 16, 32, 64)

MOST_STATES = 4096
"""More states are walked by rows: 1,000 input rows' answers would no longer lie in a cache, and
tflite-runtime 2.14 answers more slowly (3 ns a question) than LiteRT (0.5 ns)."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Where the states lie.

    Attributes:
        size: States a block.
        columns: (blocks,) what each block asks, int32.
        place: (n,) place of each of the forest's states; a leaf's is its number.
    """

    size: int
    columns: NDArray[np.int32]
    place: NDArray[np.int32]

    @classmethod
    def of(cls, nodes: Nodes) -> "Blocks":
        """Lay out blocks of the size that is answered fastest."""
        made = [cls._sized(nodes, size) for size in BLOCK_SIZES]
        return min(made, key=lambda blocks: blocks.cost_ns)

    @classmethod
    def _sized(cls, nodes: Nodes, size: int) -> "Blocks":
        leaves = nodes.leaf_count
        columns = [0] * -(-leaves // size)
        place = np.arange(len(nodes.column), dtype=np.int32)
        for column in np.unique(nodes.column[leaves:]).tolist():
            mine = leaves + np.flatnonzero(nodes.column[leaves:] == column)
            place[mine] = len(columns) * size + np.arange(len(mine))
            columns += [column] * -(-len(mine) // size)
        return cls(size, np.array(columns, np.int32), place)

    @property
    def count(self) -> int:
        """Number of places, some of them empty."""
        return len(self.columns) * self.size

    @property
    def cost_ns(self) -> float:
        """Time to answer one row of the input (measured: x86, one thread)."""
        return 4.3 * len(self.columns) + 0.45 * self.count

    def pays(self, nodes: Nodes) -> bool:
        """Whether this is faster than walking by rows."""
        saved_ns = nodes.depth * (165 + 2.35 * len(nodes.roots))
        return self.count <= MOST_STATES and self.cost_ns < saved_ns


def walk_dense(g: Graph, nodes: Nodes, blocks: Blocks) -> Tensor:
    """Return the leaf row that each row reaches in each tree, int32 (-1, trees)."""
    following = _following(g, nodes, blocks)
    state = g.gather(following, blocks.place[nodes.roots], axis=1)
    for _ in range(nodes.depth - 1):
        state = g.gather(following, g.cast(state, "int32"), axis=1, batch_dims=1)
    return g.cast(state, "int32")


def _following(g: Graph, nodes: Nodes, blocks: Blocks) -> Tensor:
    """Return the next state of every state, int16 or int32 (-1, states)."""
    shape = (len(blocks.columns), blocks.size)
    threshold = np.zeros(blocks.count, nodes.threshold.dtype)
    right, left = np.arange(blocks.count), np.arange(blocks.count)
    threshold[blocks.place] = nodes.threshold
    right[blocks.place], left[blocks.place] = blocks.place[nodes.right], blocks.place[nodes.left]
    pays = 4 * blocks.count > CAST_BYTES * nodes.depth
    dtype = "int16" if pays and blocks.count <= np.iinfo(np.int16).max else "int32"
    asked = g.reshape(g.gather(nodes.asked, blocks.columns, axis=1), (-1, shape[0], 1))
    above = g.greater(asked, _limits(g, threshold.reshape(shape)))
    ways = [g.constant(way.reshape(1, *shape), dtype) for way in (right, left)]
    return g.reshape(g.select(above, *ways), (-1, blocks.count))


def _limits(g: Graph, threshold: NDArray[Any]) -> Tensor:
    """Return the thresholds; the codes of an int8 input are stored as int8 if that pays."""
    if threshold.dtype == np.int32 and 3 * threshold.size > CAST_BYTES:
        return g.cast(g.constant(threshold, "int8"), "int32")
    return g.constant(threshold)
