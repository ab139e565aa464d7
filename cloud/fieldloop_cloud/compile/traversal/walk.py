"""The way down all trees of a forest at once, for all rows at once.

Small forests are asked all their questions in advance (`dense`), large ones walk level by level
(`rows`). Both reach the very leaf that the library reaches: every question is a comparison with a
threshold that `thresholds` moved to the model's input.
"""

from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.thresholds import ThresholdTable
from fieldloop_cloud.compile.traversal.dense import Blocks, walk_dense
from fieldloop_cloud.compile.traversal.nodes import Nodes
from fieldloop_cloud.compile.traversal.rows import walk_rows


def leaf_rows(
    g: Graph,
    trees: Sequence[Any],
    leaf_row: NDArray[Any],
    *,
    table: ThresholdTable,
    compared_as: Literal["float32", "float64"],
    answers: Tensor | None = None,
) -> Tensor:
    """Return the leaf row that each row reaches in each tree, int32 (-1, trees).

    Args:
        g: The main graph.
        trees: `forest.Tree`s; rows are walked faster if the deepest ones come first.
        leaf_row: Row of the leaf table for each leaf, in the trees' order.
        table: What is asked.
        compared_as: What the library casts its input to before it compares.
        answers: int32 (-1, m): questions answered already: 1 goes right, 0 left.
    """
    nodes = Nodes.lay_out(g, trees, leaf_row, table=table, compared_as=compared_as, answers=answers)
    blocks = Blocks.of(nodes)
    return walk_dense(g, nodes, blocks) if blocks.pays(nodes) else walk_rows(g, nodes)
