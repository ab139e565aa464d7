"""What the keeper of a trial process orders, and what the process answers."""

from typing import Literal

import msgspec

from fieldloop.signature import Signature
from fieldloop_cloud.compile.compiled import Evidence
from fieldloop_cloud.select.candidates import Settings
from fieldloop_cloud.select.scored import Measured, Skipped
from fieldloop_cloud.select.search.fold_backend import FoldBackend

RESULT_MARK = "fieldloop-result "


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One trial.

    Attributes:
        files: Directory of the study's files.
        bench_sha256: Hash of its bench.
        candidate: Name of the candidate.
        settings: A point of its space.
        left_s: Seconds until the process is killed.
        row_count: Fit on so many training rows and only score; None for the whole trial.
        to_beat: Best score so far.
        folds_on: Where folds are fitted; None for one after the other.
    """

    files: str
    bench_sha256: str
    candidate: str
    settings: Settings
    left_s: float
    row_count: int | None = None
    to_beat: float | None = None
    folds_on: FoldBackend | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial ended.

    Attributes:
        outcome_sha256: Hash of its `Outcome` among the artefacts; empty if there is none.
        score: Of an order with `row_count`.
        reason: Why there is neither; empty if there is.
    """

    outcome_sha256: str = ""
    score: float | None = None
    reason: str = ""


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One measured variant; its bytes and held-out answers are artefacts."""

    measured: Measured
    signature: Signature
    evidence: Evidence
    tflite_sha256: str
    held_out_sha256: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial left."""

    format: Literal[1] = 1
    variants: tuple[Variant, ...]
    skipped: tuple[Skipped, ...]
