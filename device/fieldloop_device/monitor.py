"""Counts what the model sees and says, and cuts the counts into telemetry windows.

Recording appends to two lists; the histograms are filled for many rows at once, when the lists are
long or the window is cut. So the cost of a prediction hardly grows
with the number of features.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fieldloop.codec import Prediction, TargetAnswer
from fieldloop.histogram import write_counts
from fieldloop.profile import ReferenceProfile, monitored
from fieldloop.signature import Category, Signature
from fieldloop.targets import target_views
from fieldloop.telemetry import (
    CONFIDENCE_EDGES,
    LATENCY_EDGES_MS,
    Clock,
    TelemetryWindow,
)
from fieldloop_device.counting import BinCounter, RunCounter
from fieldloop_device.resources import ResourceMeter

_FOLD_AT = 512
_FOLD_BYTES = 1 << 20
"""Rows are kept until there are so many of them, or until they hold so much."""

MODEL_ID_DIGITS = 16
"""Telemetry names a model by so many hex digits of its bundle's SHA-256."""

_VARIED_CELLS = 4
"""A quantity whose reference fills so many cells is measured; with fewer it may be a switch."""

_Answer = tuple[float, Category | None, float | None, tuple[TargetAnswer, ...]]
"""Latency, label, confidence and targets of one prediction."""

_LATENCY_EDGES = np.asarray(LATENCY_EDGES_MS)
_CONFIDENCE_EDGES = np.asarray(CONFIDENCE_EDGES)


