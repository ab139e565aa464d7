"""One stretch of a net's training: what is trained, for how long, how fast."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _everything(model: Any) -> None:
    model.trainable = True


def _evenly(path: str) -> float:  # noqa: ARG001 - every variable alike
    return 1.0


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training, with an optimizer of its own.

    Attributes:
        name: For people, such as `head`.
        epochs: Most epochs.
        learning_rate: At its highest.
        prepare: Called with the Keras model before the phase: sets what is trainable.
        rate_of: Factor on the learning rate of the variable with this path.
    """

    name: str
    epochs: int
    learning_rate: float
    prepare: Callable[[Any], None] = _everything
    rate_of: Callable[[str], float] = _evenly
