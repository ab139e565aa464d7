"""A flatbuffer as plain graphs of ops and tensors: what analyses of a .tflite file work on.

`read_model` parses any .tflite file; nothing is run. Sizes are for a batch of one, which is what a
file states beside its dynamic shapes.
"""

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.flatbuffer import FILE_IDENTIFIER

_OP_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)
}
DTYPES = {
    code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)
}
"""NumPy's name of every tensor type, by its code."""

_ITEM_BITS = {"float64": 64, "int64": 64, "uint64": 64, "int4": 4, "bool": 8, "complex64": 64}


@dataclass(frozen=True, slots=True, eq=False)
class FlatTensor:
    """One tensor of a graph.

    Attributes:
        index: Its number in the graph.
        name: Its name; may be empty.
        shape: For a batch of one.
        dtype: For example `int8`.
        is_constant: Whether the file holds its values.
        is_variable: Whether it keeps its values between calls.
        scale_count: Number of quantization scales; 0 if it is not quantized.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    is_constant: bool
    is_variable: bool
    scale_count: int

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        digits = "".join(character for character in self.dtype if character.isdigit())
        bits = _ITEM_BITS.get(self.dtype, int(digits or 8))
        return (math.prod(self.shape) * bits + 7) // 8


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One op: its schema name (a custom op's own), tensors (None: left out) and sub-graphs."""

    name: str
    inputs: tuple[FlatTensor | None, ...]
    outputs: tuple[FlatTensor, ...]
    subgraphs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FlatGraph:
    """One graph: its tensors, its ops in their order, and the numbers of inputs and outputs."""

    tensors: tuple[FlatTensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FlatModel:
    """A model's graphs, the main one first."""

    graphs: tuple[FlatGraph, ...]


def parse(tflite: bytes) -> Any:
    """Return the flatbuffer as LiteRT's `ModelT`.

    Raises:
        UnsupportedError: The bytes are no TFLite model, or a damaged one.
    """
    if tflite[4:8] != FILE_IDENTIFIER:
        raise UnsupportedError(
            "these bytes are no TFLite model", advice="Give a .tflite file or a .flb bundle."
        )
    try:
        return schema.ModelT.InitFromPackedBuf(tflite, 0)
    except (struct.error, IndexError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise UnsupportedError(
            "the TFLite model is damaged", advice="Compile or copy it again."
        ) from error


def read_model(tflite: bytes) -> FlatModel:
    """Read a flatbuffer's graphs.

    Raises:
        UnsupportedError: The bytes are no TFLite model, or one without a graph.
    """
    return read_parsed(parse(tflite))


def read_parsed(model: Any) -> FlatModel:
    """Read the graphs of a `ModelT`.

    Raises:
        UnsupportedError: It has no graph.
    """
    graphs = tuple(_graph(model, graph) for graph in model.subgraphs or [])
    if not graphs:
        raise UnsupportedError("the model has no graph", advice="Compile it again.")
    return FlatModel(graphs)


def op_name(code: Any) -> str:
    """Return the schema's name of an `OperatorCodeT`, or a custom op's own."""
    if code.customCode is not None:
        return bytes(code.customCode).decode()
    # Files of before 2021 have the code in the deprecated one-byte field only.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name: str = _OP_NAMES.get(number, f"BUILTIN_{number}")
    return name


def numbers(value: Any) -> list[Any]:
    """Return a schema vector as a list; empty for None."""
    return [] if value is None else list(np.asarray(value).ravel().tolist())


def _graph(model: Any, graph: Any) -> FlatGraph:
    tensors = tuple(
        _tensor(model, index, tensor) for index, tensor in enumerate(graph.tensors or [])
    )
    ops = []
    for operator in graph.operators or []:
        inputs = numbers(operator.inputs)
        ops.append(
            Op(
                name=op_name(model.operatorCodes[operator.opcodeIndex]),
                inputs=tuple(tensors[index] if index >= 0 else None for index in inputs),
                outputs=tuple(tensors[index] for index in numbers(operator.outputs)),
                subgraphs=_called(operator.builtinOptions),
            )
        )
    return FlatGraph(
        tensors, tuple(ops), tuple(numbers(graph.inputs)), tuple(numbers(graph.outputs))
    )


def _tensor(model: Any, index: int, tensor: Any) -> FlatTensor:
    data = model.buffers[tensor.buffer].data if tensor.buffer else None
    scales = tensor.quantization.scale if tensor.quantization is not None else None
    return FlatTensor(
        index=index,
        name=(tensor.name or b"").decode(),
        shape=tuple(abs(int(size)) for size in numbers(tensor.shape)),
        dtype=DTYPES[tensor.type],
        is_constant=data is not None and len(data) > 0,
        is_variable=bool(tensor.isVariable),
        scale_count=len(numbers(scales)),
    )


def _called(options: Any) -> tuple[int, ...]:
    """Return the sub-graphs that a control-flow op runs."""
    fields = (
        "thenSubgraphIndex",
        "elseSubgraphIndex",
        "condSubgraphIndex",
        "bodySubgraphIndex",
        "initSubgraphIndex",
    )
    return tuple(int(getattr(options, name)) for name in fields if hasattr(options, name))
