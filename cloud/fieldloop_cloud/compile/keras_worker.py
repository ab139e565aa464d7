"""The converter's own process: Keras or SavedModel to TFLite, one precision after another.

Run as `python -m fieldloop_cloud.compile.keras_worker JOB_DIR`. A precision that fails leaves
`<precision>.error`; one that takes the process down leaves nothing, which the parent notices.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.manifest import Precision
from fieldloop_cloud.compile.lint import lint_net
from fieldloop_cloud.compile.quantizers import (
    ConverterQuantizer,
    ConverterRows,
    FloatModel,
    Recipe,
    quantized,
)
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.files import write_file

UNLOADABLE = "cannot be loaded"
"""How the `.error` of a model that Keras does not load begins."""

MISFIT = "does not take the rows"
"""How the `.error` of a model begins that the example's rows do not fit."""

LINT = "lint.json"
"""What is known to suffer in the net, found before it is converted."""

CALLED = "called.json"
"""What people call the outputs, by the names that exporting gave them."""


class ConvertJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `job.json` says.

    Attributes:
        model: File name in the job's directory: `model.keras` or the folder `saved_model`.
        precisions: What to convert to, in order.
        trust: Whether code in the file, such as a Lambda layer, may be loaded and run.
    """

    model: str
    precisions: tuple[Precision, ...]
    trust: bool = False


def convert_all(
    job: Path,
    precisions: tuple[Precision, ...],
    calibration: NDArray[np.float32] | ConverterRows,
    make: Any,
) -> None:
    """Write `<precision>.tflite` or `<precision>.error` for each.

    Args:
        job: The job's directory.
        precisions: What to convert to, in order.
        calibration: Rows for the integer precisions; of several inputs a dict of arrays by name.
        make: Called without arguments; returns a fresh `TFLiteConverter`.
    """
    rows = (calibration,) if isinstance(calibration, np.ndarray) else calibration
    model = FloatModel(make_converter=make, calibration=rows)
    for number, precision in enumerate(precisions):
        report("convert", number / len(precisions), f"converting to {precision}")
        try:
            flatbuffer = quantized(ConverterQuantizer(), model, Recipe(precision=precision))
        except Exception as error:  # noqa: BLE001 - the converter raises what it likes; the parent types it
            text = f"{type(error).__name__}: {error}"
            write_file(job / f"{precision}.error", text.encode())
            continue
        write_file(job / f"{precision}.tflite", flatbuffer)


def main(job: Path) -> None:
    """Convert the model that `job.json` names."""
    die_with_parent()
    order = msgspec.json.decode((job / "job.json").read_bytes(), type=ConvertJob)
    report("convert", 0.0, "starting TensorFlow")
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    calibration = load_arrays(job, "calibration")
    source = job / order.model
    if source.is_dir():
        _answer(job, lambda probes: _run_saved(source, probes, job))
        convert_all(
            job,
            order.precisions,
            calibration,
            lambda: tf.lite.TFLiteConverter.from_saved_model(str(source)),
        )
        return
    import keras  # noqa: PLC0415 - only workers import Keras

    try:
        model = keras.models.load_model(source, compile=False, safe_mode=not order.trust)
    except Exception as error:  # noqa: BLE001 - whatever Keras says of a file is for the parent
        _refuse(job, order, f"{UNLOADABLE}: {error}")
        return
    write_file(job / LINT, msgspec.json.encode(lint_net(model)))
    try:
        _answer(job, lambda probes: answers_of(model, probes, job))
    except Exception as error:  # noqa: BLE001 - whatever the net says of the rows is for the parent
        _refuse(job, order, f"{MISFIT}: {error}")
        return
    convert_all(
        job,
        order.precisions,
        calibration,
        lambda: tf.lite.TFLiteConverter.from_keras_model(model),
    )


def _refuse(job: Path, order: ConvertJob, reason: str) -> None:
    for precision in order.precisions:
        write_file(job / f"{precision}.error", reason.encode())


def _answer(job: Path, answer: Callable[[Any], None]) -> None:
    """Let the net answer the probes, unless a live net has done so."""
    if any((job / f"probes.{kind}").exists() for kind in ("npy", "npz")) and not any(
        (job / f"answers.{kind}").exists() for kind in ("npy", "npz")
    ):
        answer(load_arrays(job, "probes"))


def answers_of(model: Any, rows: Any, job: Path) -> None:
    """Write a Keras model's answers, by the names that exporting gives its outputs.

    Args:
        model: The model.
        rows: An array, or for several inputs a dict by name.
        job: Where `answers` and what people call the outputs are written.
    """
    said = model.predict(_as_taken(model, rows), verbose=0)
    if isinstance(said, dict):
        save_arrays(job, "answers", {str(name): one for name, one in said.items()})
        return
    if not isinstance(said, list | tuple):
        save_arrays(job, "answers", said)
        return
    save_arrays(job, "answers", {f"output_{n}": one for n, one in enumerate(said)})
    names = getattr(model, "output_names", None) or []
    if len(names) == len(said):
        called = {f"output_{number}": str(name) for number, name in enumerate(names)}
        write_file(job / CALLED, msgspec.json.encode(called))


def _as_taken(model: Any, rows: Any) -> Any:
    """Return rows in the form that the model's inputs have: one, in a list, or by name."""
    inputs = getattr(model, "inputs", None)
    if not isinstance(rows, dict) or not inputs:
        return rows
    if lacking := [one.name for one in inputs if one.name not in rows]:
        raise ValueError(f"its inputs are {', '.join(lacking)}, the rows' arrays {', '.join(rows)}")
    # A Sequential model that was never called has `inputs`, but no `input`.
    if isinstance(getattr(model, "input", None), dict):
        return rows
    taken = [rows[one.name] for one in inputs]
    return taken[0] if len(taken) == 1 else taken


def _run_saved(source: Path, probes: Any, job: Path) -> None:
    """Let a SavedModel's default signature answer."""
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    serve = tf.saved_model.load(str(source)).signatures["serving_default"]
    names = list(serve.structured_input_signature[1])
    given = probes if isinstance(probes, dict) else {names[0]: probes}
    said = serve(**{name: tf.constant(one) for name, one in given.items()})
    save_arrays(job, "answers", {name: np.asarray(one) for name, one in said.items()})


def save_arrays(job: Path, name: str, arrays: Any) -> None:
    """Write an array as `<name>.npy`, or a dict of them as `<name>.npz`."""
    if isinstance(arrays, Mapping):
        named: dict[str, Any] = {key: np.asarray(one) for key, one in arrays.items()}
        np.savez(job / f"{name}.npz", **named)
    else:
        np.save(job / f"{name}.npy", np.asarray(arrays, dtype=np.float32))


def load_arrays(job: Path, name: str) -> Any:
    """Return what `save_arrays` wrote."""
    path = job / f"{name}.npz"
    if not path.exists():
        return np.load(job / f"{name}.npy", allow_pickle=False)
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
