"""A compiled classical model, rewritten in integers: for processors without floating point.

`in_integers` takes the float32 graph behind an int8 input and walks its ops. What is linear is
carried along as one affine function (`codes.Table`) and emitted when something reads it: a scaler,
a projection and a linear model behind it are one int8 FULLY_CONNECTED. Functions become their int8
kernels, which answer in steps of 1/256. A label is found in the sums: of two classes by the sign,
which is exact; of several by the largest code. What has no integer form is refused by its op.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from fieldloop.errors import UnsupportedError
from fieldloop.signature import TensorSpec
from fieldloop_cloud.compile.flat_model import FlatTensor, Op, parse, read_parsed
from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.micro.codes import LOW, Codes, NoFormError, Products, Table, Use
from fieldloop_cloud.compile.tensor import Tensor

_STEPS = 256
_COLUMN = 2
"""Dimensions of a table."""


@dataclass(frozen=True, slots=True, eq=False)
class _Above:
    """Whether each value of a flat table is above 0; not in the graph."""

    table: Table


def in_integers(
    tflite: bytes, example: NDArray[np.int8], outputs: tuple[TensorSpec, ...], *, where: str
) -> tuple[bytes, tuple[TensorSpec, ...]]:
    """Return the same model with int8 arithmetic and int8 outputs.

    Args:
        tflite: A graph with one int8 input, whose codes it casts to float32.
        example: Codes (n, width) that set the ranges.
        outputs: What comes out of it.
        where: The model's name, for errors.

    Returns:
        The flatbuffer, and its outputs with their scales; labels stay int32.

    Raises:
        UnsupportedError: An op that has no form in integers.
    """
    try:
        return _Rewriting(tflite, example).done(outputs)
    except NoFormError as error:
        raise UnsupportedError(
            f"this model has no form in integers alone: {error}",
            where=where,
            advice="A microcontroller takes linear models (LogisticRegression, LinearSVC, "
            "RidgeClassifier, Ridge, LinearSVR), LDA and MLPs, with scalers or PCA in front. "
            "Distill this one into an MLP or a small net (fieldloop_cloud.distill).",
        ) from error


class _Rewriting:
    """The walk through one graph."""

    def __init__(self, tflite: bytes, example: NDArray[np.int8]) -> None:
        parsed = parse(tflite)
        self._buffers = parsed.buffers
        self._places = [tensor.buffer for tensor in parsed.subgraphs[0].tensors]
        self._from = read_parsed(parsed).graphs[0]
        self._graph = Graph(Model())
        self._products = Products(self._graph)
        source = self._from.tensors[self._from.inputs[0]]
        entrance = self._graph.input(source.name, (-1, example.shape[1]), "int8", scale=1.0)
        codes = Codes(entrance, 1.0, 0, example.astype(np.float64))
        self._made: dict[int, Table | _Above | Tensor] = {source.index: Table.of(codes)}
        self._rules: dict[str, Callable[[Op], Table | _Above | Tensor]] = {
            "CAST": self._cast,
            "RESHAPE": self._reshape,
            "GATHER": self._gather,
            "CONCATENATION": self._concatenation,
            "ADD": self._add,
            "SUB": self._subtract,
            "MUL": self._multiply,
            "NEG": lambda op: self._table(op, 0).scaled(np.array([-1.0])),
            "FULLY_CONNECTED": self._fully_connected,
            "RELU": lambda op: Table.of(self._products.codes(self._table(op, 0), "relu")),
            "LOGISTIC": lambda op: self._function(op, "logistic", (1 / _STEPS, LOW)),
            "TANH": lambda op: self._function(op, "tanh", (2 / _STEPS, 0)),
            "SOFTMAX": lambda op: self._function(op, "best", (1 / _STEPS, LOW)),
            "GREATER": self._greater,
            "ARG_MAX": lambda op: self._largest(self._table(op, 0), "best"),
        }

    def done(self, outputs: tuple[TensorSpec, ...]) -> tuple[bytes, tuple[TensorSpec, ...]]:
        """Rewrite every op and make the outputs."""
        for op in self._from.ops:
            rule = self._rules.get(op.name)
            if rule is None or len(op.outputs) != 1:
                raise NoFormError(op.name)
            self._made[op.outputs[0].index] = rule(op)
        specs = tuple(
            self._output(spec, self._made.get(index))
            for spec, index in zip(outputs, self._from.outputs, strict=True)
        )
        return self._graph.finish(), specs

    def _output(self, spec: TensorSpec, made: Table | _Above | Tensor | None) -> TensorSpec:
        if isinstance(made, Tensor):
            self._graph.output(spec.name, made)
            return spec
        if not isinstance(made, Table):
            raise NoFormError(f"the output '{spec.name}'")
        codes = self._products.codes(made, "all")
        tensor = self._graph.reshape(codes.tensor, (-1,)) if made.is_flat else codes.tensor
        tensor = self._graph.output(spec.name, tensor)
        self._graph.set_scale(tensor, codes.scale, codes.zero_point)
        return msgspec.structs.replace(
            spec, dtype="int8", scale=(codes.scale,), zero_point=(codes.zero_point,)
        )

    # Rules; each returns what the op's only output becomes.

    def _cast(self, op: Op) -> Table | _Above | Tensor:
        made = self._made.get(_index(op, 0))
        if not isinstance(made, _Above):
            return self._table(op, 0)
        if not made.table.is_flat:
            raise NoFormError("votes, or several labels for one row")
        # Class 1 wins if the value is above 0, and on a tie the first class.
        return self._largest(made.table.scaled(np.array([-1.0, 1.0])), "sign")

    def _reshape(self, op: Op) -> Table:
        table, shape = self._table(op, 0), op.outputs[0].shape
        if len(shape) == 1 and table.width == 1:
            return replace(table, is_flat=True)
        if len(shape) == _COLUMN and shape[1] == table.width:
            return replace(table, is_flat=False)
        raise NoFormError("a RESHAPE that moves columns")

    def _gather(self, op: Op) -> Table:
        columns = self._constant(op.inputs[1])
        is_pick = columns is not None and op.outputs[0].shape == (1, columns.size)
        if columns is None or not is_pick:
            raise NoFormError("a GATHER by computed places")
        return self._table(op, 0).take(columns.astype(np.intp))

    def _concatenation(self, op: Op) -> Table:
        parts = [self._table(op, place) for place in range(len(op.inputs))]
        if op.outputs[0].shape != (1, sum(part.width for part in parts)):
            raise NoFormError("rows below rows")
        return self._joined(parts, lambda matrices: np.concatenate(matrices, axis=-1))

    def _add(self, op: Op) -> Table:
        constants = [self._constant(tensor) for tensor in op.inputs]
        if constants[0] is None and constants[1] is None:
            parts = [self._table(op, 0), self._table(op, 1)]
            if parts[0].width != parts[1].width:
                raise NoFormError("a sum of tables of different width")
            return self._joined(parts, lambda terms: terms[0] + terms[1])
        place = 0 if constants[0] is None else 1
        return self._table(op, place).shifted(_row(constants[1 - place]))

    def _subtract(self, op: Op) -> Table:
        first = self._constant(op.inputs[0])
        if first is not None:
            return self._table(op, 1).scaled(np.array([-1.0])).shifted(_row(first))
        return self._table(op, 0).shifted(-_row(self._constant(op.inputs[1])))

    def _multiply(self, op: Op) -> Table:
        constants = [self._constant(tensor) for tensor in op.inputs]
        place = 0 if constants[0] is None else 1
        return self._table(op, place).scaled(_row(constants[1 - place]))

    def _fully_connected(self, op: Op) -> Table:
        weights, bias = self._constant(op.inputs[1]), self._constant(op.inputs[2])
        if weights is None or bias is None:
            raise NoFormError("a product of two computed tables")
        return self._table(op, 0).product(weights, bias)

    def _function(self, op: Op, use: Use, scaling: tuple[float, int]) -> Table:
        codes = self._products.codes(self._table(op, 0), use)
        options: Any = None
        if op.name == "SOFTMAX":
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
        shape = codes.tensor.shape
        tensor = self._graph.emit(op.name, [codes.tensor], [(shape, "int8")], options)[0]
        scale, zero_point = scaling
        self._graph.set_scale(tensor, scale, zero_point)
        seen = np.rint(_FUNCTIONS[op.name](codes.seen) / scale) * scale
        return Table.of(Codes(tensor, scale, zero_point, seen))

    def _greater(self, op: Op) -> _Above:
        return _Above(self._table(op, 0).shifted(-_row(self._constant(op.inputs[1]))))

    def _largest(self, table: Table, use: Use) -> Tensor:
        return self._graph.arg_max(self._products.codes(table, use).tensor)

    # What the rules are made of.

    def _table(self, op: Op, place: int) -> Table:
        made = self._made.get(_index(op, place))
        if not isinstance(made, Table):
            raise NoFormError(f"{op.name} of this")
        return made

    def _joined(
        self,
        parts: list[Table],
        join: Callable[[list[NDArray[np.float64]]], NDArray[np.float64]],
    ) -> Table:
        first = parts[0]
        if any(part.codes is not first.codes for part in parts):
            raise NoFormError("tables of different scales side by side")
        matrix = join([part.matrix for part in parts])
        return Table(first.codes, matrix, join([part.offset for part in parts]))

    def _constant(self, tensor: FlatTensor | None) -> NDArray[Any] | None:
        """Return the values of a constant; None if the tensor is computed."""
        if tensor is None or not tensor.is_constant:
            return None
        raw = bytes(self._buffers[self._places[tensor.index]].data)
        return np.frombuffer(raw, dtype=tensor.dtype).reshape(tensor.shape)


_FUNCTIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "LOGISTIC": lambda x: 1 / (1 + np.exp(-x)),
    "TANH": np.tanh,
    "SOFTMAX": lambda x: np.exp(x - x.max(axis=1, keepdims=True)) / _total(x),
}


def _total(x: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.exp(x - x.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)
    return total


def _index(op: Op, place: int) -> int:
    tensor = op.inputs[place]
    return -1 if tensor is None else tensor.index


def _row(constant: NDArray[Any] | None) -> NDArray[np.float64]:
    """Return a constant that is the same for every row, (width,) or (1,)."""
    if constant is None or (constant.ndim and constant.size != constant.shape[-1]):
        raise NoFormError("a product of two computed tables")
    return np.asarray(constant, dtype=np.float64).ravel()
