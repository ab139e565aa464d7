"""Optimizers and learning-rate schedules; only workers call this."""

import math
from collections.abc import Callable
from typing import Any

from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.phase import Phase


def rate_at(settings: NetSettings, peak: float, epochs: int, epoch: float) -> float:
    """Return the learning rate after so many (parts of) epochs, a plateau's cuts left out.

    Example:
        >>> round(rate_at(NetSettings(schedule="cosine").resolved(2), 1.0, 10, 5.0), 3)
        0.5
    """
    if epoch < settings.warmup_epochs:
        return peak * epoch / settings.warmup_epochs
    since = epoch - settings.warmup_epochs
    decay = settings.decay or 1.0
    if settings.schedule == "cosine":
        share = min(1.0, since / max(epochs - settings.warmup_epochs, 1e-9))
        return peak * 0.5 * (1.0 + math.cos(math.pi * share))
    if settings.schedule == "exponential":
        return float(peak * decay**since)
    if settings.schedule == "step":
        return float(peak * decay ** math.floor(since / (settings.decay_epochs or 1)))
    return peak


def make_optimizer(settings: NetSettings, phase: Phase) -> Any:
    """Build the Keras optimizer of a phase; its learning rate is set at every step.

    The gradients that it is given are summed over all replicas already.
    """
    import keras  # noqa: PLC0415 - only workers import Keras

    common: dict[str, Any] = {
        "learning_rate": phase.learning_rate,
        "global_clipnorm": settings.clip_norm,
    }
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "adam": (keras.optimizers.Adam, {}),
        "adamw": (keras.optimizers.AdamW, {"weight_decay": settings.weight_decay}),
        "sgd": (
            keras.optimizers.SGD,
            {"momentum": settings.momentum, "nesterov": settings.nesterov},
        ),
        "rmsprop": (keras.optimizers.RMSprop, {"momentum": settings.momentum}),
        "adagrad": (keras.optimizers.Adagrad, {}),
    }
    base, own = kinds[settings.optimizer]
    optimizer = _with_rates(base, phase.rate_of)(**common, **own)
    if settings.policy == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _with_rates(base: Any, rate_of: Callable[[str], float]) -> Any:
    """Return an optimizer class with a learning rate for each variable and no reduction."""

    class Rated(base):  # type: ignore[misc]  # Keras ships no types
        """The optimizer, as the training loop needs it."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            # What arrives here is TensorFlow's variable; the path is the Keras one's.
            path = self._trainable_variables[self._get_variable_index(variable)].path
            super().update_step(gradient, variable, learning_rate * rate_of(path))

        def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> list[Any]:
            # The loop has summed them: before clipping, which must see the whole gradient.
            return list(grads_and_vars)

    Rated.__name__ = base.__name__
    return Rated
