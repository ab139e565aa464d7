"""Fitting a classical candidate: its portfolio on the training rows, the best by validation."""

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates import Candidate, Settings
from fieldloop_cloud.train.metrics import estimate

_PILOT_ROWS = 2000
_SIZED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted candidate.

    Attributes:
        model: The fitted scikit-learn Pipeline; classes are indices into the data's labels.
        parameters: The setting as text.
        train_s: Seconds for the whole portfolio.
    """

    model: Any
    parameters: dict[str, str]
    train_s: float


def fit(
    candidate: Candidate,
    train: Dataset,
    validation: Dataset,
    *,
    metric: str,
    seed: int,
    max_model_bytes: int,
    deadline: float,
) -> Fitted:
    """Fit each setting of the portfolio until the deadline and keep the best.

    Args:
        candidate: A classical one.
        train: Rows to fit on.
        validation: Rows to choose the setting by.
        metric: What to choose by; more is better.
        seed: Of the estimators.
        max_model_bytes: The device's limit, for estimators that can be sized.
        deadline: On `time.monotonic`'s clock; at least one setting is fitted.
    """
    started = time.monotonic()
    best: tuple[float, Any, dict[str, Any]] | None = None
    for entry in candidate.portfolio:
        if best is not None and time.monotonic() >= deadline:
            break
        model, settings = _fitted(candidate, train, entry, seed, max_model_bytes)
        said = np.asarray(model.predict(features(validation)))
        score = estimate(metric, validation.y, said).value
        if best is None or score > best[0]:
            best = (score, model, settings)
    assert best is not None
    _, model, settings = best
    parameters = {key: str(value) for key, value in settings.items()}
    return Fitted(model, parameters, time.monotonic() - started)


def _fitted(
    candidate: Candidate, train: Dataset, settings: Settings, seed: int, max_model_bytes: int
) -> tuple[Any, Settings]:
    """Fit a setting, and smaller ones until the device can hold the flatbuffer."""
    assert candidate.build is not None
    while True:
        model = candidate.build(train, settings, seed)
        _fit_quietly(model, train)
        if candidate.shrink is None:
            return model, settings
        example = features(train.take(np.arange(min(_SIZED_ROWS, len(train)))))
        size = len(to_tflite(model, example=example).tflite)
        smaller = candidate.shrink(settings, max_model_bytes / size)
        if size <= max_model_bytes or smaller is None:
            return model, settings
        settings = smaller


def features(dataset: Dataset) -> NDArray[np.float64]:
    """Return the rows as scikit-learn gets them: float64, so that folding stays exact."""
    return dataset.flat.astype(np.float64)


def estimated_seconds(candidate: Candidate, train: Dataset, *, seed: int) -> float:
    """Estimate one fit's seconds from a fit on some rows; 0 where the data are small anyway."""
    if len(train) <= 2 * _PILOT_ROWS:
        return 0.0
    assert candidate.build is not None
    random = np.random.default_rng(seed)
    pilot = train.take(np.sort(random.permutation(len(train))[:_PILOT_ROWS]))
    model = candidate.build(pilot, candidate.portfolio[0], seed)
    started = time.monotonic()
    _fit_quietly(model, pilot)
    taken = time.monotonic() - started
    return float(taken * (len(train) / len(pilot)) ** candidate.growth)


def _fit_quietly(model: Any, train: Dataset) -> None:
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - only when training

    with warnings.catch_warnings():
        # A solver that stops early is judged by its score on the validation rows like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            model.fit(features(train), train.y)
        except (ValueError, MemoryError) as error:
            raise DataError(
                f"a model cannot be fitted: {str(error) or 'memory is exhausted'}",
                where=type(model.named_steps["model"]).__name__,
                advice="Leave the candidate out, or repair the data.",
            ) from error
