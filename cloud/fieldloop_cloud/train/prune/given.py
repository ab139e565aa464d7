"""What pruning and distilling are given: rows, answers and nets, checked before anything starts."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, EnvironmentFaultError, UnsupportedError
from fieldloop_cloud.compile.conversion import INSTALL_DEEP, missing_packages
from fieldloop_cloud.compile.worker import last_line
from fieldloop_cloud.train.prune.job import PruneJob

HELD_OUT_SHARE = 0.2
"""Of the rows, if no held-out rows are given."""


def job_arrays(
    order: PruneJob, X: Any, y: Any, held_out: tuple[Any, Any] | None
) -> dict[str, NDArray[Any]]:
    """Return the worker's arrays; without held-out rows a random share is held out.

    Raises:
        DataError: Rows and answers that do not fit, or are no numbers.
    """
    rows, truth = _pair(order, X, y, "X")
    if held_out is not None:
        x_held_out, y_held_out = _pair(order, held_out[0], held_out[1], "held_out")
        return {
            "x_train": rows,
            "y_train": truth,
            "x_held_out": x_held_out,
            "y_held_out": y_held_out,
        }
    shuffled = np.random.default_rng(order.seed).permutation(len(rows))
    count = max(1, round(HELD_OUT_SHARE * len(rows)))
    if len(rows) - count < 1:
        raise DataError("one row is too few", where="X", advice="Give more rows.")
    away, stay = shuffled[:count], shuffled[count:]
    return {
        "x_train": rows[stay],
        "y_train": truth[stay],
        "x_held_out": rows[away],
        "y_held_out": truth[away],
    }


def _pair(order: PruneJob, X: Any, y: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        rows = np.asarray(X, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the rows are no numbers: {error}", where=where, advice="Encode them first."
        ) from error
    truth = np.asarray(y)
    if not len(rows) or len(rows) != len(truth):
        raise DataError(
            f"{len(rows)} rows and {len(truth)} answers do not fit",
            where=where,
            advice="Give one answer for each row.",
        )
    if order.task == "regression":
        truth = truth.astype(np.float32)
    elif truth.dtype.kind not in "iu" or truth.min() < 0:
        raise DataError(
            "the classes are no numbers from 0",
            where=where,
            advice="Give each row the number of its class in the order of the net's outputs.",
        )
    if not (np.isfinite(rows).all() and np.isfinite(truth).all()):
        raise DataError("a value is missing or infinite", where=where, advice="Fill it in.")
    return rows, truth


def place_model(model: Any, job: Path) -> None:
    """Put a live Keras model or a `.keras` file into a job's directory as `model.keras`.

    Raises:
        EnvironmentFaultError: The packages for nets are not installed.
        DataError: The path is no `.keras` file.
        UnsupportedError: The model cannot be saved.
    """
    if missing := missing_packages():
        raise EnvironmentFaultError(
            f"a net cannot be trained here: {missing}",
            advice=f"Install the packages for nets: {INSTALL_DEEP}.",
        )
    if isinstance(model, (str, Path)):
        if not Path(model).is_file():
            raise DataError(
                "the model file does not exist", where=str(model), advice="Check the path."
            )
        if Path(model).suffix != ".keras" or not zipfile.is_zipfile(model):
            raise DataError(
                "this is not a .keras file, or a damaged one",
                where=str(model),
                advice="Save it with model.save('name.keras').",
            )
        shutil.copy(model, job / "model.keras")
        return
    try:
        model.save(job / "model.keras")
    except Exception as error:
        raise UnsupportedError(
            f"the Keras model cannot be saved: {last_line(str(error))}",
            where=type(model).__name__,
            advice="Call it once on some rows, and use layers that Keras can save.",
        ) from error
