"""Questions about categories, answered for all nodes at once before the trees are walked.

A tree asks whether a row's category is in a set. Every such question becomes one column that is
1 (right) or 0 (left), looked up in a table by the number of the category. So the walk itself knows
numbers only. What equals no known category, a missing value included, has number 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Question:
    """Which way each category of a column goes.

    Attributes:
        column: Column of the table.
        codes: The known categories, as they stand in the table; the same in all questions about
            one column.
        right: For each code whether it goes right.
        otherwise_right: Whether anything else goes right.
    """

    column: int
    codes: tuple[float, ...]
    right: tuple[bool, ...]
    otherwise_right: bool


def answers(g: Graph, table: Tensor, questions: Sequence[Question]) -> Tensor:
    """Return 1 where the answer is "right", else 0, int32 (-1, questions)."""
    codes = {q.column: q.codes for q in questions}
    columns = list(codes)
    source = np.concatenate([np.full(len(codes[c]), c) for c in columns]).astype(np.int32)
    known = np.concatenate([np.asarray(codes[c], np.float64) for c in columns])
    number = np.zeros((len(columns), len(source)), np.float32)
    for place, column in enumerate(columns):
        mine = source == column
        number[place, mine] = np.arange(1, mine.sum() + 1)
    found = g.equal(g.gather(table, source, axis=1), known.astype(np.float32))
    numbers = g.cast(g.fully_connected(g.cast(found, "float32"), number), "int32")
    sizes = [len(q.codes) + 1 for q in questions]
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    asked = np.array([columns.index(q.column) for q in questions], np.int32)
    ways = np.concatenate([(q.otherwise_right, *q.right) for q in questions]).astype(np.int8)
    at = g.add(g.gather(numbers, asked, axis=1), start)
    return g.cast(g.gather(g.constant(ways, "int8"), at), "int32")
