"""Watching over the training process: memory that runs out, kills, time; then what it left."""

import re
import signal
import time
from pathlib import Path

import msgspec
import numpy as np

from fieldloop.errors import GateError, ModelRuntimeError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.conversion import Converted, collect
from fieldloop_cloud.compile.worker import Progress, WorkerEnd, run_worker
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets.acceptance import dummy_answers, scored
from fieldloop_cloud.train.nets.checkpoint import drop_checkpoint
from fieldloop_cloud.train.nets.job import (
    Amended,
    NetJob,
    NetResult,
    OutOfMemoryError,
    amended,
    told_error,
)
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.nets.trained import TrainedNet

WORKER = "fieldloop_cloud.train.nets.worker"
"""Module that trains; its argument is the job's directory."""

_RESTARTS = 1
"""How often a worker that was killed from outside is started again."""

_NO_MEMORY = re.compile(
    r"bad_alloc|OOM when allocating|annot allocate memory|ResourceExhausted|"
    r"Resource temporarily unavailable|out of memory",
    re.IGNORECASE,
)

_FINISHED = WorkerEnd(code=0, timed_out=False, tail="")


def supervise(job: Path, order: NetJob, *, deadline: float, progress: Progress) -> WorkerEnd:
    """Run the worker until the training is whole.

    A batch that does not fit in memory is halved and the training begun anew, with a note; a
    worker that was killed goes on after its last epoch.

    Raises:
        FieldloopError: What the worker said went wrong.
        GateError: The time was up.
        ModelRuntimeError: It died, and of what.
    """
    restarts = 0
    while not (job / "result.json").exists():
        kills = _memory_kills()
        left = max(1.0, deadline - time.monotonic())
        end = run_worker(WORKER, job, timeout_s=left, progress=progress)
        if (job / "result.json").exists():
            return end
        error = told_error(job)
        if error is None and _died_of_memory(job, amended(job, order).settings, end, kills):
            error = OutOfMemoryError(
                "training took more memory than there is",
                where=type(order.plan).__name__,
                advice="Use smaller rows, a smaller net or a machine with more memory.",
            )
        if isinstance(error, OutOfMemoryError):
            _halve_batch(job, order, error, progress)
        elif error is not None:
            raise error
        elif end.code == -signal.SIGKILL and not end.timed_out and restarts < _RESTARTS:
            restarts += 1
        else:
            raise _not_trained(left, end)
    return _FINISHED


def convert(
    job: Path,
    precisions: tuple[Precision, ...],
    refused: dict[Precision, str],
    *,
    first: WorkerEnd,
    left_s: float,
    progress: Progress,
) -> Converted:
    """Gather the flatbuffers; what a resumed job lacks is converted now."""
    found = collect(job, precisions, first=first, timeout_s=left_s, progress=progress)
    return Converted(found.models, {**found.failures, **refused})


def finish(
    job: Path,
    order: NetJob,
    converted: Converted,
    train: Dataset,
    validation: Dataset,
    *,
    metric: str,
    notes: tuple[str, ...],
) -> TrainedNet:
    """Read what the worker left, and score it."""
    result = msgspec.json.decode((job / "result.json").read_bytes(), type=NetResult)
    answers = np.load(job / "answers.npy", allow_pickle=False)
    scores, baseline = scored(answers, dummy_answers(train, len(validation)), validation, metric)
    return TrainedNet(
        plan=order.plan,
        settings=result.settings,
        keras_bytes=(job / "model.keras").read_bytes(),
        converted=converted,
        validation=validation,
        answers=answers,
        scores=scores,
        baseline=baseline,
        history=result.history,
        best_epoch=result.best_epoch,
        parameters=_described(order, result),
        train_s=result.train_s,
        notes=(*notes, *result.notes),
    )


def _halve_batch(job: Path, order: NetJob, error: OutOfMemoryError, progress: Progress) -> None:
    now = amended(job, order)
    size = now.settings.batch_size
    if size == 1:
        raise error
    half = size // 2
    note = f"A batch of {size} rows did not fit in memory; training began anew with {half}."
    progress("train", 0.0, note)
    drop_checkpoint(job)
    settings = msgspec.structs.replace(now.settings, batch_size=half)
    Amended(settings=settings, notes=(*now.notes, note), is_calmed=now.is_calmed).write(job)


def _died_of_memory(job: Path, now: NetSettings, end: WorkerEnd, kills_before: int) -> bool:
    if end.timed_out or end.code == 0:
        return False
    if end.code == -signal.SIGKILL:  # the kernel kills without a word
        return _memory_kills() > kills_before
    if end.code < 0 and now.memory_limit_bytes is not None:
        return True  # C++ that gets no memory ends in many ways; without the limit it runs
    log = job / "stderr.txt"
    said = log.read_text(errors="replace") if log.exists() else end.tail
    return _NO_MEMORY.search(said) is not None


def _memory_kills() -> int:
    """Return how many processes the kernel has killed for want of memory since it started."""
    try:
        told = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^oom_kill (\d+)$", told, re.MULTILINE)
    return int(found[1]) if found else 0


def _not_trained(budget_s: float, end: WorkerEnd) -> GateError | ModelRuntimeError:
    if end.timed_out:
        return GateError(
            f"training was stopped when its {budget_s:.0f} s were used up",
            advice="Raise the time budget.",
        )
    return ModelRuntimeError(
        f"training failed: {' '.join(end.tail.split()) or 'the process ended without a message'}",
        where="net",
        advice="Check memory and the installation of TensorFlow with `fieldloop doctor`.",
    )


_OF_BACKBONES = ("member", "alpha", "cut", "pooling", "weights", "fine_tune", "fine_tune_rate")


def _described(order: NetJob, result: NetResult) -> dict[str, str]:
    plan, settings = order.plan, result.settings
    stopped = ", stopped by the time budget" if result.stopped_by_time else ""
    shape = {
        name: "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name in (*_OF_BACKBONES, "filters", "hidden", "units", "dense")
        if (value := getattr(plan, name, None)) not in (None, "")
    }
    return {
        **shape,
        "parameters": str(result.parameter_count),
        "objective": settings.objective,
        "optimizer": settings.optimizer,
        "epochs": f"{len(result.history)} (best {result.best_epoch}{stopped})",
        "batch": str(settings.batch_size),
        "learning_rate": f"{settings.learning_rate:g}",
    }
