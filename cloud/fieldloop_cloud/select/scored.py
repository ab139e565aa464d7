"""What was measured of each variant: the rows that the choice is made from."""

from typing import Any

import msgspec

from fieldloop.manifest import Precision
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.quantize import Gate


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one variant: a candidate in one precision.

    Attributes:
        candidate: For example `random-forest`.
        parameters: Its hyper-parameters as text.
        precision: How it was quantized.
        metric: The score's name.
        score: On the validation rows, through codec and flatbuffer.
        score_low: Lower end of the score's 95 % interval.
        score_high: Upper end.
        size_bytes: Of the flatbuffer.
        latency_p50_ms: One row through the interpreter on this machine, median.
        latency_p90_ms: The same, 90th percentile.
        train_s: Seconds that training the candidate took.
        gate: Whether it may be chosen.
        over_budget: Why it does not fit the device; empty if it does.
        min_runtime: Lowest TFLite runtime that loads it.
        calibration_sha256: Hash of the calibration rows; empty if none were needed.
    """

    candidate: str
    parameters: dict[str, str]
    precision: Precision
    metric: str
    score: float
    score_low: float
    score_high: float
    size_bytes: int
    latency_p50_ms: float
    latency_p90_ms: float
    train_s: float
    gate: Gate
    over_budget: str = ""
    min_runtime: str = ""
    calibration_sha256: str = ""

    @property
    def name(self) -> str:
        """The variant's name: `<candidate>.<precision>`."""
        return f"{self.candidate}.{self.precision}"


class Scored(Measured, frozen=True, kw_only=True):
    """A measured variant with its flatbuffer.

    Attributes:
        compiled: Flatbuffer, signature and parity evidence (`compile.api.Compiled`).
        model: The fitted scikit-learn object, or the path of a saved Keras model; kept in memory
            only, None after `Run.load`.
    """

    compiled: Compiled
    model: Any = None


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate or a variant that is not in the front, and why."""

    name: str
    reason: str
