"""Tables of int8 codes: what a graph in integers computes with instead of real numbers.

`Codes` is a table that is in the graph: int8 numbers with one scale and one zero point. `Table` is
an affine function of one, which is not in the graph until somebody reads it; then it becomes one
int8 FULLY_CONNECTED with int32 sums, into the range that its reader can use. Ranges come from the
example's rows, sent through the integers themselves.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor

LOW, HIGH = -128, 127
_WEIGHT = 127
_INT32 = 2**31 - 1

_HEADROOM = 0.05
"""Share of a range that is added on both sides: new rows go a little beyond the example's."""

_SATURATED = {"logistic": 8.0, "tanh": 4.0}
"""Beyond these the function is within half a code of its end."""

_FAINT = 8.0
"""A class this far below a row's best has a probability of less than a tenth of a code."""

Use = Literal["all", "best", "sign", "relu", "logistic", "tanh"]
"""What a table is read for.

`all` keeps every value. `best` keeps what may win: values far below every row's largest are cut
off. `sign` keeps only whether a value is above 0, but that to the last digit of the sum. The
others keep what the function that follows can tell apart.
"""


class NoFormError(Exception):
    """An op, or a use of one, that has no form in integers; says which."""


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A table of int8 numbers in the graph; real = (code - zero point) · scale.

    Attributes:
        tensor: int8, (-1, width).
        scale: One for the table.
        zero_point: The same.
        seen: What the example's rows become, real values (n, width).
    """

    tensor: Tensor
    scale: float
    zero_point: int
    seen: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Codes · matrix + offset, all in real numbers.

    Attributes:
        codes: What it is made from.
        matrix: (codes' width, width).
        offset: (width,).
        is_flat: Whether its shape is (-1,), not (-1, 1).
    """

    codes: Codes
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    is_flat: bool = False

    @classmethod
    def of(cls, codes: Codes) -> "Table":
        """Return the codes themselves."""
        width = codes.seen.shape[1]
        return cls(codes, np.eye(width), np.zeros(width))

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.offset)

    def scaled(self, factor: NDArray[np.float64]) -> "Table":
        """Return table · factor, (width,); a single column is repeated to the factor's width."""
        return replace(self, matrix=self.matrix * factor, offset=self.offset * factor)

    def shifted(self, shift: NDArray[np.float64]) -> "Table":
        """Return table + shift, as `scaled`."""
        wide = self.scaled(np.ones(max(self.width, len(shift))))
        return replace(wide, offset=wide.offset + shift)

    def product(self, weights: NDArray[np.float64], bias: NDArray[np.float64]) -> "Table":
        """Return table · weightsᵀ + bias."""
        return replace(self, matrix=self.matrix @ weights.T, offset=self.offset @ weights.T + bias)

    def take(self, columns: NDArray[np.intp]) -> "Table":
        """Return some columns."""
        return replace(self, matrix=self.matrix[:, columns], offset=self.offset[columns])


class Products:
    """Brings tables into the graph, each at most once for each use.

    Args:
        graph: Where the ops go.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[Any, ...], Codes] = {}

    def codes(self, table: Table, use: Use) -> Codes:
        """Return a table as codes in the range that its use asks for.

        Raises:
            NoFormError: The sums do not fit 32 bits.
        """
        base = table.codes
        is_base = np.array_equal(table.matrix, np.eye(table.width)) and not table.offset.any()
        if is_base and use in {"all", "best"}:
            return base
        key = (base.tensor.index, table.matrix.tobytes(), table.offset.tobytes(), use)
        if key not in self._made:
            self._made[key] = self._product(table, use)
        return self._made[key]

    def _product(self, table: Table, use: Use) -> Codes:
        base, graph = table.codes, self._graph
        if use == "best":  # only differences count
            table = table.shifted(-_middle(base.seen @ table.matrix + table.offset))
        weight_scale = float(np.abs(table.matrix).max(initial=0.0)) / _WEIGHT or 1.0
        unit = base.scale * weight_scale
        weights = np.rint(table.matrix / weight_scale)
        # On average the bias takes back what rounding the weights adds.
        mean = base.seen.mean(axis=0) if len(base.seen) else np.zeros(len(weights))
        rest = table.offset + mean @ (table.matrix - weights * weight_scale)
        bias = np.rint(rest / unit)
        if (np.abs(weights).sum(axis=0) * (HIGH - LOW) + np.abs(bias)).max(initial=0.0) > _INT32:
            raise NoFormError("a sum of products does not fit 32 bits")
        sums = np.rint(base.seen / base.scale) @ weights + bias
        scale, zero_point = (unit, 0) if use == "sign" else _scaling(sums * unit, use)
        tensor = self._emit(base, (weights.T, weight_scale), (bias, unit), is_relu=use == "relu")
        graph.set_scale(tensor, scale, zero_point)
        floor = max(LOW, zero_point) if use == "relu" else LOW
        codes = np.clip(np.rint(sums * unit / scale) + zero_point, floor, HIGH)
        return Codes(tensor, scale, zero_point, (codes - zero_point) * scale)

    def _emit(
        self,
        base: Codes,
        weights: tuple[NDArray[np.float64], float],
        bias: tuple[NDArray[np.float64], float],
        *,
        is_relu: bool,
    ) -> Tensor:
        graph = self._graph
        filters = graph.quantized_constant(weights[0].astype(np.int8), np.array([weights[1]]))
        shift = graph.quantized_constant(
            bias[0].astype(np.int32), np.array([bias[1]]), name="bias_int32"
        )
        options = schema.FullyConnectedOptionsT()
        if is_relu:
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        shape = (-1, len(bias[0]))
        made = graph.emit(
            "FULLY_CONNECTED", [base.tensor, filters, shift], [(shape, "int8")], options
        )
        return made[0]


def _scaling(seen: NDArray[np.float64], use: Use) -> tuple[float, int]:
    """Return scale and zero point for the values that a use can tell apart."""
    low, high = _useful(seen) if use == "best" else (seen.min(initial=0.0), seen.max(initial=0.0))
    margin = _HEADROOM * (high - low)
    # Zero has a code of its own in every table, as the runtimes ask for.
    low, high = min(low - margin, 0.0), max(high + margin, 0.0)
    if use == "relu":
        low = 0.0
    end = _SATURATED.get(use, np.inf)
    low, high = max(low, -end), min(high, end)
    scale = float(np.float32((high - low) / (HIGH - LOW))) or 1.0
    return scale, int(np.clip(np.rint(LOW - low / scale), LOW, HIGH))


def _useful(seen: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range in which a row's best value lies, and those that come near it."""
    if not seen.size:
        return 0.0, 0.0
    least = float(seen.max(axis=1).min()) - _FAINT
    return max(float(seen.min()), least), float(seen.max())


def _middle(seen: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([sum(_useful(seen)) / 2])
