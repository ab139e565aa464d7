"""Which ops TensorFlow Lite Micro has, for which types, and how firmware registers them.

The list is `ops.json`, taken from TFLite Micro's op resolver and its reference kernels; its
`source` says of which day. An op that is on the list may still refuse a type: GATHER and SELECT_V2,
which walk our forests, know no int32 there.
"""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import msgspec

from fieldloop_cloud.compile.flat_model import FlatModel, Op

_WEIGHTED = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}
"""Ops with weights, and which input they are: Micro has no hybrid kernels."""

_WEIGHT_TYPES = {"float32": {"float32"}, "int8": {"int8", "int4"}, "int16": {"int8"}}


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One op of the list: `reads` and `writes` are None where any type goes."""

    method: str
    reads: frozenset[str] | None = None
    writes: frozenset[str] | None = None
    data: int = 0


@dataclass(frozen=True, slots=True)
class MicroOps:
    """What a model needs of TFLite Micro.

    Attributes:
        methods: `MicroMutableOpResolver` methods to call, one for each op, sorted.
        lacking: What Micro has no kernel for, in words, for example `GATHER of int32 (6 times)`.
        floating: Ops that compute in floating point, in the same words.
        source: Which TFLite Micro the list was taken from.
    """

    methods: tuple[str, ...]
    lacking: tuple[str, ...]
    floating: tuple[str, ...]
    source: str


def micro_ops(model: FlatModel) -> MicroOps:
    """Check every op of a model, sub-graphs included, against the list."""
    source, entries = _table()
    methods: set[str] = set()
    lacking: dict[str, int] = {}
    floating: dict[str, int] = {}
    for op in (op for graph in model.graphs for op in graph.ops):
        entry = entries.get(op.name)
        if entry is not None:
            methods.add(entry.method)
        if (words := _refused(op, entry)) is not None:
            lacking[words] = lacking.get(words, 0) + 1
        if (kind := _float_type(op)) is not None:
            words = f"{op.name} of {kind}"
            floating[words] = floating.get(words, 0) + 1
    return MicroOps(tuple(sorted(methods)), _counted(lacking), _counted(floating), source)


@functools.cache
def _table() -> tuple[str, dict[str, _Entry]]:
    text = resources.files("fieldloop_cloud.compile.micro").joinpath("ops.json").read_bytes()
    raw: dict[str, Any] = json.loads(text)
    return str(raw["source"]), msgspec.convert(raw["ops"], dict[str, _Entry])


def _refused(op: Op, entry: _Entry | None) -> str | None:
    """Say what of an op Micro has no kernel for; None if it has one."""
    if entry is None:
        return op.name
    present = [tensor.dtype if tensor else "" for tensor in op.inputs]
    read = present[entry.data] if entry.data < len(present) else ""
    if entry.reads is not None and read and read not in entry.reads:
        return f"{op.name} of {read}"
    if entry.writes is not None:
        for tensor in op.outputs:
            if tensor.dtype not in entry.writes:
                return f"{op.name} to {tensor.dtype}"
    place = _WEIGHTED.get(op.name)
    if place is not None and present[place] not in _WEIGHT_TYPES.get(read, set()):
        return f"{op.name} of {read} with {present[place]} weights"
    return None


def _float_type(op: Op) -> str | None:
    for tensor in (*op.inputs, *op.outputs):
        if tensor is not None and tensor.dtype.startswith("float"):
            return tensor.dtype
    return None


def _counted(found: dict[str, int]) -> tuple[str, ...]:
    times = {1: "once", 2: "twice"}
    return tuple(
        f"{words} ({times.get(count, f'{count} times')})" for words, count in sorted(found.items())
    )
