"""The converter's own process: Keras or SavedModel to TFLite, one precision after another.

Run as `python -m fieldloop_cloud.compile.keras_worker JOB_DIR`. A precision that fails leaves
`<precision>.error`; one that takes the process down leaves nothing, which the parent notices.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.manifest import Precision
from fieldloop_cloud.compile.quantizers import convert
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.files import write_file

UNLOADABLE = "cannot be loaded"
"""How the `.error` of a model that Keras does not load begins."""


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
    calibration: NDArray[np.float32] | tuple[NDArray[np.float32], ...],
    make: Any,
) -> None:
    """Write `<precision>.tflite` or `<precision>.error` for each.

    Args:
        job: The job's directory.
        precisions: What to convert to, in order.
        calibration: Rows for the integer precisions; with several inputs an array for each.
        make: Called without arguments; returns a fresh `TFLiteConverter`.
    """
    rows = calibration if isinstance(calibration, tuple) else (calibration,)
    for number, precision in enumerate(precisions):
        report("convert", number / len(precisions), f"converting to {precision}")
        try:
            flatbuffer = convert(make(), precision, rows)
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

    calibration = np.load(job / "calibration.npy", allow_pickle=False)
    source = job / order.model
    if source.is_dir():
        _answer(job, lambda probes: _run_saved(source, probes))
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
        for precision in order.precisions:
            write_file(job / f"{precision}.error", f"{UNLOADABLE}: {error}".encode())
        return
    _answer(job, lambda probes: model.predict(probes, verbose=0))
    convert_all(
        job,
        order.precisions,
        calibration,
        lambda: tf.lite.TFLiteConverter.from_keras_model(model),
    )


def _answer(job: Path, answer: Callable[[NDArray[np.float32]], Any]) -> None:
    """Write the net's own answers for the probes, unless a live net has given them."""
    probes = job / "probes.npy"
    if probes.exists() and not (job / "answers.npy").exists():
        answers = answer(np.load(probes, allow_pickle=False))
        np.save(job / "answers.npy", np.asarray(answers, dtype=np.float32))


def _run_saved(source: Path, probes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a SavedModel by its default signature."""
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    serve = tf.saved_model.load(str(source)).signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]
    (output,) = serve(**{name: tf.constant(probes)}).values()
    return np.asarray(output, dtype=np.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
