"""Magnitude pruning: the smallest weights of every kernel become zero and stay zero."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MIN_RANK = 2
"""Biases and the scales of normalizations are too few to matter and too important to go."""


def masks_for(model: Any, share: float) -> dict[str, list[NDArray[np.float32] | None]]:
    """Return 0 for the smallest share of each kernel's weights and 1 for the others."""
    masks: dict[str, list[NDArray[np.float32] | None]] = {}
    for layer in model.layers:
        kernels = [weight for weight in layer.weights if len(weight.shape) >= _MIN_RANK]
        if kernels:
            masks[layer.name] = [
                _mask(np.asarray(weight), share) if len(weight.shape) >= _MIN_RANK else None
                for weight in layer.weights
            ]
    return masks


def masked(model: Any, masks: dict[str, list[NDArray[np.float32] | None]]) -> None:
    """Set the weights to zero whose mask is zero."""
    for name, layer_masks in masks.items():
        layer = model.get_layer(name)
        layer.set_weights(
            [
                weight if mask is None else weight * mask
                for weight, mask in zip(layer.get_weights(), layer_masks, strict=True)
            ]
        )


def density(model: Any) -> int:
    """Return how many weights are not zero."""
    return int(sum(np.count_nonzero(weight) for weight in model.get_weights()))


def _mask(weight: NDArray[Any], share: float) -> NDArray[np.float32]:
    mask = np.ones(weight.size, dtype=np.float32)
    # By rank, not by threshold: of many equal weights only as many go as asked for.
    mask[np.argsort(np.abs(weight).ravel(), kind="stable")[: round(share * weight.size)]] = 0.0
    return mask.reshape(weight.shape)
