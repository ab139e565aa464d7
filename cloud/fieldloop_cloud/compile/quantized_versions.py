"""Honest op versions in a flatbuffer that a quantizer has rewritten.

litert-quantizer changes the types of an op's tensors and leaves the op's version as it was. A
runtime that is too old for the new types then does not refuse the file: it answers nonsense. So
every op gets the version that its types ask for, by the rules of TFLite's `op_version.cc`.
"""

from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from fieldloop_cloud.compile.flat_model import op_name, parse
from fieldloop_cloud.compile.flatbuffer import FILE_IDENTIFIER

_INT8: dict[str, int] = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "TRANSPOSE_CONV": 2,
    "HARD_SWISH": 1, "GELU": 2, "DEQUANTIZE": 2, "BATCH_MATMUL": 2,
}  # fmt: skip
_INT16: dict[str, int] = {
    "CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 7, "TRANSPOSE_CONV": 4, "ADD": 4,
    "SUB": 5, "MUL": 4, "DEQUANTIZE": 3, "QUANTIZE": 2, "STRIDED_SLICE": 4, "TRANSPOSE": 4,
    "BATCH_MATMUL": 3, "GATHER": 4, "SLICE": 4, "SPLIT": 4, "PAD": 4, "LEAKY_RELU": 2,
    "PRELU": 1, "RELU": 3, "RELU6": 3,
}  # fmt: skip
_HYBRID: dict[str, int] = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 3}
_HYBRID_BY_CHANNEL: dict[str, int] = {"FULLY_CONNECTED": 12}
_UNVERSIONED = frozenset({"RESHAPE", "QUANTIZE", "SHAPE", "HARD_SWISH", "PRELU"})
_USUAL = {"int8": 2, "int16": 3}
"""Most ops came to know int8 in version 2 and int16 in version 3."""


def with_honest_versions(tflite: bytes) -> bytes:
    """Return the flatbuffer with each op's version raised to what its tensors' types need."""
    model = parse(tflite)
    needed: dict[int, int] = {}
    for graph in model.subgraphs:
        for operator in graph.operators or []:
            index = int(operator.opcodeIndex)
            version = _version(model.operatorCodes[index], operator, graph.tensors)
            needed[index] = max(needed.get(index, 1), version)
    for index, version in needed.items():
        code = model.operatorCodes[index]
        code.version = max(int(code.version), version)
    builder = flatbuffers.Builder(len(tflite) + 1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def _version(code: Any, operator: Any, tensors: Any) -> int:
    name = op_name(code)
    inputs = [tensors[index] for index in operator.inputs if index >= 0]
    results = [tensors[index] for index in operator.outputs]
    types = {inputs[0].type, results[0].type} if inputs else {results[0].type}
    kinds = schema.TensorType
    if kinds.INT16 in types:
        return _INT16.get(name, 1 if name in _UNVERSIONED else _USUAL["int16"])
    if kinds.INT8 in types:
        return _INT8.get(name, 1 if name in _UNVERSIONED else _USUAL["int8"])
    if name == "DEQUANTIZE" and kinds.FLOAT16 in types:
        return 3
    if len(inputs) > 1 and inputs[1].type in (kinds.INT8, kinds.INT4) and name in _HYBRID:
        scales = inputs[1].quantization.scale
        by_channel = scales is not None and len(scales) > 1
        return _HYBRID_BY_CHANNEL.get(name, _HYBRID[name]) if by_channel else _HYBRID[name]
    return 1
