"""Where a backbone can be cut: the last joint before each halving of its feature map.

A *joint* is a layer that everything passes through: no connection jumps over it. NASNet's cells
take the two cells before them, so it has none; there the concatenation that ends a cell counts.
Joints are found in the net's own graph, so every member of every family has stages, named `stage1`,
`stage2`, …
"""

from dataclasses import dataclass
from typing import Any

from fieldloop.errors import ConfigError

_MAP_RANK = 4
_SHRINKS = 0.67
"""A map of less than this share of the last one's height begins a new stage; padding and `valid`
convolutions change it by less."""

_SPATIAL = frozenset({"ZeroPadding2D", "Cropping2D", "InputLayer", "Rescaling", "Normalization"})
"""Layers that compute no features."""

_CELL_END = "_concat_"
"""In the names of the layers that end NASNet's cells."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        name: `stage1`, `stage2`, …
        layer: The layer that ends it: the place to cut.
        index: That layer's number in the net.
        height: Of its feature map.
        width: Of its feature map.
        channels: Of its feature map.
    """

    name: str
    layer: str
    index: int
    height: int
    width: int
    channels: int


def stages(net: Any) -> tuple[Stage, ...]:
    """Return a functional Keras net's stages, from the input to its end."""
    ends: list[tuple[int, Any]] = []
    for index, layer in _joints(net.layers):
        height = layer.output.shape[1]
        if ends and height > _SHRINKS * ends[-1][1].output.shape[1]:
            ends.pop()  # the same stage goes on
        ends.append((index, layer))
    return tuple(
        Stage(f"stage{number}", layer.name, index, *layer.output.shape[1:])
        for number, (index, layer) in enumerate(ends, start=1)
    )


def cut_index(net: Any, cut: str) -> int:
    """Return the number of the layer that a cut names: "" (the end), a stage or a layer.

    Raises:
        ConfigError: The net has no such stage or layer, or that layer has no feature map.
    """
    if not cut:
        return len(net.layers) - 1
    found = stages(net)
    for stage in found:
        if stage.name == cut:
            return stage.index
    names = [layer.name for layer in net.layers]
    if cut not in names or len(net.get_layer(cut).output.shape) != _MAP_RANK:
        listed = ", ".join(f"{s.name} ({s.layer})" for s in found)
        raise ConfigError(
            f"{net.name} has no layer '{cut}' with a feature map",
            where="cut",
            advice=f"Use {listed}, or another layer's name.",
        )
    return names.index(cut)


def cut_at(net: Any, cut: str) -> Any:
    """Return the net from its input to the cut, sharing the layers.

    Raises:
        ConfigError: As `cut_index`.
    """
    from keras import Model  # noqa: PLC0415 - only workers import Keras

    end = net.layers[cut_index(net, cut)].output if cut else net.output
    return Model(net.input, end, name="backbone")


def _joints(layers: list[Any]) -> list[tuple[int, Any]]:
    """Return (number, layer) of the layers with a feature map where a net can be cut."""
    numbers = {id(layer): number for number, layer in enumerate(layers)}
    last_use = dict.fromkeys(range(len(layers)), 0)
    for number, layer in enumerate(layers):
        for source in _sources(layer, numbers):
            last_use[source] = max(last_use[source], number)
    joints, reach = [], 0
    for number, layer in enumerate(layers):
        kind = type(layer).__name__
        is_whole = reach <= number or _CELL_END in layer.name
        reach = max(reach, last_use[number])
        if is_whole and kind not in _SPATIAL and len(layer.output.shape) == _MAP_RANK:
            joints.append((number, layer))
    return joints


def _sources(layer: Any, numbers: dict[int, int]) -> list[int]:
    """Return the numbers of the layers that a layer takes its inputs from."""
    nodes = layer._inbound_nodes[:1]  # noqa: SLF001 - the graph has no public form
    parents = [parent.operation for node in nodes for parent in node.parent_nodes]
    return [numbers[id(parent)] for parent in parents if id(parent) in numbers]
