"""Rebuilding a Keras graph call by call: what folding, fake quantization and Lite variants share.

Only for workers: Keras is imported when a function is called. Nested models are opened, so that
what comes out is one flat graph.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fieldloop.errors import UnsupportedError

Apply = Callable[["Call", Any, tuple[Any, ...], dict[str, Any]], Any]
"""Told of a call, its operation and its arguments in the new graph; returns the new outputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a layer (or of an operation) in the graph.

    Attributes:
        number: Its place in the order of execution.
        operation: The layer.
        sources: Numbers of the calls whose outputs it takes; -1 for an input of the model.
    """

    number: int
    operation: Any
    sources: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The layer's class, `Conv2D`."""
        return type(self.operation).__name__


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The calls of a model, in order.

    Attributes:
        calls: One after another.
        outputs: Numbers of the calls that give the model's outputs.
    """

    calls: tuple[Call, ...]
    outputs: tuple[int, ...]

    def readers(self, number: int) -> tuple[Call, ...]:
        """Return the calls that take what a call gives."""
        return tuple(call for call in self.calls if number in call.sources)

    def is_shared(self, call: Call) -> bool:
        """Whether the layer is called more than once."""
        times = Counter(id(other.operation) for other in self.calls)
        return times[id(call.operation)] > 1


def graph_of(model: Any) -> Graph:
    """Return a model's calls.

    Raises:
        UnsupportedError: The model is no graph of layers: a subclassed one, or not built.
    """
    calls: list[Call] = []
    made_by: dict[int, int] = {}
    kept: list[Any] = []  # an id is only good while its object lives

    def record(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outputs = operation(*args, **kwargs)
        sources = tuple(made_by.get(id(one), -1) for one in _tensors((args, kwargs)))
        for one in _tensors(outputs):
            made_by[id(one)] = len(calls)
            kept.append(one)
        calls.append(Call(len(calls), operation, sources))
        return outputs

    outputs = _run(model, _inputs(model), record)
    return Graph(tuple(calls), tuple(made_by.get(id(one), -1) for one in _tensors(outputs)))


def rebuild(model: Any, graph: Graph, apply: Apply, *, at_input: Callable[[Any], Any]) -> Any:
    """Return a new model in which every call is made by `apply`.

    Args:
        model: The model.
        graph: Its calls, from `graph_of`.
        apply: Makes each call; it may return an argument to leave the layer out.
        at_input: Changes each input before it is used.
    """
    import keras  # noqa: PLC0415 - only workers import Keras

    inputs = _inputs(model)
    remaining = iter(graph.calls)

    def step(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return apply(next(remaining), operation, args, kwargs)

    outputs = _run(model, keras.tree.map_structure(at_input, inputs), step)
    return keras.Model(inputs, outputs, name=model.name)


def _inputs(model: Any) -> Any:
    import keras  # noqa: PLC0415 - only workers import Keras

    try:
        return keras.tree.map_structure(
            lambda one: keras.Input(batch_shape=one.shape, dtype=one.dtype, name=one.name),
            _input_structure(model),
        )
    except (AttributeError, ValueError) as error:
        raise _no_graph(model) from error


def _input_structure(model: Any) -> Any:
    # A Sequential model has one input, but no `input` until it has been called.
    if _is_sequential(model) and model.inputs:
        return model.inputs[0]
    return model.input


def _run(
    model: Any,
    inputs: Any,
    step: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any],
) -> Any:
    import keras  # noqa: PLC0415 - only workers import Keras

    if not _is_graph(model):
        raise _no_graph(model)
    graph = keras.Model(model.inputs, model.outputs) if _is_sequential(model) else model

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_graph(operation):
            return _run(operation, args[0], step)
        return step(operation, args, kwargs)

    # What keras.models.clone_model itself is made of; that cannot open nested models.
    outputs = graph._run_through_graph(inputs, call_fn=call)  # noqa: SLF001 - see above
    return keras.tree.flatten(outputs)[0] if _is_sequential(model) else outputs


def _is_sequential(model: Any) -> bool:
    import keras  # noqa: PLC0415 - only workers import Keras

    return isinstance(model, keras.Sequential)


def _is_graph(operation: Any) -> bool:
    import keras  # noqa: PLC0415 - only workers import Keras

    if not isinstance(operation, keras.Model):
        return False
    return _is_sequential(operation) or hasattr(operation, "_nodes_by_depth")


def _no_graph(model: Any) -> UnsupportedError:
    return UnsupportedError(
        "the model is not built from layers as a functional or Sequential model is",
        where=str(getattr(model, "name", type(model).__name__)),
        advice="Write it with keras.Input and keras.Model; code in a call cannot be rewritten.",
    )


def _tensors(structure: Any) -> list[Any]:
    import keras  # noqa: PLC0415 - only workers import Keras

    return [one for one in keras.tree.flatten(structure) if isinstance(one, keras.KerasTensor)]
