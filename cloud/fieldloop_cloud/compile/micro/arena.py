"""How much RAM a model needs under TFLite Micro: planned from its tensors' lifetimes.

TFLite Micro keeps all tensors that are not constant in one arena, the tensors at its head, its own
records at its tail. The head is planned here as its `GreedyMemoryPlanner` plans it: a tensor lives
from the op that makes it to the last op that reads it, and `compile.arena` packs them. For both
models of Micro's own memory test, a convolutional one and one of SVDFs, this gives the sizes that
the test states (7,744 and 672 bytes). The tail is an estimate: it depends on the processor, on the
kernels (CMSIS-NN or others) and on Micro's version. `MicroInterpreter::arena_used_bytes()` on the
device has the last word.

The larger runtimes align to 64 bytes, keep inputs and outputs all the time and give each graph an
arena of its own; Micro may reuse an input's place as soon as it has been read, and has one arena.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fieldloop_cloud.compile.arena import Buffer, aligned, packed_bytes
from fieldloop_cloud.compile.flat_model import FlatModel, Op, read_model

ALIGNMENT = 16
"""Micro's tensors start on such borders."""

# Sizes of Micro's records on a 32-bit processor, with TF_LITE_STATIC_MEMORY.
_INTERPRETER_BYTES = 512
_EVAL_TENSOR_BYTES = 12
_NODE_BYTES = 32
_OP_BYTES = 96
_CHANNEL_BYTES = 8
_IO_TENSOR_BYTES = 64
_PLANNING_BYTES = 24 + 40

_PER_CHANNEL = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaEstimate:
    """RAM of a model under TFLite Micro, in bytes.

    Attributes:
        tensor_bytes: The tensors of one inference, packed; exact for the reference kernels.
        scratch_bytes: What CMSIS-NN's working memory adds to them.
        persistent_bytes: Micro's own records: an estimate for a 32-bit processor.
        total_bytes: The arena to reserve: an estimate.
    """

    tensor_bytes: int
    scratch_bytes: int
    persistent_bytes: int
    total_bytes: int


def estimate_arena(model: bytes | FlatModel) -> ArenaEstimate:
    """Estimate the arena of a .tflite model at batch 1.

    Raises:
        UnsupportedError: The bytes are no TFLite model.
    """
    flat = read_model(model) if isinstance(model, bytes) else model
    tensors, scratch = _lifetimes(flat)
    packed = packed_bytes(tensors, alignment=ALIGNMENT)
    head = packed_bytes([*tensors, *scratch], alignment=ALIGNMENT)
    planning = _PLANNING_BYTES * (sum(len(graph.tensors) for graph in flat.graphs) + len(scratch))
    persistent = _persistent_bytes(flat)
    return ArenaEstimate(
        tensor_bytes=packed,
        scratch_bytes=head - packed,
        persistent_bytes=persistent,
        # While it plans, Micro keeps its notes where the tensors will be.
        total_bytes=_aligned(max(head, planning) + persistent),
    )


def _aligned(size_bytes: int) -> int:
    return aligned(size_bytes, ALIGNMENT)


class _Lifetimes:
    """Walks the graphs in the order in which they run and notes first and last uses."""

    def __init__(self, model: FlatModel) -> None:
        self._model = model
        self._step = 0
        self._uses: dict[tuple[int, int], list[int]] = {}
        self.scratch: list[Buffer] = []

    def walk(self, number: int) -> None:
        """Note the uses of a graph's tensors, and of the graphs that it calls."""
        graph = self._model.graphs[number]
        self._note(number, graph.inputs)
        for op in graph.ops:
            self._step += 1
            start = self._step
            outputs = [tensor.index for tensor in op.outputs]
            self._note(number, outputs)
            for called in op.subgraphs:
                self._step += 1
                self.walk(called)
            self._note(number, [tensor.index for tensor in op.inputs if tensor is not None])
            self._note(number, outputs)
            if size := _scratch_bytes(op):
                self.scratch.append(Buffer(size, start, self._step))
        self._note(number, graph.outputs)

    def _note(self, number: int, tensors: Sequence[int]) -> None:
        for index in tensors:
            use = self._uses.setdefault((number, index), [self._step, self._step])
            use[1] = self._step

    def tensors(self) -> list[Buffer]:
        """Return the buffers of the tensors that Micro has to place, in the file's order."""
        found = []
        for number, graph in enumerate(self._model.graphs):
            for tensor in graph.tensors:
                use = self._uses.get((number, tensor.index))
                if use and tensor.size_bytes and not (tensor.is_constant or tensor.is_variable):
                    found.append(Buffer(tensor.size_bytes, use[0], use[1]))
        return found


def _lifetimes(model: FlatModel) -> tuple[list[Buffer], list[Buffer]]:
    walker = _Lifetimes(model)
    walker.walk(0)
    return walker.tensors(), walker.scratch


def _scratch_bytes(op: Op) -> int:
    """Return the working memory of CMSIS-NN's int8 kernel on a Cortex-M with DSP instructions."""
    data = op.inputs[0] if op.inputs else None
    if data is None or data.dtype != "int8":
        return 0
    if op.name == "AVERAGE_POOL_2D":
        return 4 * data.shape[-1]
    weights = op.inputs[1] if len(op.inputs) > 1 else None
    if op.name == "SVDF" and weights is not None:  # one sum for each filter and for each unit
        return 4 * (weights.shape[0] + op.outputs[0].shape[-1])
    if op.name not in {"CONV_2D", "DEPTHWISE_CONV_2D"} or weights is None:
        return 0
    _, height, width, channels = weights.shape
    if op.name == "CONV_2D" and height == width == 1:
        return 0
    patch = height * width * channels
    # Two columns of 16-bit values for a convolution, one for a depthwise one.
    return 4 * (patch + 4) if op.name == "CONV_2D" else 2 * patch


def _persistent_bytes(model: FlatModel) -> int:
    total = _INTERPRETER_BYTES
    for graph in model.graphs:
        total += _EVAL_TENSOR_BYTES * len(graph.tensors) + _NODE_BYTES * len(graph.ops)
        total += sum(_aligned(_OP_BYTES + _channel_bytes(op)) for op in graph.ops)
        kept = (tensor.size_bytes for tensor in graph.tensors if tensor.is_variable)
        total += sum(_aligned(size) for size in kept)
    main = model.graphs[0]
    return total + _IO_TENSOR_BYTES * (len(main.inputs) + len(main.outputs))


def _channel_bytes(op: Op) -> int:
    """Return what the per-channel multipliers and shifts of quantized weights take."""
    place = 0 if op.name == "TRANSPOSE_CONV" else 1
    if op.name not in _PER_CHANNEL or len(op.inputs) < 2:  # noqa: PLR2004 - data and weights
        return 0
    weights = op.inputs[1] if place else op.inputs[place + 1]
    return _CHANNEL_BYTES * weights.scale_count if weights is not None else 0
