"""Which layer of the net each op of a flatbuffer came from.

The converter names tensors after the places in the net that made them, `net/conv_1/Relu;net/conv_1/
convolution`. People know layers, quantizers know tensors: this is the dictionary between the two.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fieldloop_cloud.compile.flat_model import op_name, parse

_WEIGHTED = frozenset(
    {"convolution", "depthwise", "conv_transpose", "MatMul", "MatMul1", "BiasAdd", "einsum"}
)
_NUMBERED = re.compile(r"_\d+$")
_UNNAMED = ("StatefulPartitionedCall", "PartitionedCall", "serving_default")
_FLOAT = schema.TensorType.FLOAT32


@dataclass(frozen=True, slots=True)
class Op:
    """One op of the main graph.

    Attributes:
        kind: The schema's name, `CONV_2D`.
        layer: The layer it came from, `block1/conv`; made up from the op where the file has none.
        tensor: Name of its first output tensor.
        inputs: Its inputs' numbers; -1 for one left out.
        outputs: Its outputs' numbers.
        is_float: Whether it gives real numbers: what can be quantized.
    """

    kind: str
    layer: str
    tensor: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    is_float: bool


def ops(tflite: bytes) -> tuple[Op, ...]:
    """Return the ops of the main graph in their order, each with its layer.

    Raises:
        UnsupportedError: The bytes are no TFLite model.
    """
    model = parse(tflite)
    graph = model.subgraphs[0]
    names = [(tensor.name or b"").decode(errors="replace") for tensor in graph.tensors]
    places = [_place(operator, names) for operator in graph.operators or []]
    # Keras numbers every scope once more when it exports; an old file has no such numbers.
    is_renumbered = all(_NUMBERED.search(part) for place in places for part in place[:1])
    found = []
    for operator, place in zip(graph.operators or [], places, strict=True):
        code = model.operatorCodes[operator.opcodeIndex]
        kind = op_name(code) if code.customCode is None else "CUSTOM"
        output = graph.tensors[operator.outputs[0]]
        found.append(
            Op(
                kind=kind,
                layer=_layer(place, is_renumbered=is_renumbered) or f"{kind.lower()} at the end",
                tensor=names[operator.outputs[0]],
                inputs=_numbers(operator.inputs),
                outputs=_numbers(operator.outputs),
                is_float=output.type == _FLOAT,
            )
        )
    return tuple(found)


def by_layer(found: tuple[Op, ...]) -> dict[str, tuple[Op, ...]]:
    """Group ops by their layer, in the order in which the layers come."""
    groups: dict[str, list[Op]] = defaultdict(list)
    for op in found:
        groups[op.layer].append(op)
    return {layer: tuple(group) for layer, group in groups.items()}


def _place(operator: Any, names: list[str]) -> tuple[str, ...]:
    """Return the scope that an op's result, or else its weights, are named after."""
    tensors = [*operator.outputs, *operator.inputs[1:]]
    for index in tensors:
        scopes = [
            part.split("/")
            for part in names[index].split(";")
            if "/" in part and not part.startswith(_UNNAMED)
        ]
        weighted = [scope for scope in scopes if scope[-1] in _WEIGHTED]
        for scope in (*weighted, *scopes):
            return tuple(scope)
    return ()


def _layer(place: tuple[str, ...], *, is_renumbered: bool) -> str:
    """Cut the net's own name and the op's off, and the numbers that exporting added."""
    inner = place[1:-1] or place[:-1]
    if not is_renumbered:
        return "/".join(inner)
    numbered = [part for part in inner if _NUMBERED.search(part)] or list(inner)
    return "/".join(_NUMBERED.sub("", part) for part in numbered)


def _numbers(indices: Any) -> tuple[int, ...]:
    return tuple(int(index) for index in np.asarray(indices).ravel())
