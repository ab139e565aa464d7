"""Cross-validation: what a setting answers for rows that it was not fitted on, every row once.

The flatbuffers of the folds answer, in each precision, so that score and precision gate see what a
device would say. The model that ships is fitted on all the rows afterwards. Folds are given to
joblib: under an active `joblib.parallel_config` (threads, Dask, Ray) its backend fits them.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import GateError
from fieldloop.manifest import Precision
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates import Candidate, Settings
from fieldloop_cloud.train.bench import Bench, Fold
from fieldloop_cloud.train.classical import Fitted, features, fit, measurable
from fieldloop_cloud.train.measure import Answers, answers
from fieldloop_cloud.train.metrics import Estimate, estimate

_HOPELESS = 1.5
"""Standard errors that a first fold may lie below the best score before the rest is spared."""


@dataclass(frozen=True, slots=True, eq=False)
class Crossed:
    """The models of all folds.

    Attributes:
        bench: What they were fitted and are measured on.
        models: One for each of the bench's folds.
        train_s: Seconds that fitting them took.
    """

    bench: Bench
    models: tuple[Fitted, ...]
    train_s: float

    def answers(self, precision: Precision) -> Answers:
        """Return out-of-fold answers in the order of the bench's rows, by the flatbuffers.

        Raises:
            UnsupportedError: A fold's model cannot be compiled to this precision.
        """
        train = self.bench.train
        parts = [
            _fold_answers(
                fitted,
                precision,
                train.take(fold.fit),
                train.take(fold.held),
                integers_only=self.bench.target.integers_only,
            )
            for fold, fitted in zip(self.bench.folds, self.models, strict=True)
        ]
        back = np.argsort(np.concatenate([fold.held for fold in self.bench.folds]))
        named = [part.arrays() for part in parts]
        return Answers.from_arrays(
            {name: np.concatenate([part[name] for part in named])[back] for name in named[0]}
        )


def cross(
    candidate: Candidate, settings: Settings, bench: Bench, *, to_beat: float | None
) -> Crossed:
    """Fit a setting on every fold.

    Raises:
        GateError: The first fold of a costly candidate is so far below `to_beat` that the others
            cannot mend it.
    """
    from joblib import Parallel, delayed  # noqa: PLC0415 - only when training

    started = time.monotonic()
    first = _fit_fold(candidate, settings, bench, bench.folds[0])
    if candidate.is_costly and to_beat is not None:
        _check_hope(_fold_score(first, bench), to_beat)
    others = Parallel()(
        delayed(_fit_fold)(candidate, settings, bench.portable(), fold) for fold in bench.folds[1:]
    )
    return Crossed(bench, (first, *others), time.monotonic() - started)


def _fit_fold(candidate: Candidate, settings: Settings, bench: Bench, fold: Fold) -> Fitted:
    return fit(
        candidate,
        settings,
        bench.train.take(fold.fit),
        seed=bench.seed,
        max_model_bytes=bench.target.max_model_bytes,
    )


def _fold_score(fitted: Fitted, bench: Bench) -> Estimate:
    held = bench.train.take(bench.folds[0].held)
    said: NDArray[np.generic] = np.asarray(fitted.model.predict(features(held)))
    return estimate(bench.metric, held.y, said, seed=bench.seed)


def _check_hope(score: Estimate, to_beat: float) -> None:
    if score.value + _HOPELESS * score.standard_error < to_beat:
        raise GateError(
            f"its first fold reached {score.value:.3f} where the best has {to_beat:.3f}; the "
            "other folds were spared",
            advice="Name it with --candidate to see it measured in full.",
        )


def _fold_answers(
    fitted: Fitted, precision: Precision, rows: Dataset, held: Dataset, *, integers_only: bool
) -> Answers:
    made = measurable(fitted.model, rows, precision, integers_only=integers_only)
    return answers(made.tflite, made.signature, held.X)
