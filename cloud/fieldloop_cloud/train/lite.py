"""The Lite variant of a net: ReLU6 where the range was open, and no squeeze-and-excite.

It is what EfficientNet-Lite is to EfficientNet. It keeps the weights of all that stays, but it is
another net: it must be trained further before it is of use.

Only for workers: Keras is imported when a function is called.
"""

from dataclasses import dataclass
from typing import Any

from fieldloop_cloud.train.folding import activation_name
from fieldloop_cloud.train.rebuild import Call, Graph, graph_of, rebuild

_SMOOTH = frozenset({"silu", "swish", "hard_silu", "hard_swish", "gelu", "elu", "selu", "mish"})
_POOLS = frozenset({"GlobalAveragePooling2D", "GlobalAveragePooling1D"})


@dataclass(frozen=True, slots=True)
class Lite:
    """A Lite variant.

    Attributes:
        model: The new Keras model; to be trained further.
        changes: What was changed, one sentence a layer; empty if there was nothing to change.
    """

    model: Any
    changes: tuple[str, ...]


def lite_variant(model: Any) -> Lite:
    """Build the Lite variant of a functional or Sequential net; the net stays as it is.

    Raises:
        UnsupportedError: A subclassed model: its code cannot be rewritten.
    """
    graph = graph_of(model)
    gates = {call.number: place for call in graph.calls for place in _gated(graph, call)}
    changes: list[str] = []
    twins: dict[int, Any] = {}

    def apply(call: Call, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if call.number in gates:
            changes.append(f"{operation.name}: squeeze-and-excite left out")
            return _flat(args)[gates[call.number]]
        if id(operation) not in twins:
            twins[id(operation)] = _twin(operation, changes)
        return twins[id(operation)](*args, **kwargs)

    made = rebuild(model, graph, apply, at_input=lambda tensor: tensor)
    return Lite(made, tuple(changes))


def _twin(operation: Any, changes: list[str]) -> Any:
    """Return a copy of a layer with its weights, and with ReLU6 for a smooth activation."""
    import keras  # noqa: PLC0415 - only workers import Keras

    kind, name = type(operation).__name__, getattr(operation, "name", "")
    activation = activation_name(operation)
    is_smooth = activation in _SMOOTH or kind in ("ELU", "Silu", "Gelu", "HardSilu")
    if is_smooth:
        changes.append(f"{name}: ReLU6 instead of {activation if kind != 'ELU' else 'elu'}")
    if not isinstance(operation, keras.layers.Layer):
        return keras.layers.ReLU(6.0) if is_smooth else operation
    if is_smooth and kind in ("Activation", "ELU"):
        return keras.layers.ReLU(6.0, name=name)
    config = operation.get_config()
    if is_smooth:
        config["activation"] = "relu6"
    twin = type(operation).from_config(config)
    if operation.weights:
        twin.build_from_config(operation.get_build_config())
        twin.set_weights(operation.get_weights())
    return twin


def _gated(graph: Graph, call: Call) -> list[int]:
    """Return which argument of a Multiply goes on alone, if the other is computed from it."""
    if call.kind != "Multiply" or len(call.sources) != 2:  # noqa: PLR2004 - gate and signal
        return []
    for gate, signal in ((0, 1), (1, 0)):
        source = call.sources[gate]
        if _pooled_from(graph, source, call.sources[signal]):
            return [signal]
    return []


def _pooled_from(graph: Graph, number: int, signal: int) -> bool:
    """Whether a call goes back, one source at a time, to a pooling of the signal."""
    while number >= 0:
        call = graph.calls[number]
        if call.kind in _POOLS:
            return call.sources == (signal,)
        if len(call.sources) != 1:
            return False
        number = call.sources[0]
    return False


def _flat(args: tuple[Any, ...]) -> list[Any]:
    return list(args[0]) if len(args) == 1 else list(args)
