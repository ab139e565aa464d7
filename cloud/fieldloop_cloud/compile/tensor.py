"""A symbolic tensor: what the graph builder's methods take and return."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One tensor of a subgraph.

    Attributes:
        index: Its number in the subgraph.
        shape: Dimensions; -1 for one that is known only at run time.
        dtype: NumPy's name.
        graph: The `Graph` it belongs to.
        data: The value of a constant, else None.
    """

    index: int
    shape: tuple[int, ...]
    dtype: str
    graph: Any
    data: NDArray[Any] | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


Operand = Tensor | NDArray[Any] | np.generic | float | int | bool | list[Any] | tuple[Any, ...]
"""What an op method takes: a tensor, or a value that becomes a constant."""


def broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of an elementwise result; -1 against a number above 1 gives the number.

    >>> broadcast((-1, 1), (3,))
    (-1, 3)
    """
    rank = max(len(a), len(b))
    left = (1,) * (rank - len(a)) + a
    right = (1,) * (rank - len(b)) + b
    shape = []
    for x, y in zip(left, right, strict=True):
        if x != y and 1 not in (x, y) and -1 not in (x, y):
            message = f"shapes {a} and {b} do not broadcast"
            raise ValueError(message)
        shape.append(y if x == 1 or (x == -1 and y != 1) else x)
    return tuple(shape)
