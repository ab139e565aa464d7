"""What every trial of a run shares."""

import time
from dataclasses import dataclass

from fieldloop_cloud.compile.quantize import calibration_rows
from fieldloop_cloud.compile.worker import Progress
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.release.targets import Target


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """Rows, device and rules of a run.

    Attributes:
        train: Rows to fit on; feature ranges are theirs.
        validation: Rows to measure and choose on.
        target: The device class.
        metric: What to choose by.
        epsilon: Largest loss of score that a quantized variant may show.
        seed: Of everything random.
        deadline: End of the budget on `time.monotonic`'s clock.
        progress: Receives what happens.
    """

    train: Dataset
    validation: Dataset
    target: Target
    metric: str
    epsilon: float
    seed: int
    deadline: float
    progress: Progress

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left."""
        return self.deadline - time.monotonic()

    def calibration(self) -> Dataset:
        """Return the calibration rows: training rows only, each class by its share."""
        return self.train.take(calibration_rows(self.train.y, seed=self.seed))
