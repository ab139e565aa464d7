"""`train_net`: one net trained by hand or by a search, seen from outside.

data -> parts -> job directory -> worker (killable, resumable) -> scores -> acceptance
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, DataError, EnvironmentFaultError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.conversion import INSTALL_DEEP, missing_packages
from fieldloop_cloud.compile.quantize import calibration_rows
from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.files import check_writable
from fieldloop_cloud.train.nets.acceptance import accepted, deciding_metric
from fieldloop_cloud.train.nets.job import NetJob
from fieldloop_cloud.train.nets.parts import STOP_SHARE, VALIDATION_SHARE, held_out
from fieldloop_cloud.train.nets.planning import PlanKind, plan_net
from fieldloop_cloud.train.nets.plans import NetPlan
from fieldloop_cloud.train.nets.scaling import scaling_of
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.nets.strategy import check_cluster
from fieldloop_cloud.train.nets.supervisor import convert, finish, supervise
from fieldloop_cloud.train.nets.trained import TrainedNet
from fieldloop_cloud.train.nets.writing import rows_sha256, write_job
from fieldloop_cloud.train.transfer.plan import TransferPlan

CONVERT_S = 25.0
"""Time kept back for the conversion."""


def train_net(
    plan: NetPlan | PlanKind,
    train: Dataset,
    *,
    settings: NetSettings | None = None,
    validation: Dataset | None = None,
    metric: str | None = None,
    floor: float | None = None,
    precisions: tuple[Precision, ...] = ("float32",),
    calibration: NDArray[np.float32] | None = None,
    seed: int = 0,
    budget_s: float = 600.0,
    job_dir: Path | str | None = None,
    progress: Progress = quiet,
) -> TrainedNet:
    """Train a net in a process of its own, keep the best epoch, convert and accept it.

    Args:
        plan: The net, or its kind (`cnn`, `mlp`, `cnn1d`, `gru`) to have it planned.
        train: Training rows; a tenth of them is watched for early stopping (whole groups, where
            the data have groups).
        settings: Objective, optimizer, schedule, augmentation and the rest; None for the usual.
        validation: Rows for the scores; None holds out a fifth of the training rows.
        metric: What acceptance compares; by default accuracy, or R².
        floor: What the score must reach beside beating the dummy model; None for no more.
        precisions: What to convert to.
        calibration: Encoded rows for the integer precisions, from the training rows; None draws
            them.
        seed: Same rows, seed, settings and machine: same net.
        budget_s: Hard limit in seconds; the process is killed then.
        job_dir: Where checkpoints are kept. The same call with the same directory goes on after
            a kill and ends with the same net. None: a directory that is gone afterwards.
        progress: Receives epochs and conversions.

    Returns:
        The net with its history and scores; `compile_to` gives its flatbuffers.

    Raises:
        ConfigError: A setting out of range, or a job directory of another training.
        DataError: One class, a class without rows, unreadable images, or rows of another form.
        EnvironmentFaultError: The packages for nets are not installed, or the disk is full.
        GateError: Not better than the dummy model or below the floor; the time was up before
            the first epoch; or training diverged.
        ModelRuntimeError: Training failed; the end of its log is in the message.

    Example::

        net = fl.train_net(
            "cnn",
            fl.Dataset.load("sklearn:digits"),
            settings=fl.NetSettings(optimizer="adamw", schedule="cosine", epochs=20),
            floor=0.95,
        )
        print(net.score, net.history[-1])
        net.compile_to("float32").run(net.validation.X[:1])
    """
    if missing := missing_packages():
        raise EnvironmentFaultError(
            f"a net cannot be trained here: {missing}",
            advice=f"Install the packages for nets: {INSTALL_DEEP}.",
        )
    started = time.monotonic()
    if isinstance(plan, str):
        plan = plan_net(plan, train)
    if isinstance(plan, TransferPlan):
        plan = plan.checked()
    settings = (settings or NetSettings()).resolved(plan.classes)
    metric = deciding_metric(train.task, metric)
    check_cluster(settings)
    if settings.tensorboard_dir is not None:
        check_writable(Path(settings.tensorboard_dir))
    _check_form(plan, train, settings)
    notes: list[str] = []
    if validation is None:
        kept, scored = held_out(train, VALIDATION_SHARE, seed=seed + 1)
        train, validation = train.take(kept), train.take(scored)
        notes.append(f"{len(scored)} of the rows were held out for the score.")
    if not len(validation):
        validation = train
        notes.append("No rows could be held out: the score is on rows that were fitted on.")
    _check_classes(train)
    fit, watched = held_out(train, STOP_SHARE, seed=seed)
    if not len(watched):
        watched = fit
        notes.append("No rows were left for early stopping; it watches the fitted ones.")
    if calibration is None:
        calibration = np.asarray(train.take(calibration_rows(train.y, seed=seed)).X)
    integer_free, refused = _refusals(train, precisions)
    order = NetJob(
        plan=plan,
        settings=settings,
        scaling=scaling_of(train, fit),
        seed=seed,
        train_s=max(1.0, budget_s - CONVERT_S),
        precisions=integer_free,
        rows_sha256=rows_sha256(train, validation, fit),
    )
    with job_directory(job_dir) as job:
        write_job(job, order, train, fit, watched, validation=validation, calibration=calibration)
        end = supervise(job, order, deadline=started + budget_s, progress=progress)
        left = max(CONVERT_S, started + budget_s - time.monotonic())
        converted = convert(job, integer_free, refused, first=end, left_s=left, progress=progress)
        net = finish(job, order, converted, train, validation, metric=metric, notes=tuple(notes))
    return accepted(net, floor=floor)


@contextmanager
def job_directory(given: Path | str | None = None) -> Iterator[Path]:
    """Yield the given directory, or a private temporary one that is gone afterwards."""
    if given is not None:
        path = Path(given)
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    path = Path(tempfile.mkdtemp(prefix="fieldloop-job-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _refusals(
    train: Dataset, precisions: tuple[Precision, ...]
) -> tuple[tuple[Precision, ...], dict[Precision, str]]:
    """Tell precisions that can be converted to from those that cannot hold the data."""
    gaps = [spec.name for spec in train.features if spec.missing_allowed]
    reason = f"an integer input has no code for a missing value (columns {', '.join(gaps)})"
    refused: dict[Precision, str] = {
        p: reason for p in precisions if gaps and p in ("int8", "int16x8")
    }
    return tuple(p for p in precisions if p not in refused), refused


def _check_form(plan: NetPlan, train: Dataset, settings: NetSettings) -> None:
    if tuple(train.X.shape[1:]) != plan.input_shape or plan.classes != len(train.labels):
        raise DataError(
            f"the plan is for rows of {plan.input_shape} and {plan.classes} classes, the data "
            f"have rows of {tuple(train.X.shape[1:])} and {len(train.labels)} classes",
            where=train.name,
            advice="Plan the net for these data.",
        )
    if settings.augmentation is not None and train.kind == "tabular":
        raise ConfigError(
            "rows of a table are not varied",
            where="augmentation",
            advice="Leave it out; it is for images and windows.",
        )


def _check_classes(train: Dataset) -> None:
    if not train.labels:
        return
    empty = [str(n) for n, c in zip(train.labels, train.class_counts, strict=True) if not c]
    if len(train.labels) - len(empty) < 2:  # noqa: PLR2004 - one class is no choice
        raise DataError(
            f"there is one class only: {', '.join(map(repr, train.labels))}",
            where=train.name,
            advice="Bring rows of at least two classes.",
        )
    if empty:
        raise DataError(
            f"no training row has the class {', '.join(empty)}",
            where=train.name,
            advice="Bring rows of it, or leave it out of the labels.",
        )
