"""A flatbuffer as firmware takes it: integer inputs and outputs, fixed shapes, nothing left over.

A net that was quantized to int8 still begins with QUANTIZE and ends with DEQUANTIZE. Here they are
cut off, so that its first and last tensors are the int8 ones inside; the firmware quantizes the
inputs by their scale and zero point. The batch becomes 1, and with it the ops that only work out
shapes (SHAPE, STRIDED_SLICE, PACK) become constants and fall away. What the file holds for desktop
runtimes (signatures, unused tensors and buffers) goes too.
"""

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from fieldloop.errors import ModelRuntimeError, UnsupportedError
from fieldloop_cloud.compile.flat_model import numbers, op_name, parse
from fieldloop_cloud.compile.flatbuffer import FILE_IDENTIFIER, AlignedBuffer

_FLOAT = schema.TensorType.FLOAT32
_INTEGERS = (schema.TensorType.INT8, schema.TensorType.INT16)


def integer_model(tflite: bytes) -> bytes:
    """Return the same model with integer inputs and outputs, for a batch of one.

    Args:
        tflite: Any .tflite model; one in floating point keeps its inputs and outputs.

    Raises:
        UnsupportedError: The bytes are no TFLite model, or an input has a dimension of unknown
            size beside the batch.
        ModelRuntimeError: LiteRT cannot run the model.
    """
    model = parse(tflite)
    if not model.subgraphs:
        raise UnsupportedError("the model has no graph", advice="Compile it again.")
    _state_shapes(model, tflite)
    for graph in model.subgraphs:
        graph.operators = graph.operators or []
    main = model.subgraphs[0]
    _cut_inputs(model, main)
    _cut_outputs(model, main)
    for graph in model.subgraphs:
        _fix_shapes(model, graph)
        _drop_dead_ops(graph)
        _drop_unused_tensors(graph)
    model.signatureDefs = None
    model.metadata = None
    model.metadataBuffer = None
    _drop_unused_buffers(model)
    _drop_unused_codes(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def _state_shapes(model: Any, tflite: bytes) -> None:
    """Write down the shapes that a batch of one really has; a file may leave them open.

    Raises:
        UnsupportedError: An input has another dimension of unknown size.
        ModelRuntimeError: LiteRT cannot run the model.
    """
    main = model.subgraphs[0]
    for tensor in (main.tensors[index] for index in numbers(main.inputs)):
        if any(size < 0 for size in numbers(tensor.shapeSignature)[1:]):
            raise UnsupportedError(
                "an input has a dimension of unknown size, and a microcontroller plans its memory "
                "in advance",
                where=f"tensor {(tensor.name or b'').decode()}",
                advice="Build the net for inputs of one size.",
            )
    try:
        interpreter = Interpreter(
            model_content=tflite,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        interpreter.invoke()
        details = interpreter.get_tensor_details()
    except (RuntimeError, ValueError) as error:
        raise ModelRuntimeError(
            f"the model does not run: {str(error).splitlines()[0]}",
            where="LiteRT",
            advice="Compile it again with builtin ops only.",
        ) from error
    for detail in details:
        if detail["index"] < len(main.tensors):
            main.tensors[detail["index"]].shape = detail["shape"].astype(np.int32)


def _cut_inputs(model: Any, graph: Any) -> None:
    """Make the integer tensors behind a QUANTIZE the inputs."""
    for place, index in enumerate(numbers(graph.inputs)):
        readers = [op for op in graph.operators if index in numbers(op.inputs)]
        if len(readers) != 1 or not _converts(model, graph, readers[0], "QUANTIZE"):
            continue
        inner = numbers(readers[0].outputs)[0]
        graph.tensors[inner].name = graph.tensors[index].name
        graph.operators.remove(readers[0])
        graph.inputs = _replaced(graph.inputs, place, inner)


def _cut_outputs(model: Any, graph: Any) -> None:
    """Make the integer tensors before a DEQUANTIZE the outputs."""
    for place, index in enumerate(numbers(graph.outputs)):
        makers = [op for op in graph.operators if index in numbers(op.outputs)]
        is_read = any(index in numbers(op.inputs) for op in graph.operators)
        if is_read or len(makers) != 1 or not _converts(model, graph, makers[0], "DEQUANTIZE"):
            continue
        inner = numbers(makers[0].inputs)[0]
        graph.tensors[inner].name = graph.tensors[index].name
        graph.operators.remove(makers[0])
        graph.outputs = _replaced(graph.outputs, place, inner)


def _converts(model: Any, graph: Any, op: Any, name: str) -> bool:
    """Whether an op is a QUANTIZE from float32 or a DEQUANTIZE to it, of per-tensor integers."""
    if op_name(model.operatorCodes[op.opcodeIndex]) != name:
        return False
    ends = (numbers(op.inputs)[0], numbers(op.outputs)[0])
    real, integer = ends if name == "QUANTIZE" else reversed(ends)
    return (
        graph.tensors[real].type == _FLOAT
        and graph.tensors[integer].type in _INTEGERS
        and len(numbers(graph.tensors[integer].quantization.scale)) == 1
    )


def _replaced(vector: Any, place: int, value: int) -> Any:
    changed = np.array(numbers(vector), dtype=np.int32)
    changed[place] = value
    return changed


def _fix_shapes(model: Any, graph: Any) -> None:
    """Fix the batch at 1 and make the target of every RESHAPE a constant."""
    for tensor in graph.tensors:
        tensor.shapeSignature = None
    for op in graph.operators:
        inputs = numbers(op.inputs)
        if op_name(model.operatorCodes[op.opcodeIndex]) != "RESHAPE" or len(inputs) < 2:  # noqa: PLR2004 - data and shape
            continue
        shape = graph.tensors[numbers(op.outputs)[0]].shape
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.array(numbers(shape), "<i4").tobytes(), dtype=np.uint8)
        model.buffers.append(buffer)
        target = schema.TensorT()
        target.name, target.type = b"shape", schema.TensorType.INT32
        target.shape = np.array([len(numbers(shape))], dtype=np.int32)
        target.buffer = len(model.buffers) - 1
        graph.tensors.append(target)
        op.inputs = np.array([inputs[0], len(graph.tensors) - 1], dtype=np.int32)


def _drop_dead_ops(graph: Any) -> None:
    """Remove the ops whose results nobody reads (none of the ops that TFLite has writes a file)."""
    needed = set(numbers(graph.outputs))
    kept = []
    for op in reversed(graph.operators):
        outputs = numbers(op.outputs)
        if outputs and needed.isdisjoint(outputs):
            continue
        needed.update(numbers(op.inputs))
        kept.append(op)
    graph.operators = kept[::-1]


def _drop_unused_tensors(graph: Any) -> None:
    used = {*numbers(graph.inputs), *numbers(graph.outputs)}
    for op in graph.operators:
        used.update(numbers(op.inputs), numbers(op.outputs), numbers(op.intermediates))
    used.discard(-1)
    place = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}
    graph.tensors = [graph.tensors[old] for old in sorted(used)]

    def renumbered(vector: Any) -> Any:
        return np.array([place[index] for index in numbers(vector)], dtype=np.int32)

    graph.inputs, graph.outputs = renumbered(graph.inputs), renumbered(graph.outputs)
    for op in graph.operators:
        op.inputs, op.outputs = renumbered(op.inputs), renumbered(op.outputs)
        if op.intermediates is not None:
            op.intermediates = renumbered(op.intermediates)


def _drop_unused_buffers(model: Any) -> None:
    """Keep the buffers in use, equal constants once, on the borders that the runtime expects."""
    buffers: list[Any] = [schema.BufferT()]
    places: dict[bytes, int] = {}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        data = model.buffers[tensor.buffer].data if tensor.buffer else None
        if data is None or not len(data):
            tensor.buffer = 0
            continue
        raw = bytes(data)
        if raw not in places:
            places[raw] = len(buffers)
            buffers.append(AlignedBuffer(data=raw))
        tensor.buffer = places[raw]
    model.buffers = buffers


def _drop_unused_codes(model: Any) -> None:
    ops = [op for graph in model.subgraphs for op in graph.operators]
    used = sorted({op.opcodeIndex for op in ops})
    place: Callable[[int], int] = used.index
    for op in ops:
        op.opcodeIndex = place(op.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[index] for index in used]
