"""Counts how a challenger's answers agree with the champion's."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from fieldloop.codec import Prediction
from fieldloop.histogram import pack_counts
from fieldloop.signature import Category, OutputRole, Signature
from fieldloop.targets import target_views
from fieldloop.telemetry import DIFFERENCE_EDGES, LATENCY_EDGES_MS, ShadowCounts

Said = tuple[Category | None, float | None]
"""What a model says about one target: its label, or its value."""

_CLASS_ROLES: tuple[OutputRole, ...] = ("probabilities", "label", "decision")


def said(prediction: Prediction) -> list[Said]:
    """Return a prediction as label and value of each target."""
    return [(each.label, each.value) for each in prediction.targets or (prediction,)]


def question(signature: Signature) -> list[bool]:
    """Say for each target whether it is answered by a value (or else by a label).

    Two models can be compared if they answer the same question.
    """
    views = [view.signature for view in target_views(signature)] or [signature]
    return [
        view.output("value") is not None and not any(map(view.output, _CLASS_ROLES))
        for view in views
    ]


class ShadowTally:
    """Counts for one champion and one challenger; not thread-safe, its owner holds a lock.

    Args:
        champion: Signature of the model whose answers count.
        model: Names the challenger in telemetry.
    """

    def __init__(self, champion: Signature, model: str) -> None:
        self._model = model
        self._is_value = question(champion)
        targets = champion.targets
        labels: list[Sequence[Category]] = [
            () if is_value else targets[number].labels if targets else ()
            for number, is_value in enumerate(self._is_value)
        ]
        self._rows = [{label: row for row, label in enumerate(known)} for known in labels]
        # A target whose labels are not listed, as of a clustering, has one row for all of them.
        sizes = [
            0 if is_value else max(len(known), 1)
            for known, is_value in zip(labels, self._is_value, strict=True)
        ]
        self._starts = [sum(sizes[:number]) for number in range(len(sizes))]
        self._class_count = sum(sizes)
        self._reset()

    def _reset(self) -> None:
        self._row_count = 0
        self._agreed = [0] * self._class_count
        self._differed = [0] * self._class_count
        value_count = sum(self._is_value)
        self._differences = np.zeros((value_count, len(DIFFERENCE_EDGES) + 1), dtype=np.int64)
        self._sums = [0.0] * value_count
        self._latencies = np.zeros(len(LATENCY_EDGES_MS) + 1, dtype=np.int64)
        self._errors: Counter[str] = Counter()

    def record(
        self, champion: Sequence[Said], challenger: Sequence[Said], latency_ms: float
    ) -> None:
        """Count one input that both answered."""
        self._row_count += 1
        self._latencies[np.searchsorted(LATENCY_EDGES_MS, latency_ms, side="right")] += 1
        value_row = 0
        for number, (old, new) in enumerate(zip(champion, challenger, strict=True)):
            if self._is_value[number]:
                self._record_values(value_row, old[1], new[1])
                value_row += 1
                continue
            row = self._starts[number] + self._rows[number].get(old[0], 0)  # type: ignore[arg-type]
            counts = self._agreed if old[0] == new[0] else self._differed
            counts[row] += 1

    def _record_values(self, row: int, old: float | None, new: float | None) -> None:
        difference = abs(old - new) if old is not None and new is not None else float("inf")
        if not np.isfinite(difference):
            self._errors["NotFinite"] += 1
            return
        self._differences[row, np.searchsorted(DIFFERENCE_EDGES, difference, side="right")] += 1
        self._sums[row] += difference

    def fail(self, name: str) -> None:
        """Count an input that the challenger did not answer, by the error's type name."""
        self._errors[name] += 1

    def cut(self) -> ShadowCounts | None:
        """Return the counts and begin anew; None if there are none."""
        if not self._row_count and not self._errors:
            return None
        counts = ShadowCounts(
            model=self._model,
            row_count=self._row_count,
            agreed_counts=tuple(self._agreed),
            differed_counts=tuple(self._differed),
            difference_counts=tuple(tuple(pack_counts(row.tolist())) for row in self._differences),
            difference_sums=tuple(self._sums),
            latency_counts=tuple(pack_counts(self._latencies.tolist())),
            error_counts=dict(self._errors),
        )
        self._reset()
        return counts
