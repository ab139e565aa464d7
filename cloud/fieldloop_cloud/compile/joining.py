"""Two flatbuffers in a row as one: a net's features, and a classical model that reads them.

`join` appends the second model's graph to the first one's: buffers, operator codes, further
subgraphs (loops) and tensors are renumbered, and the tensor that the second one takes becomes the
first one's output. Nothing is computed anew, so the joined model answers as the two in a row do.
"""

from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.flat_model import parse
from fieldloop_cloud.compile.flatbuffer import (
    BUFFER_ALIGNMENT,
    FILE_IDENTIFIER,
    MIN_RUNTIME_METADATA,
    SCHEMA_VERSION,
    AlignedBuffer,
)
from fieldloop_cloud.compile.graph import DESCRIPTION
from fieldloop_cloud.compile.inspect import ModelFacts, inspect
from fieldloop_cloud.compile.runtimes import min_runtime

_SUBGRAPH_FIELDS = (
    "condSubgraphIndex",
    "bodySubgraphIndex",
    "thenSubgraphIndex",
    "elseSubgraphIndex",
    "initSubgraphIndex",
    "subgraph",
)
"""Fields of the schema's options that hold a subgraph's number: WHILE, IF, CALL_ONCE, CALL."""


@dataclass(frozen=True, slots=True)
class _Offsets:
    """How far the second model's numbers move."""

    buffers: int
    codes: int
    tensors: int
    graphs: int


def join(front: bytes, back: bytes) -> bytes:
    """Return one model: what `front` gives goes into `back`.

    Args:
        front: A .tflite model with one output, (-1, n).
        back: A .tflite model with one input, (-1, n), of the same dtype.

    Returns:
        The joined flatbuffer; its inputs are those of `front`, its outputs those of `back`.

    Raises:
        UnsupportedError: The bytes are no models, or the output does not fit the input.
    """
    facts = inspect(front), inspect(back)
    _check_seam(*facts)
    first, second = parse(front), parse(back)
    main, tail = first.subgraphs[0], second.subgraphs[0]
    offsets = _Offsets(
        buffers=len(first.buffers),
        codes=len(first.operatorCodes),
        tensors=len(main.tensors),
        graphs=len(first.subgraphs) - 1,  # the second's main graph goes up in the first's
    )
    seam = int(main.outputs[0])
    moved_seam = int(tail.inputs[0]) + offsets.tensors
    for graph in second.subgraphs:
        _renumber(graph, offsets, tensors=offsets.tensors if graph is tail else 0)
    for operator in tail.operators:
        operator.inputs = [seam if number == moved_seam else number for number in operator.inputs]
    main.tensors += _renamed(tail.tensors, {_name(tensor) for tensor in main.tensors})
    main.operators += tail.operators
    main.outputs = tail.outputs
    first.subgraphs += second.subgraphs[1:]
    first.operatorCodes += second.operatorCodes
    first.buffers += second.buffers
    return _packed(first, _min_runtime(*facts))


def _check_seam(front: ModelFacts, back: ModelFacts) -> None:
    if len(front.outputs) != 1 or len(back.inputs) != 1:
        raise UnsupportedError(
            f"a model with {len(front.outputs)} outputs cannot go into one with "
            f"{len(back.inputs)} inputs",
            where="join",
            advice="Join models with one of each.",
        )
    given, taken = front.outputs[0], back.inputs[0]
    fits = (given.shape[1:], given.dtype) == (taken.shape[1:], taken.dtype)
    if not fits or given.is_quantized or taken.is_quantized:
        raise UnsupportedError(
            f"{given.dtype} {given.shape} does not go into {taken.dtype} {taken.shape}",
            where="join",
            advice="Give the first one a float32 output, and compile the second one to float32 "
            "or float16 for as many features.",
        )


def _renumber(graph: Any, offsets: _Offsets, *, tensors: int) -> None:
    """Move a subgraph's references to buffers, operator codes, subgraphs, and its own tensors."""
    for tensor in graph.tensors:
        tensor.buffer += offsets.buffers
    for operator in graph.operators:
        operator.opcodeIndex += offsets.codes
        options = operator.builtinOptions
        for name in _SUBGRAPH_FIELDS:
            if hasattr(options, name):
                setattr(options, name, getattr(options, name) + offsets.graphs)
        for name in ("inputs", "outputs", "intermediates"):
            setattr(operator, name, _moved(getattr(operator, name), tensors))
    graph.outputs = _moved(graph.outputs, tensors)


def _moved(numbers: Any, by: int) -> list[int]:
    """Move tensor numbers; -1 stands for an input that is left out."""
    if numbers is None:
        return []
    return [int(number) + by if number >= 0 else -1 for number in numbers]


def _name(tensor: Any) -> bytes:
    return bytes(tensor.name or b"")


def _renamed(tensors: list[Any], taken: set[bytes]) -> list[Any]:
    """Give tensors other names where the first model has them already."""
    for tensor in tensors:
        if _name(tensor) in taken:
            tensor.name = b"back/" + _name(tensor)
    return tensors


def _min_runtime(front: ModelFacts, back: ModelFacts) -> str:
    versions = dict(front.op_versions)
    for op, version in back.op_versions.items():
        versions[op] = max(version, versions.get(op, 0))
    return min_runtime(versions)


def _packed(model: Any, runtime: str) -> bytes:
    """Pack with aligned buffers; the parts' own signatures and notes do not hold any more."""
    note = np.frombuffer(runtime.encode().ljust(BUFFER_ALIGNMENT, b"\0"), dtype=np.uint8)
    metadata = schema.MetadataT()
    metadata.name = MIN_RUNTIME_METADATA
    metadata.buffer = len(model.buffers)
    model.metadata, model.metadataBuffer, model.signatureDefs = [metadata], None, None
    model.version, model.description = SCHEMA_VERSION, DESCRIPTION
    model.buffers = [
        AlignedBuffer(data=bytes(b.data)) if b.data is not None and len(b.data) else b
        for b in model.buffers
    ] + [AlignedBuffer(data=note.tobytes())]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())
