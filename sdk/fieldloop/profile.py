"""The reference profile: what the training data looked like, frozen for the field.

A profile lists the *monitored quantities* of a model's input. For tabular input these are the
features themselves; for an image they are a few statistics that move when a camera or sensor
does. Device and cloud compute them with the one function here, `monitored`, so that a difference
between profile and telemetry is a difference in the world.
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.histogram import Bins
from fieldloop.layout import layout
from fieldloop.signature import Signature


class MonitoredQuantity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One quantity that the device counts.

    Attributes:
        name: A feature's name, or `image.mean`, `image.contrast`, `image.sharpness`,
            `image.center_row`, `image.center_column`.
        bins: Frozen edges; for a categorical feature they lie between the codes.
        counts: Reference counts over the bins, from training data.
        low: Smallest reference value.
        high: Largest reference value.
        missing_count: How many reference values were missing.
    """

    name: str
    bins: Bins
    counts: tuple[int, ...]
    low: float
    high: float
    missing_count: int = 0


class CountedTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several targets whose answers are counted: its name and number of classes."""

    name: str
    class_count: int


class ReferenceProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The frozen reference.

    Attributes:
        quantities: Monitored quantities, in the order of the telemetry's histograms.
        class_counts: How often each label was predicted on held-out reference rows.
        confidence_counts: For each class, counts of the winning probability over
            `telemetry.CONFIDENCE_EDGES` on held-out reference rows; empty without probabilities.
        confidence_accuracy: For each class and cell the share that was right there (isotonic in
            the confidence), from held-out rows: turns confidence counts into estimated accuracy.
        targets: For a model of several targets those with probabilities: the classes above are
            theirs, one target after the other. Empty for a model of one.
        row_count: Reference rows.
    """

    quantities: tuple[MonitoredQuantity, ...]
    class_counts: tuple[int, ...] = ()
    confidence_counts: tuple[tuple[int, ...], ...] = ()
    confidence_accuracy: tuple[tuple[float, ...], ...] = ()
    targets: tuple[CountedTarget, ...] = ()
    row_count: int = 0


IMAGE_QUANTITIES: tuple[str, ...] = (
    "image.mean",
    "image.contrast",
    "image.sharpness",
    "image.center_row",
    "image.center_column",
)


def monitored_names(signature: Signature) -> tuple[str, ...]:
    """Return the names of a model's monitored quantities, in order."""
    pictured = IMAGE_QUANTITIES if signature.image is not None else ()
    return (*pictured, *signature.feature_names)


def monitored(signature: Signature, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the monitored quantities of encoded rows.

    Args:
        signature: The model's contract.
        rows: Real-valued (not quantized) rows: (n, features), or for images (n, height, width,
            channels) or (n, height · width · channels); of several inputs flat, as in `layout`.

    Returns:
        Shape (n, quantities), float64; NaN where a value is missing.
    """
    table = np.asarray(rows, dtype=np.float64).reshape(len(rows), math.prod(rows.shape[1:]))
    places = layout(signature)
    spec = signature.image
    if spec is None:
        return table[:, places.features]
    images = table[:, places.image].reshape(len(rows), spec.height, spec.width, spec.channels)
    statistics = _image_statistics(images.mean(axis=3))
    return np.hstack([statistics, table[:, places.features]])


def _image_statistics(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mean, contrast, sharpness and the centre of brightness; images is (n, h, w)."""
    mean = images.mean(axis=(1, 2))
    contrast = images.std(axis=(1, 2))
    # Root mean square: a blurred edge has the same sum of steps, but not of their squares.
    steps = np.diff(images, axis=2)
    sharpness = np.sqrt(np.square(steps).mean(axis=(1, 2))) if images.shape[2] > 1 else mean
    # Weights are lifted to be non-negative, so the centre lies inside the picture.
    weights = images - images.min(axis=(1, 2), keepdims=True)
    total = np.maximum(weights.sum(axis=(1, 2)), np.finfo(np.float64).tiny)
    rows = (weights.sum(axis=2) * np.arange(images.shape[1])).sum(axis=1) / total
    columns = (weights.sum(axis=1) * np.arange(images.shape[2])).sum(axis=1) / total
    return np.stack([mean, contrast, sharpness, rows, columns], axis=1)
