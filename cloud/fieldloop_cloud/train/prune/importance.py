"""How much a channel matters: the criteria that decide which channels go first.

Each criterion gives one number a channel, relative to the mean of its layer, so that layers can be
compared. A group of channels that are tied together has the mean of its members.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, ModelRuntimeError
from fieldloop_cloud.train.prune.channels import LayerChannels, Trace

Importance = Literal["l1", "l2", "bn", "taylor"]
"""`l1`, `l2`: the norm of a channel's filter, with BatchNormalization folded in (Li et al. 2017).
`bn`: the BatchNormalization's scale (Liu et al. 2017). `taylor`: how much the loss would change if
the filter were gone, estimated from gradients on training rows (Molchanov et al. 2019)."""

Gradients = Callable[[], Sequence[dict[str, list[NDArray[Any]]]]]
"""Gives for some batches the gradient of the loss for every weight, by layer."""


def channel_scores(trace: Trace, importance: Importance, gradients: Gradients) -> dict[int, float]:
    """Return the importance of every group that may go.

    Args:
        trace: The net's channels.
        importance: The criterion.
        gradients: Called for `taylor` only.

    Raises:
        ConfigError: `bn` for a net in which a layer has no BatchNormalization behind it.
        ModelRuntimeError: A score is not a number.
    """
    families = trace.families()
    makers = sorted({name for family in families for name in family})
    if importance == "taylor":
        found = _taylor(trace, makers, gradients())
    elif importance == "bn":
        found = {name: _scale(trace, name, required=True) for name in makers}
    else:
        order = 1 if importance == "l1" else 2
        found = {
            name: _norms(trace.layers[name], order) * _scale(trace, name, required=False)
            for name in makers
        }
    members: dict[int, list[float]] = {}
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise ModelRuntimeError(
                "the importance of a channel is not a number",
                where=name,
                advice="Check the net's weights: training may have diverged.",
            )
        mean = float(values.mean())
        relative = values / mean if mean > 0 else values
        for root, value in zip(trace.group[trace.layers[name].outputs], relative, strict=True):
            members.setdefault(int(root), []).append(float(value))
    wanted = [root for roots in families.values() for root in roots]
    return {root: float(np.mean(members[root])) for root in wanted}


def _filters(channels: LayerChannels, weights: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return what belongs to each output channel of each kernel, (channels, values)."""
    return [
        np.moveaxis(weights[axis.weight], axis.axis, 0).reshape(len(channels.outputs), -1)
        for axis in channels.axes
        if axis.side == "out"
    ]


def _norms(channels: LayerChannels, order: int) -> NDArray[np.float64]:
    filters = _filters(channels, channels.layer.get_weights())
    values = np.concatenate(filters, axis=1).astype(np.float64)
    return np.asarray(np.linalg.norm(values, ord=order, axis=1))


def _scale(trace: Trace, name: str, *, required: bool) -> NDArray[np.float64]:
    """Return what the BatchNormalization behind a layer multiplies each channel with; else ones."""
    outputs = trace.layers[name].outputs
    for entry in trace.layers.values():
        layer = entry.layer
        if type(layer).__name__ == "BatchNormalization" and np.array_equal(entry.inputs, outputs):
            gamma = np.abs(np.asarray(layer.gamma)) if layer.scale else np.ones(len(outputs))
            if required:
                return gamma.astype(np.float64)
            spread = np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
            return np.asarray(gamma / spread, dtype=np.float64)
    if required:
        raise ConfigError(
            f"the layer '{name}' has no BatchNormalization behind it whose scale could be asked",
            where=name,
            advice="Use the importance l2 or taylor.",
        )
    return np.ones(len(outputs))


def _taylor(
    trace: Trace, makers: Sequence[str], batches: Sequence[dict[str, list[NDArray[Any]]]]
) -> dict[str, NDArray[np.float64]]:
    found = {}
    for name in makers:
        channels = trace.layers[name]
        weights = channels.layer.get_weights()
        total = np.zeros(len(channels.outputs))
        for gradient in batches:
            products = [
                (value * slope).sum(axis=1, dtype=np.float64)
                for value, slope in zip(
                    _filters(channels, weights), _filters(channels, gradient[name]), strict=True
                )
            ]
            total += np.sum(products, axis=0) ** 2
        found[name] = np.sqrt(total / max(len(batches), 1))
    return found
