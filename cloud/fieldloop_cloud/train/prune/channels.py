"""Following channels through a Keras graph: which are one, which must stay, who reads whom.

Every channel that a layer makes gets a number. A tensor carries an array of such numbers, one for
each element of its last axis; layers pass the array on, repeat it (Flatten, depthwise multipliers),
join arrays (Concatenate) or declare two arrays to be the same channels (Add). What was declared the
same is a *group* and stays or goes as one. The numbers of the model's inputs and outputs must stay.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.train.prune.roles import (
    DEPTHWISE,
    MAKES,
    MIXES,
    PASSES,
    RESHAPES,
    TIES,
    Side,
    WeightAxis,
    check_layer,
    is_softmax,
    weight_axes,
    width_setting,
)

Ids = NDArray[np.int64]
"""Channel numbers along a last axis."""


@dataclass(frozen=True, eq=False)
class LayerChannels:
    """The channels of a layer with weights or a width.

    Attributes:
        layer: The Keras layer.
        inputs: Numbers of its input's channels.
        outputs: Numbers of its output's channels.
    """

    layer: Any
    inputs: Ids
    outputs: Ids

    def side(self, side: Side) -> Ids:
        """Return the numbers that an axis carries."""
        if side == "in":
            return self.inputs
        if side == "out":
            return self.outputs
        return np.repeat(self.inputs, self.layer.depth_multiplier)

    @property
    def axes(self) -> tuple[WeightAxis, ...]:
        """The axes of its weights that carry channels."""
        return weight_axes(self.layer)

    @property
    def makes(self) -> bool:
        """Whether its output's channels are its own."""
        return width_setting(self.layer) is not None


@dataclass(frozen=True, eq=False)
class Trace:
    """A graph's channels.

    Attributes:
        layers: Layers with weights or a width, by name.
        reshapes: Reshape layers and the numbers of their outputs, by name.
        group: (channels,) the group of each channel.
        fixed: Groups that must stay.
    """

    layers: dict[str, LayerChannels]
    reshapes: dict[str, Ids]
    group: Ids
    fixed: frozenset[int]

    def families(self) -> dict[tuple[str, ...], list[int]]:
        """Return the groups that may go, by the layers that make them."""
        makers: dict[int, set[str]] = {}
        for name, entry in self.layers.items():
            if entry.makes:
                for root in self.group[entry.outputs]:
                    makers.setdefault(int(root), set()).add(name)
        families: dict[tuple[str, ...], list[int]] = {}
        for root in sorted(makers):
            if root not in self.fixed:
                families.setdefault(tuple(sorted(makers[root])), []).append(root)
        return families


