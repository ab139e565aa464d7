"""Learn from the field: labelled samples become training rows and a fresh audit set.

Which part a sample belongs to follows from its content alone (a hash), so it never changes: an
audit row is never trained on, in no later round either, and two copies of one input never straddle
the parts. Only samples that were drawn at random can audit without bias; those that were sent
because the model was unsure are for training.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop_cloud.compile.quantize import EPSILON
from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.fleet.challenge import ALPHA, ChallengeResult, challenge
from fieldloop_cloud.fleet.records import StoredSample
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.train.run import Run
from fieldloop_cloud.train.trainer import train
from fieldloop_cloud.train.transfer.backbone import Backbone

AUDIT_SHARE = 0.5
"""Share of the randomly drawn samples that is kept from training."""

MIN_AUDIT_ROWS = 30
"""With fewer audit rows no honest verdict is possible, however large the gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldData:
    """Labelled field samples as data sets.

    Attributes:
        train: Rows to learn from.
        audit: Rows to judge with.
        note: How the audit rows were drawn, one sentence.
    """

    train: Dataset
    audit: Dataset
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """A challenger with its evidence.

    Attributes:
        challenger: The run on old and field data; its lineage tells how the gate went.
        gate: The comparison with the champion on the audit rows.
        field_row_count: Field rows that were learnt from.
        note: How the audit rows were drawn.
    """

    challenger: Run
    gate: ChallengeResult
    field_row_count: int
    note: str

    @property
    def accepted(self) -> bool:
        """Whether the challenger may replace the champion."""
        return self.gate.accepted

    def require(self) -> Run:
        """Return the challenger if it was accepted.

        Raises:
            GateError: It was not; says why.
        """
        self.gate.require()
        return self.challenger


def retrain(
    champion: Run,
    data: Dataset,
    samples: Sequence[StoredSample],
    *,
    device: str | Path | Target | None = None,
    budget_s: float = 600.0,
    seed: int = 0,
    out: Path | str | None = None,
    candidates: Sequence[str] | None = None,
    weights: str | Path | Backbone | None = None,
    alpha: float = ALPHA,
    epsilon: float = EPSILON,
    progress: Progress = quiet,
) -> Retrained:
    """Train a challenger on old and field data and compare it with the champion.

    Args:
        champion: The run whose model is in the field.
        data: The data that the champion was trained from.
        samples: Labelled field samples, `Store.samples(labelled=True)`.
        device: Target; by default the champion's.
        budget_s: Time for training.
        seed: Of split and training.
        out: Directory for the challenger's run.
        candidates: Families to try; by default the champion's own. `train` knows their names.
        weights: The backbone, where one of them is transfer.
        alpha: Level of the test that the challenger is better.
        epsilon: Largest loss of score that a quantized variant may show.
        progress: As for `train`.

    Raises:
        DataError: Too few labelled samples, or samples that do not fit the data.
        GateError: No candidate fits the device.
    """
    field = field_data(data, samples)
    # The audit rows are the test that counts; the challenger's own sealed test set says how it
    # does on old and new rows together.
    challenger = train(
        data.concat(field.train),
        device=device or champion.device,
        budget_s=budget_s,
        seed=seed,
        out=out,
        candidates=candidates or (champion.chosen.candidate,),
        weights=weights,
        metric=champion.metric,
        epsilon=epsilon,
        progress=progress,
    )
    gate = challenge(champion.chosen, challenger.chosen, field.audit, alpha=alpha)
    return Retrained(
        challenger=_with_evidence(challenger, f"{gate.sentence} ({field.note})"),
        gate=gate,
        field_row_count=len(field.train),
        note=field.note,
    )


def _with_evidence(challenger: Run, sentence: str) -> Run:
    """Write the gate into the challenger's lineage, which travels in every bundle made from it."""
    gates = {**challenger.lineage.gate, "champion/challenger": sentence}
    lineage = msgspec.structs.replace(challenger.lineage, gate=gates)
    told = msgspec.structs.replace(challenger, lineage=lineage)
    return told if told.path is None else told.save(told.path)


def field_data(data: Dataset, samples: Sequence[StoredSample]) -> FieldData:
    """Turn labelled samples into training and audit rows in the form of `data`.

    Raises:
        DataError: A sample does not fit, or too few are labelled.
    """
    labelled = [item for item in samples if item.label is not None]
    if not labelled:
        raise DataError(
            "no field sample has a label",
            advice="Export samples with `fieldloop label export`, label and import them.",
        )
    rows = data.encode(
        [item.sample.raw for item in labelled],
        [item.label for item in labelled if item.label is not None],
    )
    random = np.array([item.sample.policy == "random" for item in labelled])
    held = _held_out(rows)
    audit = held & random
    note = f"audited on {audit.sum()} samples that devices drew at random"
    if audit.sum() < MIN_AUDIT_ROWS:
        audit = held
        note = (
            f"audited on {audit.sum()} samples of all kinds, as only {random.sum()} were drawn at "
            "random: harder inputs than the field's average"
        )
    if audit.sum() < MIN_AUDIT_ROWS or not (~audit).any():
        raise DataError(
            f"{len(labelled)} labelled field samples leave {audit.sum()} to judge a challenger",
            advice=f"Label at least {int(2.5 * MIN_AUDIT_ROWS)} samples, best randomly drawn ones.",
        )
    # Copies of an audit row that came under another policy must not be learnt from.
    learnt = ~_copies_of(rows, audit)
    return FieldData(
        train=rows.take(np.flatnonzero(learnt)),
        audit=rows.take(np.flatnonzero(audit)),
        note=note,
    )


def _hashes(rows: Dataset) -> list[bytes]:
    return [hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in rows.X]


def _held_out(rows: Dataset) -> NDArray[np.bool_]:
    """Say which rows belong to the audit part, by content."""
    limit = int(AUDIT_SHARE * 256)
    return np.array([digest[0] < limit for digest in _hashes(rows)], dtype=np.bool_)


def _copies_of(rows: Dataset, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    digests = _hashes(rows)
    wanted = {digest for digest, hit in zip(digests, chosen, strict=True) if hit}
    return np.array([digest in wanted for digest in digests], dtype=np.bool_)
