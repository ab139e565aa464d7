"""Folding BatchNorm into the layer before it, as the converter does when nothing is in between."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.train.rebuild import Call, Graph

WEIGHTED = ("Conv2D", "Conv1D", "DepthwiseConv2D", "Dense")
"""Layers that a BatchNorm folds into, and that fake quantization knows."""


@dataclass(frozen=True, slots=True)
class Folds:
    """Which BatchNorm goes into which layer, by their calls' numbers."""

    norm_of: dict[int, Call]

    @property
    def norms(self) -> frozenset[int]:
        """Numbers of the calls that vanish."""
        return frozenset(call.number for call in self.norm_of.values())


def folds_of(graph: Graph) -> Folds:
    """Find the BatchNorms that stand alone behind a linear layer with weights."""
    found: dict[int, Call] = {}
    for call in graph.calls:
        if call.kind not in WEIGHTED or graph.is_shared(call) or call.number in graph.outputs:
            continue
        readers = graph.readers(call.number)
        if len(readers) != 1 or readers[0].kind != "BatchNormalization":
            continue
        norm = readers[0].operation
        axis = norm.axis[0] if isinstance(norm.axis, list | tuple) else norm.axis
        is_last = axis in (-1, len(norm.input_spec.shape or (0,)) - 1) or axis == norm_rank(norm)
        if activation_name(call.operation) == "linear" and is_last:
            found[call.number] = readers[0]
    return Folds(found)


def norm_rank(norm: Any) -> int:
    """Return the last axis of what a BatchNorm was built for."""
    spec = norm.input_spec
    return int(spec.ndim or 0) - 1


def activation_name(layer: Any) -> str:
    """Return the name of a layer's activation, `linear` without one."""
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "linear") if activation is not None else "linear"


def folded_weights(layer: Any, norm: Any | None) -> list[NDArray[np.float32]]:
    """Return kernel and bias of a layer with the BatchNorm behind it multiplied in.

    Args:
        layer: One of `WEIGHTED`.
        norm: The BatchNorm, or None; without a bias the layer gets one of zeros.
    """
    kernel = np.asarray(layer.kernel, dtype=np.float32)
    is_depthwise = type(layer).__name__ == "DepthwiseConv2D"
    channels = kernel.shape[-2] * kernel.shape[-1] if is_depthwise else kernel.shape[-1]
    bias = np.zeros(channels, dtype=np.float32)
    if layer.use_bias:
        bias = np.asarray(layer.bias, dtype=np.float32)
    if norm is None:
        return [kernel, bias]
    variance = np.asarray(norm.moving_variance, dtype=np.float32)
    factor = 1 / np.sqrt(variance + np.float32(norm.epsilon))
    if norm.scale:
        factor = factor * np.asarray(norm.gamma, dtype=np.float32)
    shift = np.asarray(norm.beta, dtype=np.float32) if norm.center else np.float32(0)
    wide = factor.reshape(kernel.shape[-2:]) if is_depthwise else factor
    mean = np.asarray(norm.moving_mean, dtype=np.float32)
    return [kernel * wide, (bias - mean) * factor + shift]
