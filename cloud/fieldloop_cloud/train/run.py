"""A run: everything that training measured, chose and must hand on, in memory and on disk.

On disk a run is a directory without a pickle in it:

    run.json                              what was measured, chosen and why
    models/<candidate>.<precision>.tflite every measured variant
    chosen/{signature,profile,golden,lineage}.json
    report.html
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from fieldloop.manifest import GoldenSet, Lineage, Precision
from fieldloop.profile import ReferenceProfile
from fieldloop.signature import Signature
from fieldloop_cloud.train.metrics import Estimate

Verdict = Literal["reference", "accepted", "refused", "not proven"]


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a variant may be chosen, and on what evidence.

    Attributes:
        verdict: `reference` is the float32 variant that the others are compared with; only it
            and `accepted` may be chosen.
        reason: One sentence for people, with the numbers.
        drop: Score lost against the reference on the same rows; negative if it gained.
        drop_high: Upper confidence limit of the drop.
        epsilon: The largest drop allowed.
        agreement: Share of rows with the reference's label (classification).
        row_count: Rows compared.
    """

    verdict: Verdict
    reason: str
    drop: float = 0.0
    drop_high: float = 0.0
    epsilon: float = 0.0
    agreement: float | None = None
    row_count: int = 0

    @property
    def passed(self) -> bool:
        """Whether the variant may be chosen."""
        return self.verdict in ("reference", "accepted")


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

    compiled: Any
    model: Any = None


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate or a variant that is not in the front, and why."""

    name: str
    reason: str


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """One opening of the sealed test set.

    Attributes:
        at: UTC, ISO 8601.
        purpose: What it was opened for.
        forced: Whether it had been opened before.
    """

    at: str
    purpose: str
    forced: bool = False


class SplitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The split's sizes and hash."""

    train_count: int
    validation_count: int
    test_count: int
    sha256: str


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a run that is plain data.

    Attributes:
        data: Name of the data set.
        data_sha256: Its content's hash.
        task: `classification` or `regression`.
        device: The target's name.
        metric: The score's name.
        seed: Of split, training and calibration.
        split: Sizes and hash.
        baseline: Score of the dummy model on the validation rows.
        why: Why the chosen one was chosen, in one paragraph.
        test: Scores on the sealed test set, by precision of the chosen candidate; every metric
            of the task.
        confusion: Rows true, columns predicted, on the test rows with the chosen variant.
        skipped: What was not run or not measured, and why.
        openings: Openings of the test set.
        notes: What else the reader should know.
        tools: Versions.
        elapsed_s: Seconds from start to end.
    """

    data: str
    data_sha256: str
    task: Literal["classification", "regression"]
    device: str
    metric: str
    seed: int
    split: SplitRecord
    baseline: Estimate
    why: str
    test: dict[Precision, tuple[Estimate, ...]]
    confusion: tuple[tuple[int, ...], ...] = ()
    skipped: tuple[Skipped, ...] = ()
    openings: tuple[Opening, ...] = ()
    notes: tuple[str, ...] = ()
    tools: dict[str, str] = {}
    elapsed_s: float = 0.0


class Run(RunRecord, frozen=True, kw_only=True):
    """A finished run.

    Attributes:
        front: Every measured variant, best score first.
        chosen: The variant to ship.
        profile: Reference for drift detection and estimated accuracy.
        golden: One set for each of `chosen_variants`, in their order.
        lineage: Where the chosen model comes from.
        path: Directory it was saved to; None if it was not.
    """

    front: tuple[Scored, ...]
    chosen: Scored
    profile: ReferenceProfile
    golden: tuple[GoldenSet, ...]
    lineage: Lineage
    path: Path | None = None

    @property
    def chosen_variants(self) -> tuple[Scored, ...]:
        """Variants of the chosen candidate that may ship, the chosen one first."""
        others = (
            item
            for item in self.front
            if item.candidate == self.chosen.candidate
            and item.precision != self.chosen.precision
            and item.gate.passed
            and not item.over_budget
        )
        return (self.chosen, *others)

    @property
    def signature(self) -> Signature:
        """The chosen variant's contract."""
        signature: Signature = self.chosen.compiled.signature
        return signature

    @property
    def report(self) -> Path | None:
        """The HTML report; None if the run was not saved."""
        return None if self.path is None else self.path / "report.html"

    def score(self, precision: Precision) -> float | None:
        """Score on the sealed test set of a variant of the chosen candidate; None if not opened."""
        estimates = self.test.get(precision, ())
        return next((e.value for e in estimates if e.metric == self.metric), None)
