"""Writing a job: order and rows into its directory, or finding them there already."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.streamed import StreamedImages
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.job import NetJob
from fieldloop_cloud.train.nets.parts import Numbers
from fieldloop_cloud.train.nets.worker import ImageFiles

_CHUNK = 1024


def rows_sha256(train: Dataset, validation: Dataset, fit: Numbers) -> str:
    """Hash what a training depends on beside its settings."""
    parts = (_content(train), _content(validation), hashlib.sha256(fit.tobytes()).hexdigest())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _content(data: Dataset) -> str:
    X: Any = data.X
    if not isinstance(X, StreamedImages):
        return data.sha256
    # The files' bytes say as much as the pixels, and decoding all would take an epoch's time.
    digest = hashlib.sha256(repr((data.labels, X.image)).encode())
    digest.update(np.ascontiguousarray(data.y).tobytes())
    for path in X.paths:
        digest.update(hashlib.sha256(X.encoded(path)).digest())
    return digest.hexdigest()


def write_job(
    job: Path,
    order: NetJob,
    train: Dataset,
    fit: Numbers,
    watched: Numbers,
    *,
    validation: Dataset,
    calibration: NDArray[np.float32],
) -> None:
    """Write everything the worker needs; `net.json` comes last.

    Raises:
        ConfigError: The directory holds another training, or is somebody else's.
        EnvironmentFaultError: The disk is full.
    """
    file = job / "net.json"
    if file.exists():
        _check_same(file, order)
        write_file(file, msgspec.json.encode(order))
        return
    if (job / "checkpoint.npz").exists() or (job / "model.keras").exists():
        raise _foreign(job)
    y = train.y if order.plan.classes else _standardised(train, order)
    _write_rows_of(job, "X", train.X)
    _write_rows_of(job, "X_validation", validation.X)
    arrays: dict[str, NDArray[Any]] = {
        "y": y,
        "weights": _weights(train, fit, order),
        "fit": fit,
        "held_out": watched,
        "calibration": calibration,
    }
    for name, array in arrays.items():
        np.save(job / f"{name}.npy", array)
    write_file(file, msgspec.json.encode(order))


def _check_same(file: Path, order: NetJob) -> None:
    try:
        old = msgspec.json.decode(file.read_bytes(), type=NetJob)
    except msgspec.MsgspecError as error:
        raise _foreign(file.parent) from error
    # Another budget or other precisions are no other training.
    if msgspec.structs.replace(old, train_s=order.train_s, precisions=order.precisions) != order:
        raise _foreign(file.parent)


def _foreign(job: Path) -> ConfigError:
    return ConfigError(
        "the job directory holds another training",
        where=str(job),
        advice="Give the rows, plan, settings and seed it was begun with, or another directory.",
    )


def _standardised(train: Dataset, order: NetJob) -> NDArray[np.float32]:
    scaling = order.scaling
    values = (train.y.astype(np.float64) - scaling.target_mean) / scaling.target_std
    return values.astype(np.float32)


def _weights(train: Dataset, fit: Numbers, order: NetJob) -> NDArray[np.float32]:
    """Return each row's weight; balanced: as scikit-learn, from the fitted rows."""
    wanted = order.settings.class_weights
    if wanted is None:
        return np.ones(len(train), dtype=np.float32)
    y = train.y.astype(np.int64)
    if wanted == "balanced":
        counts = np.maximum(np.bincount(y[fit], minlength=order.plan.classes), 1)
        of_class = len(fit) / (order.plan.classes * counts)
    else:
        of_class = np.asarray(wanted, dtype=np.float64)
    return of_class[y].astype(np.float32)


def _write_rows_of(job: Path, name: str, X: Any) -> None:
    """Write rows a chunk at a time: a memory map is not read as a whole."""
    if isinstance(X, StreamedImages):
        files = ImageFiles(X.image, [str(path.resolve()) for path in X.paths])
        write_file(job / f"{name}.json", msgspec.json.encode(files))
        return
    source = getattr(X, "filename", None)
    if source is not None and _is_whole(X, Path(source)):
        shutil.copyfile(source, job / f"{name}.npy")
        return
    file = np.lib.format.open_memmap(
        job / f"{name}.npy", mode="w+", dtype=np.float32, shape=X.shape
    )
    for start in range(0, len(X), _CHUNK):
        file[start : start + _CHUNK] = X[start : start + _CHUNK]
    file.flush()


def _is_whole(X: Any, source: Path) -> bool:
    """Whether a memory map is all of a float32 `.npy` file."""
    if source.suffix != ".npy" or X.dtype != np.float32 or not X.flags.c_contiguous:
        return False
    opened = np.load(source, mmap_mode="r", allow_pickle=False)
    return bool(opened.shape == X.shape and opened.offset == X.offset)
