"""A run: everything that training measured, chose and must hand on, in memory and on disk.

On disk a run is a directory without a pickle in it:

    run.json                              what was measured, chosen and why
    models/<candidate>.<precision>.tflite every measured variant
    chosen/{signature,profile,golden,lineage}.json
    report.html
    model-card.{json,md}
"""

import os
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from fieldloop.errors import DataError
from fieldloop.manifest import GoldenSet, Lineage, Precision
from fieldloop.profile import ReferenceProfile
from fieldloop.signature import Signature
from fieldloop_cloud.compile.compiled import Compiled, Evidence
from fieldloop_cloud.data.leak import Leak
from fieldloop_cloud.data.seal import Opening
from fieldloop_cloud.data.split import Kept, Strategy
from fieldloop_cloud.files import write_file
from fieldloop_cloud.select.advice import Advice
from fieldloop_cloud.select.scored import Measured, Scored, SearchRecord, Skipped
from fieldloop_cloud.train.evidence import SealedEvidence
from fieldloop_cloud.train.metrics import Estimate
from fieldloop_cloud.train.transfer.backbone import Backbone


class SplitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The split's sizes, hash, and how it was drawn; the last has defaults for older runs."""

    train_count: int
    validation_count: int
    test_count: int
    sha256: str
    strategy: Strategy = "60-20-20"
    kept: Kept = "strata"
    fold_count: int = 0
    left_out_count: int = 0
    notes: tuple[str, ...] = ()


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
        search: How many trials there were and how they ended; None in runs of older versions.
        leaks: What was found that could make the scores untrue.
        leakage_allowed: Why training went on in spite of a finding that stops; empty if none did.
        sealed: What the test rows show besides the scores; None in runs of older versions.
        advice: What was advised for the data; None where there was no time, or no report.
        backbone: What transfer started from; None where it was not tried.
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
    search: SearchRecord | None = None
    leaks: tuple[Leak, ...] = ()
    leakage_allowed: str = ""
    sealed: SealedEvidence | None = None
    advice: Advice | None = None
    backbone: Backbone | None = None


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
        return shippable(self.front, self.chosen)

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

    def save(self, directory: Path | str) -> "Run":
        """Write the run into a directory and return it with `path` set; the report is separate.

        Every file is whole or absent; `run.json` is written last, so a directory with it is a
        finished run.

        Raises:
            EnvironmentFaultError: The directory cannot be written.
        """
        root = Path(directory)
        record = msgspec.convert(
            {name: getattr(self, name) for name in RunRecord.__struct_fields__}, RunRecord
        )
        document = _Document(
            record=record,
            front=tuple(_entry(scored) for scored in self.front),
            chosen=self.chosen.name,
        )
        files = {f"models/{item.name}.tflite": item.compiled.tflite for item in self.front}
        files |= {
            "chosen/signature.json": _pretty(self.signature),
            "chosen/profile.json": _pretty(self.profile),
            "chosen/golden.json": _pretty(self.golden),
            "chosen/lineage.json": _pretty(self.lineage),
            "run.json": _pretty(document),
        }
        for name, data in files.items():
            write_file(root / name, data)
        return msgspec.structs.replace(self, path=root)

    @classmethod
    def load(cls, directory: Path | str) -> "Run":
        """Read a run that `save` wrote; `model` objects are not part of it.

        Raises:
            DataError: It is not a run's directory, or a file in it is missing or damaged.
        """
        root = Path(directory)
        document = _read(root / "run.json", _Document)
        front = tuple(_scored(root, entry) for entry in document.front)
        by_name = {scored.name: scored for scored in front}
        if document.chosen not in by_name:
            raise _damaged(root / "run.json", f"'{document.chosen}' is not in the front")
        record = {name: getattr(document.record, name) for name in RunRecord.__struct_fields__}
        return cls(
            **record,
            front=front,
            chosen=by_name[document.chosen],
            profile=_read(root / "chosen" / "profile.json", ReferenceProfile),
            golden=_read(root / "chosen" / "golden.json", tuple[GoldenSet, ...]),
            lineage=_read(root / "chosen" / "lineage.json", Lineage),
            path=root,
        )


def shippable(front: tuple[Scored, ...], chosen: Scored) -> tuple[Scored, ...]:
    """Return the chosen variant and the others of its trial that passed and fit."""
    others = (
        item
        for item in front
        if (item.candidate, item.trial) == (chosen.candidate, chosen.trial)
        and item.precision != chosen.precision
        and item.gate.passed
        and not item.over_budget
    )
    return (chosen, *others)


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A measured variant in `run.json`; its flatbuffer is `models/<name>.tflite`."""

    measured: Measured
    signature: Signature
    evidence: Evidence


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`."""

    format: Literal[1] = 1
    record: RunRecord
    front: tuple[_Entry, ...]
    chosen: str


_T = TypeVar("_T")


def _entry(scored: Scored) -> _Entry:
    fields: dict[str, Any] = {name: getattr(scored, name) for name in Measured.__struct_fields__}
    return _Entry(
        measured=Measured(**fields),
        signature=scored.compiled.signature,
        evidence=scored.compiled.evidence,
    )


def _scored(root: Path, entry: _Entry) -> Scored:
    measured = entry.measured
    # The name becomes a path: a damaged or hostile run.json must not lead out of the directory.
    if os.sep in measured.name or measured.name.startswith("."):
        raise _damaged(root / "run.json", f"'{measured.name}' is no variant's name")
    path = root / "models" / f"{measured.name}.tflite"
    try:
        tflite = path.read_bytes()
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    if len(tflite) != measured.size_bytes:
        raise _damaged(path, f"it has {len(tflite)} bytes instead of {measured.size_bytes}")
    fields: dict[str, Any] = {name: getattr(measured, name) for name in Measured.__struct_fields__}
    compiled = Compiled(tflite, entry.signature, entry.evidence, measured.precision)
    return Scored(**fields, compiled=compiled)


def _pretty(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"this is not a whole run: {reason}",
        where=str(path),
        advice="Give the directory that `train` wrote, or train again.",
    )


__all__ = ["Run", "RunRecord", "Scored", "Skipped", "SplitRecord"]
