"""A family's preprocessing as one 1x1 convolution in the graph.

From the codec's pixels (black … white, one or three channels) to what the family expects is an
affine map of each pixel: repeat grey, scale, subtract the mean, perhaps swap red and blue. One
frozen 1x1 convolution does it all, so that the device's `predict(raw)` cannot get it wrong.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.train.transfer.families import Convention
from fieldloop_cloud.train.transfer.plan import TransferPlan

LAYER = "pixels"
"""The convolution's name."""

_TORCH_MEAN = np.array([0.485, 0.456, 0.406])
_TORCH_DEVIATION = np.array([0.229, 0.224, 0.225])
_CAFFE_MEAN_BGR = np.array([103.939, 116.779, 123.68])
_FULL = 255.0


def pixel_map(
    convention: Convention, *, channels: int, black: float, white: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (matrix, offset): expected pixel = encoded pixel · matrix + offset.

    Args:
        convention: What the family expects.
        channels: Of the encoded pixels, 1 or 3 (RGB).
        black: Encoded value of black.
        white: Encoded value of white.

    Returns:
        Arrays (channels, 3) and (3,).

    Example:
        >>> matrix, offset = pixel_map("symmetric", channels=1, black=0.0, white=1.0)
        >>> matrix.tolist(), offset.tolist()
        ([[2.0, 2.0, 2.0]], [-1.0, -1.0, -1.0])
    """
    order = np.eye(3)
    if convention == "symmetric":
        scale, offset = np.full(3, 2 / _FULL), np.full(3, -1.0)
    elif convention == "torch":
        scale, offset = 1 / (_FULL * _TORCH_DEVIATION), -_TORCH_MEAN / _TORCH_DEVIATION
    elif convention == "caffe":
        order = order[:, ::-1]
        scale, offset = np.ones(3), -_CAFFE_MEAN_BGR
    else:
        scale, offset = np.ones(3), np.zeros(3)
    spread = _FULL / (white - black)
    matrix = order * scale * spread
    offset = offset - black * matrix.sum(axis=0)
    if channels == 1:
        matrix = matrix.sum(axis=0, keepdims=True)
    return matrix.astype(np.float32), offset.astype(np.float32)


def pixels(plan: TransferPlan, inputs: Any) -> Any:
    """Return encoded images, resized and mapped to what the backbone expects."""
    from keras import layers, ops  # noqa: PLC0415 - only workers import Keras

    flow = inputs
    if plan.side and (plan.height, plan.width) != (plan.side, plan.side):
        # Not `layers.Resizing`: it puts the layers behind it into training mode (Keras 3.15).
        flow = ops.image.resize(flow, (plan.side, plan.side), interpolation="bilinear")
    layer = layers.Conv2D(3, 1, name=LAYER, trainable=False)
    layer.build(flow.shape)
    matrix, offset = pixel_map(
        plan.family.convention, channels=plan.channels, black=plan.black, white=plan.white
    )
    layer.set_weights([matrix[np.newaxis, np.newaxis], offset])
    return layer(flow)