class _Numbers:
    """Hands out channel numbers and remembers which are the same (union-find)."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._fixed: list[int] = []

    def fresh(self, count: int, *, fixed: bool = False) -> Ids:
        ids = np.arange(len(self._parent), len(self._parent) + count, dtype=np.int64)
        self._parent.extend(ids.tolist())
        if fixed:
            self.fix(ids)
        return ids

    def root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def tie(self, first: Ids, second: Ids) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((self.root(a), self.root(b)))
            self._parent[high] = low

    def fix(self, ids: Iterable[int]) -> None:
        self._fixed.extend(int(number) for number in ids)

    def groups(self) -> Ids:
        return np.array([self.root(number) for number in range(len(self._parent))], dtype=np.int64)

    def fixed(self) -> frozenset[int]:
        return frozenset(self.root(number) for number in self._fixed)


class _Tracer:
    def __init__(self) -> None:
        self.numbers = _Numbers()
        self.layers: dict[str, LayerChannels] = {}
        self.reshapes: dict[str, Ids] = {}

    def step(self, layer: Any, inputs: Sequence[tuple[Ids, Any]], output: Any) -> Ids:
        """Return the numbers of a layer's output from its inputs' numbers and tensors."""
        kind = type(layer).__name__
        check_layer(layer)
        if kind == "InputLayer":
            return self.numbers.fresh(_width(output), fixed=True)
        ids, tensor = inputs[0]
        if kind in TIES:
            made = self._tied(inputs)
        elif kind == "Concatenate":
            made = self._joined(layer, inputs)
        elif kind in RESHAPES:
            made = _reshaped(layer, ids, tensor.shape, output.shape)
            self.reshapes[layer.name] = made
        elif kind in MAKES or kind in DEPTHWISE or kind == "BatchNormalization":
            made = self._weighted(layer, kind, ids)
        else:
            made = ids
            if kind == "Normalization":
                self.numbers.fix(ids)
            assert kind in PASSES | MIXES | {"Normalization"}
        if kind in MIXES or is_softmax(layer):
            self.numbers.fix(made)
        return made

    def _weighted(self, layer: Any, kind: str, ids: Ids) -> Ids:
        known = self.layers.get(layer.name)
        if known is not None:  # a layer called twice: both calls read and make the same channels
            self.numbers.tie(known.inputs, ids)
            return known.outputs
        if kind in DEPTHWISE:
            made = np.repeat(ids, layer.depth_multiplier)
        elif kind == "BatchNormalization":
            made = ids
        else:
            made = self.numbers.fresh(int(getattr(layer, width_setting(layer) or "")))
        self.layers[layer.name] = LayerChannels(layer, ids, made)
        return made

    def _tied(self, inputs: Sequence[tuple[Ids, Any]]) -> Ids:
        widest = max((ids for ids, _ in inputs), key=len)
        for ids, _ in inputs:
            if len(ids) == len(widest):
                self.numbers.tie(widest, ids)
            else:  # one channel against many: it must not go
                self.numbers.fix(ids)
        return widest

    def _joined(self, layer: Any, inputs: Sequence[tuple[Ids, Any]]) -> Ids:
        rank = len(inputs[0][1].shape)
        if layer.axis in (-1, rank - 1):
            return np.concatenate([ids for ids, _ in inputs])
        for ids, _ in inputs[1:]:
            self.numbers.tie(inputs[0][0], ids)
        return inputs[0][0]


def trace(model: Any) -> Trace:
    """Follow the channels of a functional Keras model without nested models.

    Raises:
        UnsupportedError: A layer whose channels cannot be followed, by name.
    """
    tracer = _Tracer()
    known: dict[int, Ids] = {}
    depths = model._nodes_by_depth  # noqa: SLF001 - Keras shows its graph nowhere else
    for depth in sorted(depths, reverse=True):
        for node in depths[depth]:
            inputs = [(known[id(tensor)], tensor) for tensor in node.input_tensors]
            if len(node.outputs) != 1:
                raise UnsupportedError(
                    f"the layer '{node.operation.name}' has several outputs",
                    where=node.operation.name,
                    advice="Prune nets of layers with one output each.",
                )
            output = node.outputs[0]
            known[id(output)] = tracer.step(node.operation, inputs, output)
    for tensor in model.outputs:
        tracer.numbers.fix(known[id(tensor)])
    return Trace(
        layers=tracer.layers,
        reshapes=tracer.reshapes,
        group=tracer.numbers.groups(),
        fixed=tracer.numbers.fixed(),
    )


def _width(tensor: Any) -> int:
    width = tensor.shape[-1]
    if width is None:
        raise UnsupportedError(
            "an input has an open number of channels",
            where=tensor.name,
            advice="Build the net for inputs of one size.",
        )
    return int(width)


def _reshaped(layer: Any, ids: Ids, before: Any, after: Any) -> Ids:
    """Follow channels through a Reshape: every position must end with the same channels."""
    sizes = (*before[1:], *after[1:])
    if any(size is None for size in sizes):
        raise UnsupportedError(
            f"the layer '{layer.name}' reshapes a tensor of unknown size",
            where=layer.name,
            advice="Build the net for inputs of one size.",
        )
    table = np.broadcast_to(ids, before[1:]).reshape(-1, after[-1])
    if not (table == table[0]).all():
        raise UnsupportedError(
            f"the layer '{layer.name}' spreads channels over other axes than the last",
            where=layer.name,
            advice="Flatten instead, or keep the last axis.",
        )
    return np.array(table[0])
