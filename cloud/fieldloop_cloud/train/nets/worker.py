"""The net's own process: train, keep the best epoch, save, and convert in the same import.

Run as `python -m fieldloop_cloud.train.nets.worker JOB_DIR`. Killed and run again with the same
directory, it goes on after the last whole epoch and ends with the same weights.
"""

import re
import resource
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fieldloop.errors import FieldloopError, GateError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.compile.keras_worker import convert_all
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.build import build, finished, head_of
from fieldloop_cloud.train.nets.checkpoint import Arrays, assign, drop_checkpoint
from fieldloop_cloud.train.nets.course import DivergedError
from fieldloop_cloud.train.nets.job import (
    Amended,
    NetJob,
    NetResult,
    OutOfMemoryError,
    amended,
    tell_error,
)
from fieldloop_cloud.train.nets.logs import Log, open_log
from fieldloop_cloud.train.nets.pipeline import Rows, open_images
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.nets.strategy import Replicas, open_replicas
from fieldloop_cloud.train.nets.training import Training

_CALM_NORM = 1.0
_CALMER = 0.1

_ONEDNN_FULL = "Operation received an exception:Status: 1,"
"""What oneDNN's kernels say when they get no memory (dnnl_out_of_memory is 1)."""

_ONEDNN_FAILED = "Operation received an exception:Status:"
"""What they say of any failure; under a limit on memory that is its commonest cause."""


def main(job: Path) -> None:
    """Train and convert what `net.json` describes."""
    die_with_parent()
    order = msgspec.json.decode((job / "net.json").read_bytes(), type=NetJob)
    report("train", 0.0, "starting TensorFlow")
    try:
        model = _trained(job, order)
    except FieldloopError as error:
        tell_error(job, error)
        return
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    convert_all(
        job,
        order.precisions,
        np.load(job / "calibration.npy", allow_pickle=False),
        lambda: tf.lite.TFLiteConverter.from_keras_model(model),
    )


def _trained(job: Path, order: NetJob) -> Any:
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    now = amended(job, order)
    order = msgspec.structs.replace(order, settings=now.settings)
    replicas = open_replicas(order.settings)
    tf.config.experimental.enable_op_determinism()
    rows = open_rows(job)
    log = open_log(order.settings.tensorboard_dir)
    _limit_memory(order.settings)
    try:
        try:
            training = _run(job, order, rows, replicas, log)
        except DivergedError as error:
            now = _calmed(job, now, error)
            order = msgspec.structs.replace(order, settings=now.settings)
            training = _run(job, order, rows, replicas, log)
    except DivergedError as error:
        raise GateError(
            f"training diverged with short steps too: {error}",
            where=type(order.plan).__name__,
            advice="Check the data for values that are no numbers or far too large.",
        ) from error
    except MemoryError as error:
        raise _too_large(order) from error
    except tf.errors.OpError as error:
        if rows.faults:
            raise rows.faults[0] from None
        limited = order.settings.memory_limit_bytes is not None
        fault = _ONEDNN_FAILED if limited else _ONEDNN_FULL
        if isinstance(error, tf.errors.ResourceExhaustedError) or fault in str(error):
            raise _too_large(order) from error
        raise
    return _ended(job, order, training, now.notes)


def _too_large(order: NetJob) -> OutOfMemoryError:
    return OutOfMemoryError(
        f"a batch of {order.settings.batch_size} rows does not fit in memory",
        where=type(order.plan).__name__,
        advice="Use smaller rows, a smaller net or a machine with more memory.",
    )


def _run(job: Path, order: NetJob, rows: Rows, replicas: Replicas, log: Log) -> Training:
    import keras  # noqa: PLC0415 - only workers import Keras

    keras.utils.set_random_seed(order.seed)
    keras.config.set_dtype_policy(order.settings.policy)
    training = Training(job, order, rows, replicas, log)
    training.run()
    return training


def _ended(job: Path, order: NetJob, training: Training, notes: tuple[str, ...]) -> Any:
    course = training.course
    report("train", 1.0, f"epoch {course.best_epoch} was the best of {len(course.history)}")
    model = _saved(job, order, training.best)
    result = NetResult(
        parameter_count=sum(int(np.prod(w.shape)) for w in model.trainable_variables),
        history=tuple(course.history),
        best_epoch=course.best_epoch,
        train_s=course.elapsed_s,
        stopped_by_time=course.stopped_by_time,
        settings=order.settings,
        notes=notes,
    )
    # Written last: its presence says that the training is whole.
    write_file(job / "result.json", msgspec.json.encode(result))
    return model


def _saved(job: Path, order: NetJob, best: Arrays) -> Any:
    """Build the net again in float32 on one device, with the best weights; save and ask it."""
    import keras  # noqa: PLC0415 - only workers import Keras

    keras.config.set_dtype_policy("float32")
    head = head_of(order.plan.classes, order.settings.objective)
    model = build(order.plan, head=head, scaling=order.scaling)
    assign(model.variables, best)
    model = finished(model, order.scaling, head)
    model.save(job / "saving.keras")
    (job / "saving.keras").replace(job / "model.keras")
    asked = _open_rows_of(job, "X_validation")
    size = order.settings.batch_size
    answers = [
        np.asarray(model(np.asarray(asked[start : start + size], dtype=np.float32)))
        for start in range(0, len(asked), size)
    ]
    np.save(job / "answers.npy", np.concatenate(answers).astype(np.float32))
    return model


def open_rows(job: Path) -> Rows:
    """Open a job's rows; nothing but targets and numbers is read into memory."""
    y, weights, fit, held_out = (
        np.load(job / f"{name}.npy", allow_pickle=False)
        for name in ("y", "weights", "fit", "held_out")
    )
    return Rows(_open_rows_of(job, "X"), y, weights, fit, held_out)


class ImageFiles(msgspec.Struct, frozen=True):
    """What `X.json` says where rows are image files."""

    image: ImageSpec
    paths: list[str]


def _open_rows_of(job: Path, name: str) -> Any:
    files = job / f"{name}.json"
    if files.exists():
        told = msgspec.json.decode(files.read_bytes(), type=ImageFiles)
        return open_images(told.paths, told.image)
    return np.load(job / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def _calmed(job: Path, now: Amended, error: DivergedError) -> Amended:
    """Make the steps shorter, once; the training begins anew."""
    if now.is_calmed:
        raise error
    settings = now.settings
    norm = min(settings.clip_norm or _CALM_NORM, _CALM_NORM)
    rate = settings.learning_rate * _CALMER
    note = (
        f"Training diverged ({error}); it began anew with a learning rate of {rate:g} and "
        f"gradients clipped to a length of {norm:g}."
    )
    report("train", 0.0, note)
    calm = msgspec.structs.replace(settings, clip_norm=norm, learning_rate=rate)
    drop_checkpoint(job)
    calmed = Amended(settings=calm, notes=(*now.notes, note), is_calmed=True)
    calmed.write(job)
    return calmed


def _limit_memory(settings: NetSettings) -> None:
    """Let this process take no more than allowed on top of what it has now."""
    if settings.memory_limit_bytes is None:
        return
    found = re.search(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    taken = 1024 * int(found[1]) if found else 0
    limit = taken + settings.memory_limit_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
