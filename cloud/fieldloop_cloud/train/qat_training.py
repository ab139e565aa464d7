"""Quantization-aware training seen from outside: a saved net goes in, an int8 flatbuffer comes out.

It is the ladder's last rung: where rounding a trained net costs too much, the net is trained with
the rounding for a few more epochs.
"""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, EnvironmentFaultError, GateError, ModelRuntimeError
from fieldloop_cloud.compile.conversion import INSTALL_DEEP, failure, missing_packages
from fieldloop_cloud.compile.worker import Progress, WorkerEnd, last_line, quiet, run_worker
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.job import told_error
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.qat import QatSettings
from fieldloop_cloud.train.qat_worker import QatJob

WORKER = "fieldloop_cloud.train.qat_worker"


@dataclass(frozen=True, slots=True)
class AwareNet:
    """What came out.

    Attributes:
        tflite: The int8 flatbuffer, with float32 input and output.
        losses: Training loss of each epoch, under the rounding.
        train_s: Seconds it took, TensorFlow's start included.
    """

    tflite: bytes
    losses: tuple[float, ...]
    train_s: float


def train_aware(
    keras_bytes: bytes,
    x: NDArray[np.float32],
    y: NDArray[Any],
    *,
    classes: int,
    settings: QatSettings | None = None,
    net: NetSettings | None = None,
    budget_s: float = 600.0,
    trust: bool = False,
    progress: Progress = quiet,
) -> AwareNet:
    """Fine-tune a trained net under int8's rounding, in a process of its own.

    Args:
        keras_bytes: The `.keras` file of a functional or Sequential net.
        x: Encoded training rows, (n, *input shape), n > 0.
        y: Class indices or values, (n,).
        classes: How many classes; 0 for values.
        settings: How; None for the usual.
        net: What the net was trained with; None for cross-entropy or mean squares.
        budget_s: The process is killed then.
        trust: Load a file that holds code, such as Lambda layers.
        progress: Receives epochs.

    Raises:
        DataError: No rows, or rows and targets that differ in number.
        UnsupportedError: A layer that has no fake quantization, or a file that Keras does not
            load; names it.
        GateError: Training diverged, or the time was up.
        ModelRuntimeError: Training or the converter died.
        EnvironmentFaultError: The packages for nets are not installed.
    """
    if missing := missing_packages():
        raise EnvironmentFaultError(
            f"a net cannot be trained here: {missing}",
            advice=f"Install the packages for nets: {INSTALL_DEEP}.",
        )
    if not len(x) or len(x) != len(y):
        raise DataError(
            f"{len(x)} rows and {len(y)} targets cannot be trained on",
            advice="Give one target for each row, and at least one row.",
        )
    started = time.monotonic()
    order = QatJob(
        settings=settings or QatSettings(),
        net=net or NetSettings(),
        classes=classes,
        spread=1.0 if classes else float(np.std(y)) or 1.0,
        trust=trust,
    )
    job = Path(tempfile.mkdtemp(prefix="fieldloop-qat-"))
    try:
        write_file(job / "model.keras", keras_bytes)
        np.save(job / "x.npy", x)
        np.save(job / "y.npy", y)
        write_file(job / "job.json", msgspec.json.encode(order))
        end = run_worker(WORKER, job, timeout_s=budget_s, progress=progress)
        return _gathered(job, end, budget_s, time.monotonic() - started)
    finally:
        shutil.rmtree(job, ignore_errors=True)


def _gathered(job: Path, end: WorkerEnd, budget_s: float, train_s: float) -> AwareNet:
    if (job / "int8.tflite").exists():
        losses = msgspec.json.decode((job / "losses.json").read_bytes(), type=tuple[float, ...])
        return AwareNet((job / "int8.tflite").read_bytes(), losses, train_s)
    error = told_error(job)
    if error is not None:
        raise error
    if (job / "int8.error").exists():
        raise failure((job / "int8.error").read_text(errors="replace"), "int8")
    if end.timed_out:
        raise GateError(
            f"quantization-aware training was stopped when its {budget_s:.0f} s were used up",
            advice="Raise the time budget.",
        )
    raise ModelRuntimeError(
        f"quantization-aware training failed: {last_line(end.tail)}",
        where="qat",
        advice="Check memory and the installation of TensorFlow with `fieldloop doctor`.",
    )
