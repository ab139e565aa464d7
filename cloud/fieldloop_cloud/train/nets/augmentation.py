"""Varying training rows, a batch at a time, from seeds alone: the same seed, the same rows.

Only workers call this. Nothing here keeps state, so a resumed training sees the same rows as one
that was never stopped.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fieldloop_cloud.train.nets.scaling import Scaling
from fieldloop_cloud.train.nets.settings import Augmentation

Vary = Callable[[Any, Any], Any]
"""Takes a batch (n, …) and a seed, int64 (2,); returns the batch varied."""

_IMAGE_RANK = 4


def vary_rows(settings: Augmentation, scaling: Scaling, rank: int) -> Vary:
    """Return what varies a batch of images (rank 4) or of windows (rank 3)."""
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    spread = np.asarray(scaling.std, dtype=np.float32)

    def vary(batch: Any, seed: Any) -> Any:
        draw = _Draws(tf, tf.shape(batch)[0], seed)
        if rank == _IMAGE_RANK:
            varied = _images(tf, batch, draw, settings)
        else:
            varied = _windows(tf, batch, draw, settings)
        if settings.noise:
            varied += draw.normal(tf.shape(varied)) * settings.noise * spread
        return tf.ensure_shape(varied, batch.shape)

    return vary


class _Draws:
    """Random numbers for the rows of one batch; each call draws anew."""

    def __init__(self, tf: Any, count: Any, seed: Any) -> None:
        self._tf, self._count, self._seed, self._drawn = tf, count, seed, 0

    def uniform(self, size: float) -> Any:
        """Return shape (n,) in -size … size."""
        return self._tf.random.stateless_uniform(
            [self._count], self._next(), minval=-size, maxval=size
        )

    def normal(self, shape: Any) -> Any:
        """Return standard normal numbers."""
        return self._tf.random.stateless_normal(shape, self._next())

    def _next(self) -> Any:
        self._drawn += 1
        return self._seed + self._tf.constant([self._drawn << 40, 0], self._tf.int64)


def _images(tf: Any, batch: Any, draw: _Draws, settings: Augmentation) -> Any:
    if settings.shift or settings.rotation_degrees or settings.zoom or settings.flip:
        batch = _transformed(tf, batch, draw, settings)
    if settings.contrast:
        factor = (1.0 + draw.uniform(settings.contrast))[:, None, None, None]
        mean = tf.reduce_mean(batch, axis=[1, 2, 3], keepdims=True)
        batch = (batch - mean) * factor + mean
    return batch


def _transformed(tf: Any, batch: Any, draw: _Draws, settings: Augmentation) -> Any:
    """Shift, turn, zoom and mirror in one resampling; the border's pixels are repeated outwards."""
    shape = tf.shape(batch)
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    angle = draw.uniform(math.radians(settings.rotation_degrees))
    zoom = 1.0 + draw.uniform(settings.zoom)
    mirror = tf.sign(draw.uniform(1.0)) if settings.flip else tf.ones_like(zoom)
    down = draw.uniform(settings.shift) * height
    across = draw.uniform(settings.shift) * width
    cos, sin = tf.cos(angle) / zoom, tf.sin(angle) / zoom
    # Output (x, y) is read at (a0 x + a1 y + a2, b0 x + b1 y + b2), about the middle.
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    a0, a1, b0, b1 = cos * mirror, -sin, sin * mirror, cos
    a2 = middle_x - a0 * middle_x - a1 * middle_y + across
    b2 = middle_y - b0 * middle_x - b1 * middle_y + down
    zero = tf.zeros_like(a0)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=batch,
        transforms=tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1),
        output_shape=shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )


def _windows(tf: Any, batch: Any, draw: _Draws, settings: Augmentation) -> Any:
    if settings.shift or settings.crop:
        batch = _resampled(tf, batch, draw, settings)
    if settings.scaling:
        batch *= (1.0 + draw.uniform(settings.scaling))[:, None, None]
    return batch


def _resampled(tf: Any, batch: Any, draw: _Draws, settings: Augmentation) -> Any:
    """Cut a part out, stretch it to the full length, and turn the window round by some steps."""
    steps = int(batch.shape[1])
    kept = 1.0 - tf.abs(draw.uniform(settings.crop))
    start = (draw.uniform(0.5) + 0.5) * (1.0 - kept) * (steps - 1)
    turn = tf.round(draw.uniform(settings.shift) * steps)
    turned = tf.math.floormod(tf.range(steps, dtype=tf.float32) + turn[:, None], float(steps))
    position = start[:, None] + turned * kept[:, None]
    low = tf.clip_by_value(tf.cast(tf.floor(position), tf.int32), 0, steps - 1)
    high = tf.minimum(low + 1, steps - 1)
    share = (position - tf.cast(low, tf.float32))[:, :, None]
    before = tf.gather(batch, low, batch_dims=1)
    return before + share * (tf.gather(batch, high, batch_dims=1) - before)
