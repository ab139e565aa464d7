"""Fitting one setting of a classical candidate."""

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, GateError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.classical_model import compile_classical
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.rows import Rows
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates import Candidate, Settings

_PILOT_ROWS = 2000
_SIZED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted candidate.

    Attributes:
        model: The fitted scikit-learn Pipeline; classes are indices into the data's labels.
        settings: What it was built with, shrunk where the device asked for it.
        train_s: Seconds that fitting took.
    """

    model: Any
    settings: Settings
    train_s: float


def fit(
    candidate: Candidate, settings: Settings, train: Dataset, *, seed: int, max_model_bytes: int
) -> Fitted:
    """Fit a setting, and smaller ones until the device can hold the flatbuffer.

    Args:
        candidate: A classical one.
        settings: A point of its space.
        train: Rows to fit on.
        seed: Of the estimator.
        max_model_bytes: The device's limit, for estimators that can be sized.

    Raises:
        DataError: The estimator cannot be fitted on these rows.
    """
    assert candidate.build is not None
    started = time.monotonic()
    while True:
        model = candidate.build(train, settings, seed)
        fit_quietly(model, train)
        if candidate.shrink is None:
            break
        size = len(measurable(model, train).tflite)
        smaller = candidate.shrink(settings, max_model_bytes / size)
        if size <= max_model_bytes or smaller is None:
            break
        settings = smaller
    return Fitted(model, settings, time.monotonic() - started)


def measurable(
    model: Any, rows: Dataset, precision: Precision = "float32", *, integers_only: bool = False
) -> Compiled:
    """Compile a model to be measured, not shipped: it is not compared with the original.

    `integers_only` is int8's form for a target that asks for it.

    Raises:
        UnsupportedError: It cannot be compiled to this precision.
    """
    few = rows.take(np.arange(min(_SIZED_ROWS, len(rows)))) if precision != "int8" else rows
    return compile_classical(
        model,
        Rows.of(features(few)),
        precision=precision,
        labels=rows.labels or None,
        compared=False,
        integers_only=integers_only and precision == "int8",
    )


def features(dataset: Dataset) -> NDArray[np.float64]:
    """Return the rows as scikit-learn gets them: float64, so that folding stays exact."""
    return dataset.flat.astype(np.float64)


def check_time(
    candidate: Candidate, settings: Settings, train: Dataset, *, seed: int, left_s: float
) -> None:
    """Refuse a fit that would not end in time, by a fit on some rows; small data always pass.

    Raises:
        GateError: It would take longer than `left_s`.
    """
    expected = estimated_seconds(candidate, settings, train, seed=seed)
    if expected > left_s:
        raise GateError(
            f"it would take about {expected:.0f} s, and {left_s:.0f} s were left",
            advice="Raise the time budget.",
        )


def estimated_seconds(
    candidate: Candidate, settings: Settings, train: Dataset, *, seed: int
) -> float:
    """Estimate one fit's seconds from a fit on some rows; 0 where the data are small anyway."""
    if len(train) <= 2 * _PILOT_ROWS:
        return 0.0
    assert candidate.build is not None
    pilot = some_rows(train, _PILOT_ROWS, seed=seed)
    model = candidate.build(pilot, settings, seed)
    started = time.monotonic()
    fit_quietly(model, pilot)
    taken = time.monotonic() - started
    return float(taken * (len(train) / len(pilot)) ** candidate.growth)


def some_rows(data: Dataset, count: int, *, seed: int) -> Dataset:
    """Return so many rows drawn at random, at least one of each class that has any."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(data))
    if data.labels:
        first = np.unique(data.y[order], return_index=True)[1]
        order = np.concatenate([order[first], np.delete(order, first)])
    return data.take(np.sort(order[:count]))


def fit_quietly(model: Any, train: Dataset) -> None:
    """Fit a pipeline on rows; a solver that stops early is judged by its score like any other.

    Raises:
        DataError: The estimator refuses the rows, or memory is exhausted.
    """
    with warnings.catch_warnings():
        # Warnings of convergence, of constant columns, of collinear ones: the score tells.
        warnings.simplefilter("ignore")
        try:
            model.fit(features(train), train.y)
        except (ValueError, MemoryError) as error:
            raise DataError(
                f"a model cannot be fitted: {str(error) or 'memory is exhausted'}",
                where=type(model.named_steps["model"]).__name__,
                advice="Leave the candidate out, or repair the data.",
            ) from error