class Monitor:
    """Counts for one model; not thread-safe, its owner holds a lock.

    Args:
        signature: The model's contract.
        profile: The reference whose frozen bins are counted into.
        sha256: Hash of the bundle.
        now: Clocks at the beginning of the first window.
    """

    def __init__(
        self, signature: Signature, profile: ReferenceProfile, *, sha256: str, now: Clock
    ) -> None:
        self._signature = signature
        self._quantities = profile.quantities
        edges = [np.asarray(item.bins.edges) for item in profile.quantities]
        self._low = np.asarray([item.low for item in profile.quantities])
        self._high = np.asarray([item.high for item in profile.quantities])
        self._model = sha256[:MODEL_ID_DIGITS]
        self._class_of, self._class_count = _classes(signature)
        self._bins = BinCounter(edges)
        self._runs = RunCounter(_varied(signature, profile))
        self._meter = ResourceMeter()
        self._answers: list[_Answer] = []
        self._rows: list[NDArray[np.float32]] = []
        self._capacity = 1  # until the size of a row is known
        self._answered = 0
        self._failed = 0
        self._reset(now)

    @property
    def totals(self) -> tuple[int, int]:
        """Predictions answered and failed since the monitor began, for the trial's verdict."""
        return self._answered + len(self._answers), self._failed

    def record(self, rows: NDArray[np.float32], predictions: Sequence[Prediction]) -> None:
        """Count answered rows.

        Args:
            rows: Encoded rows, shape (n, …); they are kept for a while, nobody may change them.
            predictions: Their answers, n.
        """
        # Only what is counted is kept: the outputs of a prediction may be large.
        for item in predictions:
            self._answers.append((item.latency_ms, item.label, item.confidence, item.targets))
        if self._quantities:
            self._rows.append(rows)
        if len(self._answers) >= self._capacity:
            self._fold()

    def reject(self) -> None:
        """Count a raw value that the signature refused."""
        self._rejected_count += 1

    def fail(self, error: BaseException) -> None:
        """Count a prediction that failed."""
        self._errors[type(error).__name__] += 1
        self._failed += 1

    def feedback(self, *, correct: bool) -> None:
        """Count a prediction whose truth became known."""
        self._feedback_count += 1
        self._feedback_correct_count += correct

    def cut(self, now: Clock) -> TelemetryWindow | None:
        """End the window and begin the next.

        Returns:
            The window, still without boot and number (the outbox gives them); None if nothing
            happened in it.
        """
        self._fold()
        has_news = (
            self._prediction_count or self._rejected_count or self._errors or self._feedback_count
        )
        window = self._window(now) if has_news else None
        self._reset(now)
        return window

    def _window(self, now: Clock) -> TelemetryWindow:
        return TelemetryWindow(
            boot=0,
            seq=0,
            model=self._model,
            start=self._start,
            end=now,
            prediction_count=self._prediction_count,
            rejected_count=self._rejected_count,
            error_counts=dict(self._errors),
            latency_counts=_text(self._latency_counts),
            confidence_counts=(
                tuple(_text(row) for row in self._confidence_counts)
                if self._confidence_counts.any()
                else ()
            ),
            feature_counts=tuple(_text(counts) for counts in self._bins.take()),
            missing_counts=_counts_or_nothing(self._missing),
            out_of_range_counts=_counts_or_nothing(self._outside),
            stuck_counts=_counts_or_nothing(self._stuck),
            resources=self._meter.read(),
            feedback_count=self._feedback_count,
            feedback_correct_count=self._feedback_correct_count,
        )

    def _fold(self) -> None:
        """Turn the lists of single answers and rows into counts, so that memory stays flat."""
        answers, rows = self._answers, self._rows
        if not answers:
            return
        self._answers, self._rows = [], []
        self._prediction_count += len(answers)
        self._answered += len(answers)
        latency = np.searchsorted(_LATENCY_EDGES, [item[0] for item in answers], side="right")
        self._latency_counts += np.bincount(latency, minlength=len(_LATENCY_EDGES) + 1)
        self._count_confidences(answers)
        self._capacity = _FOLD_AT
        if self._quantities:
            self._count(np.concatenate(rows) if len(rows) > 1 else rows[0])
            self._capacity = max(1, min(_FOLD_AT, _FOLD_BYTES // max(rows[-1][:1].nbytes, 1)))

    def _count_confidences(self, answers: Sequence[_Answer]) -> None:
        places: list[int] = []
        confidences: list[float] = []
        for _, label, confidence, targets in answers:
            if targets:
                for class_of, each in zip(self._class_of, targets, strict=True):
                    if each.confidence is not None:
                        places.append(class_of.get(each.label, -1))
                        confidences.append(each.confidence)
            elif confidence is not None:
                places.append(self._class_of[0].get(label, -1))
                confidences.append(confidence)
        if confidences:
            cells = np.searchsorted(_CONFIDENCE_EDGES, confidences, side="right")
            classes = np.asarray(places)
            known = classes >= 0
            np.add.at(self._confidence_counts, (classes[known], cells[known]), 1)

    def _reset(self, now: Clock) -> None:
        self._start = now
        self._prediction_count = 0
        self._rejected_count = 0
        self._feedback_count = 0
        self._feedback_correct_count = 0
        self._errors: Counter[str] = Counter()
        self._latency_counts = np.zeros(len(_LATENCY_EDGES) + 1, dtype=np.int64)
        self._confidence_counts = np.zeros(
            (self._class_count, len(_CONFIDENCE_EDGES) + 1), dtype=np.int64
        )
        self._missing = np.zeros(len(self._quantities), dtype=np.int64)
        self._outside = np.zeros(len(self._quantities), dtype=np.int64)
        self._stuck = np.zeros(len(self._quantities), dtype=np.int64)

    def _count(self, rows: NDArray[np.float32]) -> None:
        values = monitored(self._signature, rows)
        missing = np.isnan(values)
        if missing.any():
            self._missing += missing.sum(axis=0)
        with np.errstate(invalid="ignore"):
            outside = (values < self._low) | (values > self._high)
        if outside.any():
            self._outside += outside.sum(axis=0)
        self._stuck += self._runs.count(values)
        self._bins.add(values)


def _varied(signature: Signature, profile: ReferenceProfile) -> NDArray[np.bool_]:
    """Tell which quantities varied in training; categories and switches may well stand still."""
    categorical = {feature.name for feature in signature.features if feature.categories}
    return np.asarray(
        [
            item.name not in categorical and sum(map(bool, item.counts)) >= _VARIED_CELLS
            for item in profile.quantities
        ],
        dtype=np.bool_,
    )


def _classes(signature: Signature) -> tuple[tuple[dict[Category | None, int], ...], int]:
    """Return, for each target, the row of each label in the counts; and how many rows there are."""
    views = target_views(signature)
    labels = [view.counted_labels for view in views] if views else [signature.labels]
    starts = [0, *accumulate(map(len, labels))]
    rows: tuple[dict[Category | None, int], ...] = tuple(
        {label: start + place for place, label in enumerate(known)}
        for start, known in zip(starts, labels, strict=False)
    )
    return rows, starts[-1]


def _text(counts: NDArray[np.int64]) -> str:
    return write_counts(counts.tolist())


def _counts_or_nothing(counts: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(counts.tolist()) if counts.any() else ()
