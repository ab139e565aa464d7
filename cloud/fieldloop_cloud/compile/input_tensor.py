"""The model's input: float32, or int8 with a scale for each feature.

An int8 input keeps features of different size apart: each has its own scale and zero point, which
the codec applies on the device. In the graph the way back to real values is one more affine map in
front of the model; it folds into weights and thresholds like a scaler, so that the compiled model
is exact relative to the quantized input.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import UnsupportedError
from fieldloop.manifest import Precision
from fieldloop.signature import TensorSpec
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.rows import Rows
from fieldloop_cloud.compile.value import Value

INPUT_NAME = "x"
LOW, HIGH = -128, 127

HEADROOM = 0.05
"""Share of a feature's range that is added on both sides: new rows go a little beyond the old."""


WHOLE_HEADROOM = 0.5
"""The same for whole numbers whose codes are spread: they are often counts, and counts grow."""


def input_spec(rows: Rows, precision: Precision, *, spread: bool = False) -> TensorSpec:
    """Describe the input tensor.

    Args:
        rows: The form of the rows.
        precision: The model's.
        spread: Whether whole numbers too are spread over all codes, several codes a step, so that
            every feature's codes matter about alike: for weights that share one scale.

    Raises:
        UnsupportedError: An int8 input for missing values or for more categories than codes.
    """
    shape = (-1, rows.width)
    if precision != "int8":
        return TensorSpec(name=INPUT_NAME, shape=shape, dtype="float32")
    if np.isnan(rows.example).any():
        raise UnsupportedError(
            "an int8 input has no code for a missing value",
            where="precision",
            advice="Use float32 or float16, or impute before the model.",
        )
    pairs = (_quantization(rows, column, spread=spread) for column in range(rows.width))
    scale, zero = zip(*pairs, strict=True)
    return TensorSpec(name=INPUT_NAME, shape=shape, dtype="int8", scale=scale, zero_point=zero)


def _quantization(rows: Rows, column: int, *, spread: bool) -> tuple[float, int]:
    """Return a feature's scale and zero point; whole numbers in a short range stay exact."""
    vocabulary = rows.vocabularies[column]
    cells = rows.example[:, column].astype(np.float64)
    spec = rows.specs[column] if rows.specs else None
    known = [v for v in (spec.low, spec.high) if v is not None] if spec else []
    low = min(cells.min(initial=0.0) if not len(cells) else cells.min(), *known, np.inf)
    high = max(cells.max(initial=0.0) if not len(cells) else cells.max(), *known, -np.inf)
    categories = len(vocabulary.categories) if vocabulary else len(spec.categories) if spec else 0
    if categories:
        low, high = -1.0, max(high, categories - 1.0)
    whole = bool(categories) or bool((cells == np.rint(cells)).all())
    if spread and whole and not categories and low < high:
        step = (HIGH - LOW) // ((1 + 2 * WHOLE_HEADROOM) * (high - low))
        if step >= 1:
            return float(1 / step), int(LOW - np.rint(step * (low - WHOLE_HEADROOM * (high - low))))
    if whole and high - low <= HIGH - LOW:
        return 1.0, int(LOW - np.floor(low)) if low < LOW or high > HIGH else 0
    if categories:
        raise UnsupportedError(
            f"{categories} categories do not fit an int8 input",
            where=f"feature {rows.names[column]}",
            advice="Use float32 or float16.",
        )
    margin = HEADROOM * (high - low)
    low, high = low - margin, high + margin
    scale = float(np.float32((high - low) / (HIGH - LOW) or 1.0))
    return scale, int(np.rint(LOW - low / scale))


def root_value(graph: Graph, rows: Rows, spec: TensorSpec) -> Value:
    """Add the input to the graph and return the table of real values that it stands for."""
    quantized = spec.is_quantized
    entrance = graph.input(spec.name, spec.shape, spec.dtype, scale=1.0 if quantized else None)
    example: NDArray[Any] = rows.example
    scale = np.array(spec.scale or [1.0] * rows.width)
    zero = np.array(spec.zero_point or [0] * rows.width, np.float64)
    if quantized:
        codes = np.rint(rows.example.astype(np.float64) / scale) + zero
        example = np.clip(codes, LOW, HIGH).astype(np.int8)

    def real(numbers: NDArray[Any]) -> NDArray[np.float64]:
        return (numbers.astype(np.float64) - zero) * scale if quantized else numbers

    base = Value(
        graph=graph,
        width=rows.width,
        reference=lambda numbers: numbers.astype(np.float64),
        example=example,
        entrance=entrance,
        raw=tuple(range(rows.width)),
        build=lambda: graph.cast(entrance, "float32"),
        untouched=True,
        vocabularies=rows.vocabularies,
    )
    table = base.scaled(scale, -zero * scale).take(range(rows.width)) if quantized else base
    return table.with_root(lambda numbers: rows.original(real(numbers)), rows.vocabularies)
