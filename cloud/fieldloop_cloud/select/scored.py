"""What was measured of each variant: the rows that the choice is made from."""

from typing import Any

import msgspec

from fieldloop.manifest import Precision
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.quantize import Gate
from fieldloop_cloud.select.criteria.verdicts import Assessment
from fieldloop_cloud.train.nets.job import Epoch


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
        latency_by_runtime: Median latency in milliseconds on every runtime at hand.
        arena_bytes: Memory for what is computed for one row, without the kernels' own scratch.
        quantizer: What quantized a net; empty for float32 and for classical models.
        kept_float: Layers of a `mixed` net that stay in float.
        warnings: What makes the ranges of the integers doubtful.
        trial: Number of its trial in the search, from 1; 0 for the candidate's best one.
        criteria: What information criteria and bounds say of the fitted model, or why nothing.
        history: A net's epochs; empty for classical models.
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
    latency_by_runtime: dict[str, float] = {}
    arena_bytes: int = 0
    quantizer: str = ""
    kept_float: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    trial: int = 0
    criteria: tuple[Assessment, ...] = ()
    history: tuple[Epoch, ...] = ()

    @property
    def name(self) -> str:
        """The variant's name: `<candidate>.<precision>`, for further trials `<candidate>-<n>.…`."""
        number = f"-{self.trial}" if self.trial else ""
        return f"{self.candidate}{number}.{self.precision}"


class Scored(Measured, frozen=True, kw_only=True):
    """A measured variant with its flatbuffer.

    Attributes:
        compiled: Flatbuffer, signature and parity evidence (`compile.api.Compiled`).
        model: The fitted scikit-learn object, or the bytes of a `.keras` file, in the process
            that trained it; None elsewhere, and so in a run.
        held_out: After a cross-validation the folds' answers (`train.measure.Answers`) for the
            validation rows, which the flatbuffer itself was fitted on; None otherwise.
    """

    compiled: Compiled
    model: Any = None
    held_out: Any = None


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate or a variant that is not in the front, and why."""

    name: str
    reason: str


class SearchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a search went.

    Attributes:
        trial_count: Trials that ended, by being measured or given up.
        measured_count: Trials whose flatbuffers were measured.
        over_limit_count: Trials given up before or while training, or over a limit when measured.
        retried_count: Trials that were lost with their worker and put back.
        train_s: Seconds of fitting, over all trials and workers.
        interrupted: Whether it was ended by hand.
    """

    trial_count: int
    measured_count: int
    over_limit_count: int
    retried_count: int
    train_s: float
    interrupted: bool = False

    @property
    def sentence(self) -> str:
        """The counts in words."""
        parts = [f"{self.trial_count} trials, {self.measured_count} measured"]
        if self.over_limit_count:
            parts.append(f"{self.over_limit_count} over a limit or failed")
        if self.retried_count:
            parts.append(f"{self.retried_count} repeated after their worker was lost")
        if self.interrupted:
            parts.append("interrupted")
        return ", ".join(parts)
