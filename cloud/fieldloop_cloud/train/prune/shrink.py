"""Building the smaller net: the same layers with fewer channels, and the weights that stay."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.train.prune.channels import Trace
from fieldloop_cloud.train.prune.roles import width_setting


def flattened(model: Any) -> Any:
    """Return a model as one functional graph: nested models are spread out, weights shared.

    Raises:
        UnsupportedError: A subclassed model, whose graph cannot be seen.
    """
    import keras  # noqa: PLC0415 - only workers import Keras

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:
        if isinstance(layer, keras.Model):
            options.pop("training", None)
            return layer.call(*inputs, **options)
        return layer(*inputs, **options)

    if isinstance(model, keras.Sequential):
        model = model._functional  # noqa: SLF001 - the graph that Sequential keeps for itself
    if model is None or not hasattr(model, "_nodes_by_depth"):
        raise UnsupportedError(
            "the net is a subclassed model, and its graph cannot be seen",
            where=type(model).__name__,
            advice="Build it with keras.Model(inputs, outputs) or keras.Sequential.",
        )
    try:
        while any(isinstance(layer, keras.Model) for layer in model.layers):
            model = keras.models.clone_model(
                model, clone_function=lambda layer: layer, call_function=call
            )
    except ValueError as error:
        raise UnsupportedError(
            f"the nested models cannot be spread out: {' '.join(str(error).split())[:200]}",
            where=model.name,
            advice="Give every layer a name of its own.",
        ) from error
    return model


def shrunk(model: Any, trace: Trace, gone: frozenset[int]) -> Any:
    """Return a new model without the channels of some groups.

    Args:
        model: The model that was traced.
        trace: Its channels.
        gone: Groups to take out; none of `trace.fixed`.
    """
    stays = ~np.isin(trace.group, list(gone))
    config = _without_shapes(model.get_config())
    for entry in config["layers"]:
        name, settings = entry.get("name") or entry["config"]["name"], entry["config"]
        if name in trace.layers:
            channels = trace.layers[name]
            setting = width_setting(channels.layer)
            if setting is not None:
                settings[setting] = int(stays[channels.outputs].sum())
        elif name in trace.reshapes and settings.get("target_shape"):
            shape = list(settings["target_shape"])
            shape[-1] = int(stays[trace.reshapes[name]].sum())
            settings["target_shape"] = tuple(shape)
    smaller = type(model).from_config(config)
    for name, weights in kept_weights(trace, stays).items():
        smaller.get_layer(name).set_weights(weights)
    return _with_rest(smaller, model, trace)


def kept_weights(trace: Trace, stays: NDArray[np.bool_]) -> dict[str, list[NDArray[Any]]]:
    """Return the weights of every traced layer without the channels that go."""
    kept = {}
    for name, channels in trace.layers.items():
        weights = channels.layer.get_weights()
        for axis in channels.axes:
            numbers = np.flatnonzero(stays[channels.side(axis.side)])
            weights[axis.weight] = np.take(weights[axis.weight], numbers, axis=axis.axis)
        kept[name] = weights
    return kept


def silenced(trace: Trace, gone: frozenset[int]) -> dict[str, list[NDArray[Any]]]:
    """Return the weights with the channels that would go set to zero, shapes unchanged.

    With activations that keep zero (ReLU and its kin) the net answers as the shrunk one.
    """
    goes = np.isin(trace.group, list(gone))
    made: dict[str, list[NDArray[Any]]] = {}
    for name, channels in trace.layers.items():
        weights = channels.layer.get_weights()
        for axis in channels.axes:
            if axis.side in {"out", "in"}:
                numbers = np.flatnonzero(goes[channels.side(axis.side)])
                view = np.moveaxis(weights[axis.weight], axis.axis, 0)
                view[numbers] = 0.0
        made[name] = weights
    return made


def _with_rest(smaller: Any, model: Any, trace: Trace) -> Any:
    """Copy the weights of layers without channels to cut (Normalization)."""
    for layer in model.layers:
        if layer.name not in trace.layers and layer.weights:
            smaller.get_layer(layer.name).set_weights(layer.get_weights())
    return smaller


def _without_shapes(config: Any) -> Any:
    """Drop the recorded input shapes, so that every layer is built for what it gets now."""
    if isinstance(config, Mapping):
        return {
            key: _without_shapes(value) for key, value in config.items() if key != "build_config"
        }
    if isinstance(config, list):
        return [_without_shapes(value) for value in config]
    return tuple(_without_shapes(v) for v in config) if isinstance(config, tuple) else config
