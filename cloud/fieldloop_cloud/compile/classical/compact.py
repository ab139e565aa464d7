"""Training rows of whole numbers, stored in one byte a number or two, without loss.

Pixels and counts are whole numbers, and stay so under a scaler: a support vector is
(pixel - mean) / spread. Stored are the whole numbers around a whole centre, as int8 or float16; the
scaler's factors move to the row, where they cost one MUL. The runtimes turn such a constant into
float32 once, when they load the model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.affine import Affine
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.lowering import Context
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value

DEQUANTIZE_BYTES = 300
"""What a DEQUANTIZE costs in the file; points are stored small if that saves more."""

SAME = 2.0**-22
"""A point that differs by this share of its size only shows the scaler's rounding in float32."""

WHOLE = 1e-4
"""A number further from a whole one is none, however coarse float32 is there."""


@dataclass(frozen=True, eq=False)
class Compact:
    """Points and rows around one centre: value - centre = near · scale.

    Attributes:
        near: float32 (-1, width): the rows, in whole units where they are whole.
        points: float32 (m, width): the points, in the same units; exact.
        numbers: The same on the host, (m, width).
        scale: The value's units a whole one, (width,).
    """

    near: Tensor
    points: Tensor
    numbers: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, value: Value, points: NDArray[np.float64], context: Context) -> "Compact | None":
        """Return the points of a table in small types, or None if they are not whole numbers."""
        affine = Affine.identity(value) if value.affine is None else value.affine
        if affine.scale is None or affine.source is None or not affine.scale.all():
            return None
        raw = np.rint((points - affine.offset) / affine.scale)
        size = np.abs(points) + np.abs(affine.offset) + np.abs(affine.scale)
        allowed = np.minimum(SAME * size, WHOLE * np.abs(affine.scale))
        if (np.abs(raw * affine.scale + affine.offset - points) > allowed).any():
            return None
        centre = np.rint(affine.base.example_mean[affine.source])
        # Anything within a span of 256 fits int8 around the right centre.
        centre = np.clip(centre, raw.max(axis=0) - 127, raw.min(axis=0) + 128)
        stored = _stored(context.graph, raw - centre)
        if stored is None:
            return None
        near = _near(context.graph, affine, centre)
        return cls(near, stored, raw - centre, affine.scale)


def _near(g: Graph, affine: Affine, centre: NDArray[np.float64]) -> Tensor:
    whole = Affine(affine.base, affine.offset, affine.source, np.ones_like(centre))
    return whole.emit_around(g, centre)[0]


def _stored(g: Graph, numbers: NDArray[Any]) -> Tensor | None:
    """Return whole numbers as float32, stored in the smallest type that holds them exactly."""
    for dtype, saved in (("int8", 3), ("float16", 2)):
        with np.errstate(invalid="ignore", over="ignore"):
            small = numbers.astype(dtype)
        if np.array_equal(small, numbers) and saved * numbers.size > DEQUANTIZE_BYTES:
            if dtype == "int8":
                return g.dequantize(g.quantized_constant(small, np.ones(1), name="whole_numbers"))
            return g.dequantize(g.constant(small, dtype, name="whole_numbers"))
    return None
