"""Search spaces as plain data: what may be varied, and how a trial draws from it.

A space says nothing about the engine that searches it; `draw` is the only place that speaks to
Optuna's trial, and only through its `suggest_` methods.
"""

from dataclasses import dataclass
from typing import Any, Protocol

Settings = dict[str, Any]
"""Hyper-parameters of one candidate: numbers and words only, so that they travel as JSON."""


@dataclass(frozen=True, slots=True)
class Real:
    """A real number between two ends, both included; `log` draws evenly over the exponents."""

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number between two ends, both included."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True, slots=True)
class Among:
    """One of some numbers or words."""

    choices: tuple[str | int | float | bool, ...]


Space = dict[str, Real | Whole | Among]
"""What may be varied of a candidate, by the names of its settings."""


class Drawing(Protocol):
    """The part of `optuna.trial.Trial` that a space needs."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: None = None, log: bool = False
    ) -> float:
        """Draw a real number."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Draw a whole number."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Draw one of some values."""


def draw(trial: Drawing, prefix: str, space: Space) -> Settings:
    """Draw one setting of each dimension; a trial knows them as `<prefix>.<name>`."""
    drawn: Settings = {}
    for name, dimension in space.items():
        full = f"{prefix}.{name}"
        if isinstance(dimension, Real):
            drawn[name] = trial.suggest_float(
                full, dimension.low, dimension.high, log=dimension.log
            )
        elif isinstance(dimension, Whole):
            drawn[name] = trial.suggest_int(full, dimension.low, dimension.high, log=dimension.log)
        else:
            drawn[name] = trial.suggest_categorical(full, dimension.choices)
    return drawn


def holds(space: Space, settings: Settings) -> bool:
    """Whether settings are a point of a space.

    Example:
        >>> holds({"C": Real(0.1, 10.0)}, {"C": 1.0}), holds({"C": Real(0.1, 10.0)}, {"C": 100.0})
        (True, False)
    """
    return settings.keys() == space.keys() and all(
        settings[name] in dimension.choices
        if isinstance(dimension, Among)
        else dimension.low <= settings[name] <= dimension.high
        for name, dimension in space.items()
    )
