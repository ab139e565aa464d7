"""How often a flatbuffer multiplies and adds for one row."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fieldloop_cloud.compile.flat_model import parse

_OP = schema.BuiltinOperator


def mac_count(tflite: bytes) -> int:
    """Count multiplications with addition of convolutions and matrix products.

    Element-wise ops are left out, as is usual; a dimension of unknown size counts as 1, and the
    body of a loop once.
    """
    model = parse(tflite)
    return sum(
        _of_op(model, graph, operator)
        for graph in model.subgraphs or []
        for operator in graph.operators or []
    )


def _of_op(model: Any, graph: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    kind = max(code.builtinCode, code.deprecatedBuiltinCode)

    def size(index: int) -> tuple[int, ...]:
        shape = graph.tensors[index].shape
        return () if shape is None else tuple(max(1, int(side)) for side in shape)

    made = int(np.prod(size(operator.outputs[0]), dtype=np.int64))
    if kind == _OP.CONV_2D:  # filter (out, height, width, in): each output value needs all but out
        return made * int(np.prod(size(operator.inputs[1])[1:], dtype=np.int64))
    if kind == _OP.DEPTHWISE_CONV_2D:  # filter (1, height, width, out)
        return made * int(np.prod(size(operator.inputs[1])[1:3], dtype=np.int64))
    if kind == _OP.TRANSPOSE_CONV:  # each input value meets the whole filter of every output
        given = int(np.prod(size(operator.inputs[2]), dtype=np.int64))
        filters = size(operator.inputs[1])
        return given * int(np.prod(filters[:3], dtype=np.int64))
    if kind == _OP.FULLY_CONNECTED:  # weights (out, in)
        return made * size(operator.inputs[1])[-1]
    if kind == _OP.BATCH_MATMUL:
        return made * size(operator.inputs[0])[-1]
    return 0
