"""Affine maps between tables: combined in float64 on the host, emitted as few float32 ops.

A table far from zero keeps its digits only if its centre is taken off first: near the centre the
float32 difference is exact. So a map is emitted as (base - centre) · scale + rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor

FAR = 2.0
"""A column further from zero than this many of its own spreads is centred before a product."""


@dataclass(frozen=True, slots=True)
class Affine:
    """table = base · matrix + offset, all float64.

    Attributes:
        base: The `Value` it is a function of; never affine itself.
        offset: (width,).
        source: For an elementwise map the base column of each column, else None.
        scale: For an elementwise map the factor of each column, else None.
        dense: For any other map the matrix (base.width, width), else None.
    """

    base: Any
    offset: NDArray[np.float64]
    source: NDArray[np.intp] | None = None
    scale: NDArray[np.float64] | None = None
    dense: NDArray[np.float64] | None = None

    @classmethod
    def identity(cls, base: Any) -> "Affine":
        """Return the map that changes nothing."""
        width = base.width
        return cls(base, np.zeros(width), source=np.arange(width), scale=np.ones(width))

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The map as a matrix (base.width, width)."""
        if self.dense is not None:
            return self.dense
        assert self.source is not None
        assert self.scale is not None
        matrix = np.zeros((self.base.width, len(self.source)))
        matrix[self.source, np.arange(len(self.source))] = self.scale
        return matrix

    def scaled(self, factor: NDArray[np.float64], shift: NDArray[np.float64]) -> "Affine":
        """Return table · factor + shift, elementwise."""
        offset = self.offset * factor + shift
        if self.scale is None:
            return Affine(self.base, offset, dense=self.matrix * factor)
        return Affine(self.base, offset, source=self.source, scale=self.scale * factor)

    def projected(self, weights: NDArray[np.float64], shift: NDArray[np.float64]) -> "Affine":
        """Return table · weights + shift."""
        return Affine(self.base, self.offset @ weights + shift, dense=self.matrix @ weights)

    def take(self, at: NDArray[np.intp]) -> "Affine":
        """Return some columns."""
        if self.scale is None or self.source is None:
            return Affine(self.base, self.offset[at], dense=self.matrix[:, at])
        return Affine(self.base, self.offset[at], source=self.source[at], scale=self.scale[at])

    def emit(self, g: Graph) -> Tensor:
        """Emit the table, centred at the map's own zero."""
        if self.scale is None:
            return emit_product(g, self.base, self.matrix, self.offset)
        safe = np.where(self.scale == 0, 1.0, self.scale)
        centre = np.where(self.scale == 0, 0.0, -self.offset / safe)
        table, rest = self.emit_around(g, centre)
        return g.add(table, rest) if rest.astype(np.float32).any() else table

    def emit_around(
        self, g: Graph, centre: NDArray[np.float64]
    ) -> tuple[Tensor, NDArray[np.float64]]:
        """Emit (picked base - centre) · scale and return it with what is still to be added.

        Args:
            g: The graph.
            centre: For each column of the table, in the base's units, (width,).
        """
        assert self.source is not None
        assert self.scale is not None
        near = centre.astype(np.float32)
        table = self.base.tensor()
        if not np.array_equal(self.source, np.arange(self.base.width)):
            table = g.gather(table, self.source.astype(np.int32), axis=1)
        if near.any():
            table = g.sub(table, near)
        if (self.scale != 1).any():
            table = g.mul(table, self.scale)
        return table, near.astype(np.float64) * self.scale + self.offset


def joined(parts: list[Affine]) -> Affine | None:
    """Return the columns of all parts as one elementwise map, if they have one base."""
    base = parts[0].base
    if any(part.scale is None or part.base is not base for part in parts):
        return None
    return Affine(
        base,
        np.concatenate([part.offset for part in parts]),
        source=np.concatenate([part.source for part in parts if part.source is not None]),
        scale=np.concatenate([part.scale for part in parts if part.scale is not None]),
    )


def emit_product(
    g: Graph,
    base: Any,
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    weights: Callable[[NDArray[np.float64]], Tensor] | None = None,
) -> Tensor:
    """Emit base · matrix + offset as one FULLY_CONNECTED, after a centring SUB where it matters.

    Args:
        g: The graph.
        base: The `Value` to multiply.
        matrix: (base.width, k).
        offset: (k,).
        weights: Stores the matrix in the model's precision; None: float32.
    """
    mean = base.example_mean
    table = base.tensor()
    spread = np.nanstd(base.example_table, axis=0) if len(base.example_table) else np.inf
    if (np.abs(mean) > FAR * spread).any():
        centre = mean.astype(np.float32)
        table = g.sub(table, centre)
        offset = offset + centre.astype(np.float64) @ matrix
    filters = np.ascontiguousarray(matrix.T)
    return g.fully_connected(table, weights(filters) if weights else filters, offset)
