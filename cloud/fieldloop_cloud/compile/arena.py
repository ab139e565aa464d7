"""How much memory a runtime needs for a model's tensors while it runs: the arena.

A TFLite runtime plans one block of memory for all that is computed: two tensors may share bytes
if they are never alive together. The same plan is made here from the flatbuffer alone: the largest
tensor first, each into the lowest gap that is free during its life (Pisarchyk and Lee, "Efficient
memory management for deep neural net inference", 2020). Weights are not in it, and neither is what
a kernel asks for itself while it works.

`micro.arena` plans with it too; which tensor lives how long is another matter there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fieldloop_cloud.compile.flat_model import FlatGraph, FlatModel

ALIGNMENT = 64
"""Bytes; every tensor starts at a multiple."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of memory and the steps (ops) at which it is in use, both included."""

    size_bytes: int
    first: int
    last: int


def arena_bytes(model: FlatModel) -> int:
    """Plan the arena for one row; a dimension of unknown size counts as 1.

    Returns:
        Bytes for the tensors of all graphs, each of which has an arena of its own.
    """
    return sum(packed_bytes(list(_buffers(graph)), alignment=ALIGNMENT) for graph in model.graphs)


def packed_bytes(buffers: Sequence[Buffer], *, alignment: int) -> int:
    """Return the size of the memory that holds the buffers, placed greedily by size.

    Example:
        >>> packed_bytes([Buffer(64, 0, 1), Buffer(32, 1, 2), Buffer(48, 2, 3)], alignment=16)
        96
    """
    placed: list[tuple[int, int, Buffer]] = []
    order = list(reversed(buffers))  # of equal sizes Micro places the last one first
    order.sort(key=lambda buffer: -aligned(buffer.size_bytes, alignment))
    for wanted in order:
        size, offset = aligned(wanted.size_bytes, alignment), 0
        for start, end, other in placed:  # in the order of their offsets
            if other.first > wanted.last or wanted.first > other.last:
                continue
            if start - offset >= size:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, wanted))
        placed.sort(key=lambda item: item[0])
    return max((end for _, end, _ in placed), default=0)


def aligned(size_bytes: int, alignment: int) -> int:
    """Return the next multiple of the alignment.

    Example:
        >>> aligned(17, 16)
        32
    """
    return -(-size_bytes // alignment) * alignment


def _buffers(graph: FlatGraph) -> Iterator[Buffer]:
    end = len(graph.ops)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for step, op in enumerate(graph.ops):
        for tensor in (*op.outputs, *op.inputs):
            if tensor is not None:
                first.setdefault(tensor.index, step)
                last[tensor.index] = step
    # The caller may fill the inputs and read the outputs at any time.
    for index in (*graph.inputs, *graph.outputs):
        first[index], last[index] = 0, end
    for index, start in first.items():
        tensor = graph.tensors[index]
        if tensor.is_constant:
            continue
        if tensor.is_variable:  # state lives on between two calls
            yield Buffer(tensor.size_bytes, 0, end)
        else:
            yield Buffer(tensor.size_bytes, start, last[index])
