"""A training's state on disk: weights, optimizer, best weights and course, whole or absent.

One file, replaced in one step after every epoch, so that a kill at any moment leaves the epoch
before. Plain arrays and JSON: nothing is unpickled.
"""

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.course import Course

Arrays = list[NDArray[Any]]

_FILE = "checkpoint.npz"


def values_of(variables: Any) -> Arrays:
    """Copy the values of Keras variables, in their order."""
    return [np.array(variable) for variable in variables]


def assign(variables: Any, values: Arrays) -> None:
    """Give Keras variables their values back."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def save_checkpoint(job: Path, course: Course, parts: dict[str, Arrays]) -> None:
    """Write the state; the file before stays until the new one is whole.

    Raises:
        EnvironmentFaultError: The disk is full or the place cannot be written.
    """
    arrays = {
        f"{name}.{number}": array
        for name, part in parts.items()
        for number, array in enumerate(part)
    }
    told = np.frombuffer(msgspec.json.encode(course), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, course=told, **arrays)  # type: ignore[arg-type]  # NumPy's stub
    write_file(job / _FILE, buffer.getvalue())


def load_checkpoint(job: Path) -> tuple[Course, dict[str, Arrays]] | None:
    """Read the state; None if there is none."""
    path = job / _FILE
    if not path.exists():
        return None
    parts: dict[str, dict[int, NDArray[Any]]] = {}
    with np.load(path, allow_pickle=False) as archive:
        course = msgspec.json.decode(archive["course"].tobytes(), type=Course)
        for key in archive.files:
            name, _, number = key.rpartition(".")
            if name:
                parts.setdefault(name, {})[int(number)] = archive[key]
    return course, {name: [found[i] for i in sorted(found)] for name, found in parts.items()}


def drop_checkpoint(job: Path) -> None:
    """Forget the state: the training begins anew."""
    (job / _FILE).unlink(missing_ok=True)
