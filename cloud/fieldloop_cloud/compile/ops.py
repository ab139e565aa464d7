"""The op methods of `Graph`, one a builtin op, with shape and dtype inference.

Every method is named after its op and takes tensors or values; a value becomes a constant of the
other operand's dtype. `axis` may be negative. A shape is worked out as far as it is known: -1 stays
-1. What is not here can be emitted with `Graph.emit`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fieldloop_cloud.compile.elementwise import Elementwise
from fieldloop_cloud.compile.flatbuffer import TENSOR_TYPES
from fieldloop_cloud.compile.tensor import Operand, Tensor, broadcast


class Ops(Elementwise):
    """All op methods; mixed into `Graph`, which brings `emit`, `constant` and `operand`."""

    # Products.

    def fully_connected(
        self, x: Tensor, weights: Operand, bias: Operand | None = None, *, relu: bool = False
    ) -> Tensor:
        """Return x · weightsᵀ + bias.

        Args:
            x: float32, (-1, n).
            weights: float32, (m, n): one row an output, as scikit-learn's `coef_`.
            bias: float32, (m,); zeros if None.
            relu: Whether negative results become 0.
        """
        filters = self.operand(weights, x)
        shift = self.operand(np.zeros(filters.shape[0]) if bias is None else bias, x)
        options = schema.FullyConnectedOptionsT()
        if relu:
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        shape = (x.shape[0], filters.shape[0])
        return self._one("FULLY_CONNECTED", [x, filters, shift], shape, "float32", options)

    def batch_matmul(self, a: Operand, b: Operand, *, transpose_b: bool = False) -> Tensor:
        """Matrix product of the last two axes, float32."""
        x, y = self.operand(a), self.operand(b)
        options = schema.BatchMatMulOptionsT()
        options.adjY = transpose_b
        columns = y.shape[-2] if transpose_b else y.shape[-1]
        shape = (*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], columns)
        return self._one("BATCH_MATMUL", [x, y], shape, x.dtype, options)

    # Reductions and searches.

    def sum(self, a: Tensor, axis: int, *, keepdims: bool = False) -> Tensor:
        """Sum along `axis`."""
        return self._reduce("SUM", a, axis, keepdims=keepdims)

    def mean(self, a: Tensor, axis: int, *, keepdims: bool = False) -> Tensor:
        """Mean along `axis`."""
        return self._reduce("MEAN", a, axis, keepdims=keepdims)

    def reduce_max(self, a: Tensor, axis: int, *, keepdims: bool = False) -> Tensor:
        """Largest along `axis`."""
        return self._reduce("REDUCE_MAX", a, axis, keepdims=keepdims)

    def reduce_min(self, a: Tensor, axis: int, *, keepdims: bool = False) -> Tensor:
        """Smallest along `axis`."""
        return self._reduce("REDUCE_MIN", a, axis, keepdims=keepdims)

    def reduce_any(self, a: Tensor, axis: int, *, keepdims: bool = False) -> Tensor:
        """Whether any of the bools along `axis` holds."""
        return self._reduce("REDUCE_ANY", a, axis, keepdims=keepdims)

    def arg_max(self, a: Tensor, axis: int = -1) -> Tensor:
        """Index (int32) of the largest along `axis`, the first one of equals."""
        return self._arg("ARG_MAX", a, axis, schema.ArgMaxOptionsT())

    def arg_min(self, a: Tensor, axis: int = -1) -> Tensor:
        """Index (int32) of the smallest along `axis`, the first one of equals."""
        return self._arg("ARG_MIN", a, axis, schema.ArgMinOptionsT())

    def topk(self, a: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest along the last axis and their indices (int32), falling; equals in order."""
        shape = (*a.shape[:-1], k)
        count = self.constant(np.int32(k))
        made = self.emit(
            "TOPK_V2", [a, count], [(shape, a.dtype), (shape, "int32")], schema.TopKV2OptionsT()
        )
        return made[0], made[1]

    def cumsum(self, a: Tensor, axis: int = -1) -> Tensor:
        """Running sum along `axis`."""
        where = self.constant(np.int32(axis % a.rank))
        return self._one("CUMSUM", [a, where], a.shape, a.dtype, schema.CumsumOptionsT())

    # Shapes and indexing.

    def shape(self, a: Tensor) -> Tensor:
        """The shape at run time, int32 (rank,)."""
        options = schema.ShapeOptionsT()
        options.outType = TENSOR_TYPES["int32"]
        return self._one("SHAPE", [a], (a.rank,), "int32", options)

    def reshape(self, a: Tensor, shape: Sequence[int]) -> Tensor:
        """The same elements in `shape`; one entry may be -1."""
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        wanted = self.constant(np.array(shape, np.int32))
        return self._one("RESHAPE", [a, wanted], tuple(shape), a.dtype, options)

    def squeeze(self, a: Tensor, axis: int) -> Tensor:
        """Without `axis`, which has size 1."""
        options = schema.SqueezeOptionsT()
        place = axis % a.rank
        options.squeezeDims = np.array([place], np.int32)
        shape = a.shape[:place] + a.shape[place + 1 :]
        return self._one("SQUEEZE", [a], shape, a.dtype, options)

    def expand_dims(self, a: Tensor, axis: int) -> Tensor:
        """With a new axis of size 1 at `axis`."""
        place = axis % (a.rank + 1)
        shape = (*a.shape[:place], 1, *a.shape[place:])
        where = self.constant(np.int32(place))
        return self._one("EXPAND_DIMS", [a, where], shape, a.dtype, schema.ExpandDimsOptionsT())

    def transpose(self, a: Tensor, order: Sequence[int]) -> Tensor:
        """Axes in a new order."""
        shape = tuple(a.shape[i] for i in order)
        axes = self.constant(np.array(order, np.int32))
        return self._one("TRANSPOSE", [a, axes], shape, a.dtype, schema.TransposeOptionsT())

    def concat(self, parts: Sequence[Tensor], axis: int = -1) -> Tensor:
        """Parts side by side along `axis`; a single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        options = schema.ConcatenationOptionsT()
        place = axis % parts[0].rank
        options.axis = place
        sizes = [part.shape[place] for part in parts]
        shape = list(parts[0].shape)
        for part in parts:
            shape = [s if s != -1 else t for s, t in zip(shape, part.shape, strict=True)]
        shape[place] = -1 if -1 in sizes else sum(sizes)
        return self._one("CONCATENATION", list(parts), tuple(shape), parts[0].dtype, options)

    def pack(self, parts: Sequence[Tensor], axis: int = 0) -> Tensor:
        """Equal shapes stacked along a new axis."""
        options = schema.PackOptionsT()
        place = axis % (parts[0].rank + 1)
        options.axis, options.valuesCount = place, len(parts)
        shape = parts[0].shape
        shape = (*shape[:place], len(parts), *shape[place:])
        return self._one("PACK", list(parts), shape, parts[0].dtype, options)

    def unpack(self, a: Tensor) -> tuple[Tensor, ...]:
        """Slices along the first axis, without that axis."""
        options = schema.UnpackOptionsT()
        options.num = a.shape[0]
        parts = [(a.shape[1:], a.dtype)] * a.shape[0]
        made: tuple[Tensor, ...] = self.emit("UNPACK", [a], parts, options)
        return made

    def gather(self, a: Operand, indices: Operand, axis: int = 0, *, batch_dims: int = 0) -> Tensor:
        """Slices of `a` along `axis` at `indices` (int32, any shape; out of range is an error)."""
        table, at = self.operand(a), self.operand(indices)
        options = schema.GatherOptionsT()
        place = axis % table.rank
        options.axis, options.batchDims = place, batch_dims
        shape = (*table.shape[:place], *at.shape[batch_dims:], *table.shape[place + 1 :])
        if batch_dims and table.shape[0] == -1:
            shape = (at.shape[0], *shape[1:])
        version = 5 if batch_dims else 1
        return self._one("GATHER", [table, at], shape, table.dtype, options, at_least=version)

    def gather_nd(self, a: Operand, indices: Operand) -> Tensor:
        """Elements or slices of `a` at index tuples along the last axis of `indices`."""
        table, at = self.operand(a), self.operand(indices)
        shape = (*at.shape[:-1], *table.shape[at.shape[-1] :])
        return self._one("GATHER_ND", [table, at], shape, table.dtype, schema.GatherNdOptionsT())

    def slice(self, a: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
        """A box of `a`; a size of -1 means to the end."""
        shape = tuple(
            s if s != -1 else (-1 if whole == -1 else whole - b)
            for b, s, whole in zip(begin, size, a.shape, strict=True)
        )
        corners = [self.constant(np.array(v, np.int32)) for v in (begin, size)]
        return self._one("SLICE", [a, *corners], shape, a.dtype, schema.SliceOptionsT())

    def columns(self, a: Tensor, start: int, stop: int) -> Tensor:
        """Columns start … stop-1 of a table (SLICE)."""
        return self.slice(a, (0, start), (-1, stop - start))

    def strided_slice(
        self, a: Tensor, begin: Sequence[int], end: Sequence[int], *, shrink: int = 0
    ) -> Tensor:
        """A box with constant corners; bits of `shrink` name axes that vanish."""
        options = schema.StridedSliceOptionsT()
        options.shrinkAxisMask = shrink
        parts = [self.constant(np.array(v, np.int32)) for v in (begin, end, [1] * len(begin))]
        shape = tuple(
            e - b for i, (b, e) in enumerate(zip(begin, end, strict=True)) if not shrink & (1 << i)
        )
        return self._one("STRIDED_SLICE", [a, *parts], shape, a.dtype, options)

    def tile(self, a: Tensor, multiples: Operand) -> Tensor:
        """Repeated along each axis; `multiples` int32 (rank,), a constant or a tensor."""
        times = self.operand(multiples)
        known = times.data if times.data is not None else [None] * a.rank
        shape = tuple(
            -1 if s == -1 or m is None else s * int(m) for s, m in zip(a.shape, known, strict=True)
        )
        return self._one("TILE", [a, times], shape, a.dtype, schema.TileOptionsT())

    def broadcast_to(self, a: Operand, shape: Operand, result: tuple[int, ...]) -> Tensor:
        """Repeated to `shape` (int32, may be a tensor); `result` is what is known of it."""
        value, wanted = self.operand(a), self.operand(shape)
        options = schema.BroadcastToOptionsT()
        return self._one("BROADCAST_TO", [value, wanted], result, value.dtype, options)

    def fill(self, shape: Operand, value: Operand, result: tuple[int, ...]) -> Tensor:
        """`shape` (int32, may be a tensor) full of a scalar; `result` is what is known of it."""
        wanted, scalar = self.operand(shape), self.operand(value)
        return self._one("FILL", [wanted, scalar], result, scalar.dtype, schema.FillOptionsT())

    def range(self, start: Operand, stop: Operand, step: Operand = 1) -> Tensor:
        """Start, start + step, … below stop; int32 scalars, may be tensors."""
        ends = [self.operand(v) for v in (start, stop, step)]
        return self._one("RANGE", ends, (-1,), ends[0].dtype, schema.RangeOptionsT())

    def one_hot(self, indices: Tensor, depth: int) -> Tensor:
        """float32 1 at each index along a new last axis, 0 elsewhere (all 0 if out of range)."""
        options = schema.OneHotOptionsT()
        options.axis = -1
        parts = [self.constant(v) for v in (np.int32(depth), np.float32(1), np.float32(0))]
        return self._one("ONE_HOT", [indices, *parts], (*indices.shape, depth), "float32", options)

    def copy(self, a: Tensor) -> Tensor:
        """A tensor of its own with the same value (RESHAPE to the same shape)."""
        if sum(size == -1 for size in a.shape) <= 1:
            return self.reshape(a, a.shape)
        return self._one("RESHAPE", [a, self.shape(a)], a.shape, a.dtype)

    # What the methods above are made of.

    def _reduce(self, op: str, a: Tensor, axis: int, *, keepdims: bool) -> Tensor:
        options = schema.ReducerOptionsT()
        options.keepDims = keepdims
        place = axis % a.rank
        middle = (1,) if keepdims else ()
        shape = (*a.shape[:place], *middle, *a.shape[place + 1 :])
        where = self.constant(np.array([place], np.int32))
        return self._one(op, [a, where], shape, a.dtype, options)

    def _arg(self, op: str, a: Tensor, axis: int, options: Any) -> Tensor:
        options.outputType = TENSOR_TYPES["int32"]
        place = axis % a.rank
        where = self.constant(np.int32(place))
        shape = a.shape[:place] + a.shape[place + 1 :]
        return self._one(op, [a, where], shape, "int32", options)
