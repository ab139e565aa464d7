"""Counts what the model sees and says, and cuts the counts into telemetry windows.

Recording costs a copy of the encoded row into a buffer; the histograms are filled for many rows
at once, when the buffer is full or the window is cut. So the cost of a prediction hardly grows
with the number of features.
"""

from collections import Counter
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from fieldloop.codec import Prediction, TargetAnswer
from fieldloop.histogram import pack_counts
from fieldloop.profile import ReferenceProfile, monitored
from fieldloop.signature import Category, Signature
from fieldloop.targets import target_views
from fieldloop.telemetry import CONFIDENCE_EDGES, LATENCY_EDGES_MS, Clock, TelemetryWindow

_BUFFER_BYTES = 1 << 20
_BUFFER_ROWS = 256
_FOLD_AT = 4096
MODEL_ID_DIGITS = 16
"""Telemetry names a model by so many hex digits of its bundle's SHA-256."""

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
        self._edges = [np.asarray(item.bins.edges) for item in profile.quantities]
        self._low = np.asarray([item.low for item in profile.quantities])
        self._high = np.asarray([item.high for item in profile.quantities])
        self._model = sha256[:MODEL_ID_DIGITS]
        self._class_of, self._class_count = _classes(signature)
        self._buffer: NDArray[np.float32] | None = None
        self._filled = 0
        self._totals = (0, 0)
        self._reset(now)

    @property
    def totals(self) -> tuple[int, int]:
        """Predictions answered and failed since the monitor began, for the trial's verdict."""
        return self._totals

    def record(self, rows: NDArray[np.float32], predictions: list[Prediction]) -> None:
        """Count answered rows.

        Args:
            rows: Encoded rows, shape (n, …).
            predictions: Their answers, n.
        """
        for prediction in predictions:
            self._latencies.append(prediction.latency_ms)
            if prediction.targets:
                self._record_targets(prediction.targets)
            elif prediction.confidence is not None:
                self._classes.append(self._class_of[0].get(prediction.label, -1))
                self._confidences.append(prediction.confidence)
        if len(self._latencies) >= _FOLD_AT:
            self._fold()
        self._prediction_count += len(predictions)
        self._totals = (self._totals[0] + len(predictions), self._totals[1])
        if self._quantities:
            self._keep(rows)

    def _record_targets(self, targets: tuple[TargetAnswer, ...]) -> None:
        for class_of, answer in zip(self._class_of, targets, strict=True):
            if answer.confidence is not None:
                self._classes.append(class_of.get(answer.label, -1))
                self._confidences.append(answer.confidence)

    def reject(self) -> None:
        """Count a raw value that the signature refused."""
        self._rejected_count += 1

    def fail(self, error: BaseException) -> None:
        """Count a prediction that failed."""
        self._errors[type(error).__name__] += 1
        self._totals = (self._totals[0], self._totals[1] + 1)

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
        self._flush()
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
            latency_counts=_packed(self._latency_counts),
            confidence_counts=(
                tuple(_packed(row) for row in self._confidence_counts)
                if self._confidence_counts.any()
                else ()
            ),
            feature_counts=tuple(_packed(counts) for counts in self._features),
            missing_counts=_counts_or_nothing(self._missing),
            out_of_range_counts=_counts_or_nothing(self._outside),
            feedback_count=self._feedback_count,
            feedback_correct_count=self._feedback_correct_count,
        )

    def _fold(self) -> None:
        """Turn the lists of single values into counts, so that memory stays flat."""
        latency = np.searchsorted(_LATENCY_EDGES, self._latencies, side="right")
        self._latency_counts += np.bincount(latency, minlength=len(_LATENCY_EDGES) + 1)
        if self._confidences:
            cells = np.searchsorted(_CONFIDENCE_EDGES, self._confidences, side="right")
            classes = np.asarray(self._classes)
            known = classes >= 0
            np.add.at(self._confidence_counts, (classes[known], cells[known]), 1)
        self._latencies.clear()
        self._classes.clear()
        self._confidences.clear()

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
        self._latencies: list[float] = []
        self._classes: list[int] = []
        self._confidences: list[float] = []
        self._features = [np.zeros(len(edges) + 1, dtype=np.int64) for edges in self._edges]
        self._missing = np.zeros(len(self._edges), dtype=np.int64)
        self._outside = np.zeros(len(self._edges), dtype=np.int64)

    def _keep(self, rows: NDArray[np.float32]) -> None:
        count = len(rows)
        buffer = self._buffer
        if buffer is None:
            size = max(rows[:1].nbytes, 1)
            capacity = max(1, min(_BUFFER_ROWS, _BUFFER_BYTES // size))
            buffer = self._buffer = np.empty((capacity, *rows.shape[1:]), dtype=np.float32)
        if self._filled + count > len(buffer):
            self._flush()
        if count > len(buffer):
            self._count(rows)
            return
        buffer[self._filled : self._filled + count] = rows
        self._filled += count

    def _flush(self) -> None:
        if self._buffer is not None and self._filled:
            self._count(self._buffer[: self._filled])
            self._filled = 0

    def _count(self, rows: NDArray[np.float32]) -> None:
        values = monitored(self._signature, rows)
        self._missing += np.isnan(values).sum(axis=0)
        with np.errstate(invalid="ignore"):
            self._outside += ((values < self._low) | (values > self._high)).sum(axis=0)
        finite = np.isfinite(values)
        for column, edges in enumerate(self._edges):
            cells = np.searchsorted(edges, values[finite[:, column], column], side="right")
            self._features[column] += np.bincount(cells, minlength=len(edges) + 1)


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


def _packed(counts: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(pack_counts(counts.tolist()))


def _counts_or_nothing(counts: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(counts.tolist()) if counts.any() else ()
