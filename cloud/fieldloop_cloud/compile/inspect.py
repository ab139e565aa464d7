"""Read from a flatbuffer what it needs: ops with their versions, tensors, and the oldest runtime.

Nothing is run; the bytes are parsed with LiteRT's schema. Works for any .tflite file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fieldloop.signature import TensorSpec
from fieldloop_cloud.compile.arena import arena_bytes
from fieldloop_cloud.compile.flat_model import DTYPES, numbers, op_name, parse, read_parsed
from fieldloop_cloud.compile.runtimes import min_runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a flatbuffer says about itself.

    Attributes:
        op_versions: Highest version used of each builtin op.
        op_counts: How often each op (custom ones under their own name) stands in the graphs.
        custom_ops: Names of ops that no runtime has built in; `Flex…` are TensorFlow's.
        min_runtime: First TFLite version that has every builtin op at its version.
        size_bytes: Of the flatbuffer.
        weight_bytes: Of its constant buffers.
        arena_bytes: For all that is computed for one row, without the kernels' own scratch.
        inputs: Input tensors of the main graph.
        outputs: Output tensors of the main graph.
    """

    op_versions: Mapping[str, int]
    op_counts: Mapping[str, int]
    custom_ops: tuple[str, ...]
    min_runtime: str
    size_bytes: int
    weight_bytes: int
    arena_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def inspect(tflite: bytes) -> ModelFacts:
    """Read a flatbuffer.

    Raises:
        UnsupportedError: The bytes are no TFLite model, or no known runtime has one of its ops.
    """
    model = parse(tflite)
    flat = read_parsed(model)
    graphs = model.subgraphs
    versions: dict[str, int] = {}
    counts: dict[str, int] = {}
    custom: set[str] = set()
    for operator in (operator for graph in graphs for operator in graph.operators or []):
        code = model.operatorCodes[operator.opcodeIndex]
        name = op_name(code)
        counts[name] = counts.get(name, 0) + 1
        if code.customCode is not None:
            custom.add(name)
        else:
            versions[name] = max(versions.get(name, 0), code.version)
    main = graphs[0]
    return ModelFacts(
        op_versions=dict(sorted(versions.items())),
        op_counts=dict(sorted(counts.items())),
        custom_ops=tuple(sorted(custom)),
        min_runtime=min_runtime(versions),
        size_bytes=len(tflite),
        weight_bytes=sum(len(b.data) for b in model.buffers or [] if b.data is not None),
        arena_bytes=arena_bytes(flat),
        inputs=tuple(_spec(main.tensors[index]) for index in main.inputs),
        outputs=tuple(_spec(main.tensors[index]) for index in main.outputs),
    )


def _spec(tensor: Any) -> TensorSpec:
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    quantization = tensor.quantization
    scale = numbers(quantization.scale) if quantization is not None else []
    zero_point = numbers(quantization.zeroPoint) if quantization is not None else []
    return TensorSpec(
        name=(tensor.name or b"").decode(),
        shape=tuple(int(size) for size in numbers(shape)),
        dtype=DTYPES[tensor.type],
        scale=tuple(float(value) for value in scale),
        zero_point=tuple(int(value) for value in zero_point),
    )
