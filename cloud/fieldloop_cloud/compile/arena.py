"""How much memory a runtime needs for a model's tensors while it runs: the arena.

A TFLite runtime plans one block of memory for all that is computed: two tensors may share bytes
if they are never alive together. The same plan is made here from the flatbuffer alone: the largest
tensor first, each into the lowest gap that is free during its life (Pisarchyk and Lee, "Efficient
memory management for deep neural net inference", 2020). Weights are not in it, and neither is what
a kernel asks for itself while it works.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

ALIGNMENT = 64
"""Bytes; every tensor starts at a multiple."""

_BITS = {
    schema.TensorType.FLOAT32: 32,
    schema.TensorType.FLOAT16: 16,
    schema.TensorType.BFLOAT16: 16,
    schema.TensorType.INT32: 32,
    schema.TensorType.UINT32: 32,
    schema.TensorType.UINT8: 8,
    schema.TensorType.INT64: 64,
    schema.TensorType.UINT64: 64,
    schema.TensorType.BOOL: 8,
    schema.TensorType.INT16: 16,
    schema.TensorType.UINT16: 16,
    schema.TensorType.COMPLEX64: 64,
    schema.TensorType.COMPLEX128: 128,
    schema.TensorType.INT8: 8,
    schema.TensorType.FLOAT64: 64,
    schema.TensorType.INT4: 4,
}


@dataclass(frozen=True, slots=True)
class _Life:
    """A tensor's size and the first and last op during which its bytes are taken."""

    size_bytes: int
    first: int
    last: int


def arena_bytes(model: Any) -> int:
    """Plan the arena of a parsed flatbuffer for one row.

    Args:
        model: A `ModelT` of LiteRT's schema. A dimension of unknown size counts as 1.

    Returns:
        Bytes for the tensors of all its graphs.
    """
    return sum(_planned(list(_lives(graph, model.buffers))) for graph in model.subgraphs or [])


def _planned(lives: list[_Life]) -> int:
    """Place every tensor and return where the last byte ends."""
    placed: list[tuple[int, _Life]] = []
    for life in sorted(lives, key=lambda one: (-one.size_bytes, one.first)):
        start = 0
        for offset, other in placed:  # in the order of their offsets
            if other.first > life.last or life.first > other.last:
                continue
            if offset - start >= life.size_bytes:
                break
            start = max(start, _aligned(offset + other.size_bytes))
        placed.append((start, life))
        placed.sort(key=lambda item: item[0])
    return max((offset + _aligned(life.size_bytes) for offset, life in placed), default=0)


def _lives(graph: Any, buffers: Any) -> Iterator[_Life]:
    operators = graph.operators or []
    end = len(operators)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, operator in enumerate(operators):
        for index in (*operator.outputs, *operator.inputs, *_intermediates(operator)):
            first.setdefault(int(index), number)
            last[int(index)] = number
    # The caller may fill the inputs and read the outputs at any time.
    for index in (*graph.inputs, *graph.outputs):
        first[int(index)], last[int(index)] = 0, end
    for index, start in first.items():
        if index < 0 or _is_constant(graph.tensors[index], buffers):
            continue
        tensor = graph.tensors[index]
        if tensor.isVariable:  # state lives on between two calls
            yield _Life(_size_bytes(tensor), 0, end)
        else:
            yield _Life(_size_bytes(tensor), start, last[index])


def _intermediates(operator: Any) -> tuple[int, ...]:
    found = operator.intermediates
    return () if found is None else tuple(int(index) for index in found)


def _is_constant(tensor: Any, buffers: Any) -> bool:
    data = buffers[tensor.buffer].data if tensor.buffer < len(buffers) else None
    return data is not None and len(data) > 0


def _size_bytes(tensor: Any) -> int:
    shape = [] if tensor.shape is None else [max(1, int(size)) for size in tensor.shape]
    count = int(np.prod(shape, dtype=np.int64))
    return (count * _BITS.get(tensor.type, 0) + 7) // 8


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT
