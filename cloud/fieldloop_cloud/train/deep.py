"""Training a net in its own process, and what comes back from there."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import GateError, ModelRuntimeError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.conversion import Converted, collect
from fieldloop_cloud.compile.worker import Progress, WorkerEnd, quiet, run_worker
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.cnn import CnnPlan
from fieldloop_cloud.train.deep_worker import DeepJob, DeepResult

_STOP_SHARE = 0.1
"""Share of the training rows that early stopping watches; validation rows stay untouched."""

_CONVERT_S = 25.0
"""Time kept back for the conversion."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedNet:
    """A trained net.

    Attributes:
        keras_bytes: The `.keras` file.
        converted: Flatbuffers and failures by precision.
        answers: The Keras model's own answers on the probes, (n, classes).
        parameters: Settings as text.
        train_s: Seconds of training, TensorFlow's start included.
    """

    keras_bytes: bytes
    converted: Converted
    answers: NDArray[np.float32]
    parameters: dict[str, str]
    train_s: float


def train_cnn(
    plan: CnnPlan,
    train: Dataset,
    *,
    calibration: NDArray[np.float32],
    probes: NDArray[np.float32],
    precisions: tuple[Precision, ...],
    seed: int,
    budget_s: float,
    epochs: int = 15,
    progress: Progress = quiet,
) -> TrainedNet:
    """Train, keep the best epoch, and convert.

    Args:
        plan: The net.
        train: Training rows; a tenth of them is held out for early stopping.
        calibration: Rows for the integer precisions, from the training rows.
        probes: Rows for the parity check.
        precisions: What to convert to.
        seed: Of everything random.
        budget_s: Hard limit; the process is killed then.
        epochs: Most epochs.
        progress: Receives epochs and conversions.

    Raises:
        GateError: The time was up before the first epochs were done.
        ModelRuntimeError: Training failed; the end of its log is in the message.
    """
    order = DeepJob(
        plan=plan,
        epochs=epochs,
        batch=32,
        learning_rate=1e-3,
        patience=4,
        seed=seed,
        train_s=max(1.0, budget_s - _CONVERT_S),
        precisions=precisions,
    )
    started = time.monotonic()
    with job_directory() as job:
        _write_job(job, order, train, calibration=calibration, probes=probes)
        end = run_worker(
            "fieldloop_cloud.train.deep_worker", job, timeout_s=budget_s, progress=progress
        )
        taken = time.monotonic() - started
        if not (job / "result.json").exists():
            raise _not_trained(budget_s, end)
        result = msgspec.json.decode((job / "result.json").read_bytes(), type=DeepResult)
        left = max(_CONVERT_S, budget_s - taken)
        return TrainedNet(
            keras_bytes=(job / "model.keras").read_bytes(),
            converted=collect(job, precisions, first=end, timeout_s=left, progress=progress),
            answers=np.load(job / "answers.npy", allow_pickle=False),
            parameters=_described(order, result),
            train_s=taken,
        )


def _write_job(
    job: Path,
    order: DeepJob,
    train: Dataset,
    *,
    calibration: NDArray[np.float32],
    probes: NDArray[np.float32],
) -> None:
    fit_rows, stop_rows = _hold_out(train.y.astype(np.int64), order.seed)
    arrays = {
        "x_train": train.X[fit_rows],
        "y_train": train.y[fit_rows],
        "x_stop": train.X[stop_rows],
        "y_stop": train.y[stop_rows],
        "calibration": calibration,
        "probes": probes,
    }
    for name, array in arrays.items():
        np.save(job / f"{name}.npy", array)
    (job / "job.json").write_bytes(msgspec.json.encode(order))


@contextmanager
def job_directory() -> Iterator[Path]:
    """Yield a private temporary directory that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="fieldloop-job-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _not_trained(budget_s: float, end: WorkerEnd) -> GateError | ModelRuntimeError:
    if end.timed_out:
        return GateError(
            f"training was stopped when its {budget_s:.0f} s were used up",
            advice="Raise the time budget.",
        )
    return ModelRuntimeError(
        f"training failed: {' '.join(end.tail.split()) or 'the process ended without a message'}",
        where="cnn",
        advice="Check memory and the installation of TensorFlow with `fieldloop doctor`.",
    )


def _hold_out(y: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split row numbers for early stopping, at least one row of each class on the larger side."""
    random = np.random.default_rng(seed)
    stop: list[NDArray[np.int64]] = []
    for index in np.unique(y):
        members = random.permutation(np.flatnonzero(y == index))
        stop.append(members[: min(len(members) - 1, max(1, round(_STOP_SHARE * len(members))))])
    held = np.sort(np.concatenate(stop))
    return np.setdiff1d(np.arange(len(y)), held), held


def _described(order: DeepJob, result: DeepResult) -> dict[str, str]:
    plan = order.plan
    stopped = ", stopped by the time budget" if result.stopped_by_time else ""
    return {
        "filters": "-".join(str(count) for count in plan.filters),
        "dense": str(plan.dense),
        "parameters": str(plan.parameter_count),
        "epochs": f"{result.epochs} (best {result.best_epoch}{stopped})",
        "batch": str(order.batch),
        "learning_rate": f"{order.learning_rate:g}",
    }
