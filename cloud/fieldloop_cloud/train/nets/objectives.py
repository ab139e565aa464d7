"""Losses of one row each, shape (n,), so that weights and replicas can share them out.

Class targets come as indices, values standardised. Only workers call this.
"""

from collections.abc import Callable
from typing import Any

from fieldloop_cloud.train.nets.settings import NetSettings

Loss = Callable[[Any, Any], Any]


def row_losses(settings: NetSettings, classes: int) -> Loss:
    """Return the loss of a batch's rows: (targets (n,), answers (n, width)) -> (n,)."""
    import keras  # noqa: PLC0415 - only workers import Keras
    from keras import ops  # noqa: PLC0415 - only workers import Keras

    objective, smoothing = settings.objective, settings.label_smoothing
    if objective in ("mse", "mae", "huber"):
        make = {
            "mse": keras.losses.mean_squared_error,
            "mae": keras.losses.mean_absolute_error,
            "huber": lambda y, said: keras.losses.huber(y, said, delta=settings.huber_delta),
        }[objective]
        return lambda y, said: make(ops.expand_dims(ops.cast(y, "float32"), 1), said)
    if objective == "binary_cross_entropy":
        return lambda y, said: keras.losses.binary_crossentropy(
            ops.expand_dims(ops.cast(y, "float32"), 1), said, label_smoothing=smoothing
        )

    def one_hot(y: Any) -> Any:
        return ops.one_hot(ops.cast(y, "int32"), classes, dtype="float32")

    if objective == "focal":
        return lambda y, said: keras.losses.categorical_focal_crossentropy(
            one_hot(y), said, alpha=1.0, gamma=settings.focal_gamma, label_smoothing=smoothing
        )
    return lambda y, said: keras.losses.categorical_crossentropy(
        one_hot(y), said, label_smoothing=smoothing
    )
