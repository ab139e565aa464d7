"""A small graph builder that emits TFLite's builtin ops directly, without TensorFlow.

`Graph` holds one subgraph. Its methods are named after the builtin ops in lower case; each takes
tensors (or NumPy values, which become constants of the matching type), works out the result's
shape and dtype, picks the lowest op version that covers the types used (all are in tflite-runtime
2.14), and returns the new `Tensor`. -1 in a shape is a dimension known only at run time, usually
the batch; it is written as `shape_signature`, so that the same file runs any number of rows.

    model = Model()
    g = Graph(model)
    x = g.input("x", (-1, 4), "float32")
    y = g.softmax(g.fully_connected(x, weights, bias))     # weights (3, 4), bias (3,)
    g.output("probabilities", y)
    data = g.finish()

Loops: `while_` builds two more subgraphs from Python callables. A body sees only the loop
variables; constants may be made inside, tensors of the outer graph must be passed as variables.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.flatbuffer import TENSOR_TYPES, Model
from fieldloop_cloud.compile.ops import Ops
from fieldloop_cloud.compile.runtimes import min_runtime
from fieldloop_cloud.compile.tensor import Operand, Tensor
from fieldloop_cloud.compile.versions import version_for

DESCRIPTION = "fieldloop"


class Graph(Ops):
    """One subgraph under construction; `Ops` has the op methods.

    Args:
        model: Where buffers and operator codes go; several graphs share one.
        name: The subgraph's name.
    """

    def __init__(self, model: Model, name: str = "main") -> None:
        self.model = model
        self._graph = schema.SubGraphT()
        self._graph.name = name
        self._graph.tensors = []
        self._graph.operators = []
        self._graph.inputs = []
        self._graph.outputs = []
        self._constants: dict[tuple[int, str, tuple[int, ...]], Tensor] = {}
        self._index = len(model.subgraphs)
        model.subgraphs.append(self._graph)

    def input(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        *,
        scale: float | None = None,
        zero_point: int = 0,
    ) -> Tensor:
        """Add an input tensor; `scale` makes it a per-tensor quantized one."""
        tensor = self._tensor(name, tuple(shape), dtype)
        if scale is not None:
            self._quantize(tensor, np.array([scale]), np.array([zero_point]))
        self._graph.inputs.append(tensor.index)
        return tensor

    def output(self, name: str, tensor: Tensor) -> Tensor:
        """Make `tensor` an output and give it `name`.

        An input, a constant or a tensor that is an output already is copied first: the runtimes
        want every output to be made by an op of its own.
        """
        self._own(tensor)
        if (
            tensor.index in self._graph.inputs
            or tensor.index in self._graph.outputs
            or tensor.data is not None
        ):
            tensor = self.copy(tensor)
        self._graph.tensors[tensor.index].name = name
        self._graph.outputs.append(tensor.index)
        return tensor

    def constant(self, value: Any, dtype: str | None = None, *, name: str = "") -> Tensor:
        """Return a constant; equal ones are stored once.

        Args:
            value: Anything `np.asarray` takes. float64 becomes float32, int64 stays only if
                `dtype` says so (indices are int32).
            dtype: The tensor's type; None: float32, int32 or bool by the value's kind.
            name: Shown by viewers.
        """
        array = np.asarray(value)
        wanted = dtype or {"f": "float32", "b": "bool"}.get(array.dtype.kind, "int32")
        array = np.ascontiguousarray(array.astype(wanted)).reshape(array.shape)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UnsupportedError(
                f"constant '{name or 'without a name'}' holds an infinity or NaN",
                advice="Fit the estimator on finite values within float32's range.",
            )
        key = (self.model.buffer(array), wanted, array.shape)
        if key not in self._constants:
            tensor = self._tensor(name, array.shape, wanted)
            tensor = Tensor(tensor.index, tensor.shape, tensor.dtype, self, array)
            self._graph.tensors[tensor.index].buffer = key[0]
            self._constants[key] = tensor
        return self._constants[key]

    def quantized_constant(
        self,
        codes: NDArray[np.int8] | NDArray[np.int32],
        scale: NDArray[Any],
        *,
        axis: int = 0,
        name: str = "",
    ) -> Tensor:
        """Return an int8 or int32 constant with scales (one, or one per slice along `axis`)."""
        dtype = codes.dtype.name
        tensor = self._tensor(name or "weights_int8", codes.shape, dtype)
        tensor = Tensor(tensor.index, tensor.shape, dtype, self, codes)
        self._graph.tensors[tensor.index].buffer = self.model.buffer(codes)
        scales = np.atleast_1d(scale)
        self._quantize(tensor, scales, np.zeros(len(scales), dtype=np.int64), axis=axis)
        return tensor

    def set_scale(self, tensor: Tensor, scale: float, zero_point: int) -> None:
        """Say what the integers of a tensor that an op makes stand for."""
        self._own(tensor)
        self._quantize(tensor, np.array([scale]), np.array([zero_point]))

    def emit(
        self,
        op: str,
        inputs: Sequence[Tensor],
        results: Sequence[tuple[tuple[int, ...], str]],
        options: Any = None,
        **features: Any,
    ) -> tuple[Tensor, ...]:
        """Append any builtin op by the schema's name; the op methods all come here.

        Args:
            op: For example `FULLY_CONNECTED`.
            inputs: In the op's order; all must belong to this graph.
            results: Shape and dtype of each output.
            options: The schema's options object (`schema.AddOptionsT()`), if the op has one.
            features: What else decides the version; see `versions.version_for`.
        """
        for tensor in inputs:
            self._own(tensor)
        version = version_for(op, inputs, results, **features)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.model.opcode(op, version)
        operator.inputs = np.array([tensor.index for tensor in inputs], np.int32)
        made = tuple(self._tensor("", shape, dtype) for shape, dtype in results)
        operator.outputs = np.array([tensor.index for tensor in made], np.int32)
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(
                schema.BuiltinOptions, type(options).__name__.removesuffix("T")
            )
        self._graph.operators.append(operator)
        return made

    def operand(self, value: Operand, like: Tensor | None = None) -> Tensor:
        """Return `value` as a tensor: a NumPy value becomes a constant of `like`'s dtype."""
        if isinstance(value, Tensor):
            return value
        return self.constant(value, like.dtype if like is not None else None)

    def while_(
        self,
        condition: Callable[["Graph", tuple[Tensor, ...]], Tensor],
        body: Callable[["Graph", tuple[Tensor, ...]], Sequence[Tensor]],
        variables: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Repeat `body` while `condition` (a bool scalar, shape () or (1,)) holds.

        Args:
            condition: Gets a fresh graph and the loop variables in it.
            body: The same; returns the variables' next values, of the same shapes and dtypes.
            variables: First values.
        """
        options = schema.WhileOptionsT()
        options.condSubgraphIndex = self._loop("condition", variables, condition)
        options.bodySubgraphIndex = self._loop("body", variables, body)
        return self.emit(
            "WHILE", variables, [(tensor.shape, tensor.dtype) for tensor in variables], options
        )

    def _loop(self, name: str, variables: Sequence[Tensor], build: Callable[..., Any]) -> int:
        inner = Graph(self.model, f"{name}{len(self.model.subgraphs)}")
        inside = tuple(
            inner.input(f"v{i}", tensor.shape, tensor.dtype) for i, tensor in enumerate(variables)
        )
        made = build(inner, inside)
        for i, tensor in enumerate((made,) if isinstance(made, Tensor) else made):
            inner.output(f"r{i}", tensor)
        return inner._index

    def finish(self) -> bytes:
        """Return the flatbuffer of the whole model; call it on the main graph, once."""
        return self.model.to_bytes(
            description=DESCRIPTION, min_runtime=min_runtime(self.model.op_versions())
        )

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        entry = schema.TensorT()
        entry.name = name or None
        entry.type = TENSOR_TYPES[dtype]
        entry.buffer = 0
        entry.shape = np.array([max(size, 1) if size < 0 else size for size in shape], np.int32)
        entry.hasRank = True
        if -1 in shape:
            entry.shapeSignature = np.array(shape, np.int32)
        self._graph.tensors.append(entry)
        return Tensor(len(self._graph.tensors) - 1, tuple(int(s) for s in shape), dtype, self)

    def _quantize(
        self, tensor: Tensor, scale: NDArray[Any], zero_point: NDArray[Any], *, axis: int = 0
    ) -> None:
        quantization = schema.QuantizationParametersT()
        quantization.scale = scale.astype(np.float32)
        quantization.zeroPoint = zero_point.astype(np.int64)
        quantization.quantizedDimension = axis
        self._graph.tensors[tensor.index].quantization = quantization

    def _own(self, tensor: Tensor) -> None:
        if tensor.graph is not self:
            message = "a tensor of another graph was used; pass it as a loop variable"
            raise ValueError(message)
