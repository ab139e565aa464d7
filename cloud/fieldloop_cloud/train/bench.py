"""What every trial of a run shares."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.quantize import calibration_rows
from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.split import Split
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.train.transfer.backbone import Backbone


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One turn of a cross-validation: positions in the bench's training rows, ascending."""

    fit: NDArray[np.int64]
    held: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Rows, device and rules of a run.

    Attributes:
        train: Rows to fit on; feature ranges are theirs.
        validation: Rows to measure and choose on. With folds they are the training rows that a
            fold holds out, and answers for them come from models that did not see them.
        target: The device class.
        metric: What to choose by.
        epsilon: Largest loss of score that a quantized variant may show.
        seed: Of everything random.
        deadline: End of the budget on `time.monotonic`'s clock.
        progress: Receives what happens.
        folds: Of the cross-validation; empty for a single validation part.
        backbone: What transfer starts from; None where there is none.
    """

    train: Dataset
    validation: Dataset
    target: Target
    metric: str
    epsilon: float
    seed: int
    deadline: float
    progress: Progress = quiet
    folds: tuple[Fold, ...] = ()
    backbone: Backbone | None = None

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.deadline - time.monotonic()

    def calibration(self) -> Dataset:
        """Return the calibration rows: training rows only, each class by its share."""
        return self.train.take(calibration_rows(self.train.y, seed=self.seed))

    def held_out_once(self) -> "Bench":
        """Return the bench with its last fold as the one validation part: nets train only once."""
        if not self.folds:
            return self
        last = self.folds[-1]
        return replace(
            self,
            train=self.train.take(last.fit).ranged(),
            validation=self.train.take(last.held),
            folds=(),
        )

    def until(self, deadline: float, *, progress: Progress) -> "Bench":
        """Return the bench with another deadline and listener."""
        return replace(self, deadline=deadline, progress=progress)

    def portable(self) -> "Bench":
        """Return the bench without what cannot travel to another process."""
        return replace(self, progress=quiet)


def bench_of(data: Dataset, parts: Split, **rules: Any) -> Bench:
    """Return the bench of a split; `rules` are the bench's attributes other than rows."""
    if not parts.folds:
        return Bench(
            train=data.take(parts.train).ranged(),
            validation=data.take(parts.validation),
            **rules,
        )
    rows = parts.development
    held = np.sort(np.concatenate([turn.validation for turn in parts.folds]))
    folds = tuple(
        Fold(np.searchsorted(rows, turn.train), np.searchsorted(rows, turn.validation))
        for turn in parts.folds
    )
    return Bench(train=data.take(rows).ranged(), validation=data.take(held), folds=folds, **rules)
