"""The converter's own process: Keras or SavedModel to TFLite, one precision after another.

Run as `python -m fieldloop_cloud.compile.keras_worker JOB_DIR`. A precision that fails leaves
`<precision>.error`; one that takes the process down leaves nothing, which the parent notices.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.manifest import Precision
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.files import write_file

UNLOADABLE = "cannot be loaded"
"""How the `.error` of a model that Keras does not load begins."""


class ConvertJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `job.json` says.

    Attributes:
        model: File name in the job's directory: `model.keras` or the folder `saved_model`.
        precisions: What to convert to, in order.
    """

    model: str
    precisions: tuple[Precision, ...]


def convert(converter: Any, precision: Precision, calibration: NDArray[np.float32]) -> bytes:
    """Convert with builtin ops only.

    Args:
        converter: A `tf.lite.TFLiteConverter`.
        precision: What to quantize to; inputs and outputs stay float32.
        calibration: Rows of the model's input; used by the integer precisions.
    """
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    def rows() -> Iterator[list[NDArray[np.float32]]]:
        for row in calibration:
            yield [row[np.newaxis]]

    ops = tf.lite.OpsSet
    converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS]
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif precision == "dynamic":
        # Per-channel Dense weights need FULLY_CONNECTED version 12, newer than TFLite 2.14.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True  # noqa: SLF001 - the only switch there is
    elif precision == "int8":
        converter.representative_dataset = rows
        converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS_INT8]
    elif precision == "int16x8":
        converter.representative_dataset = rows
        converter.target_spec.supported_ops = [
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    return bytes(converter.convert())


def convert_all(
    job: Path, precisions: tuple[Precision, ...], calibration: NDArray[np.float32], make: Any
) -> None:
    """Write `<precision>.tflite` or `<precision>.error` for each.

    Args:
        job: The job's directory.
        precisions: What to convert to, in order.
        calibration: Rows for the integer precisions.
        make: Called without arguments; returns a fresh `TFLiteConverter`.
    """
    for number, precision in enumerate(precisions):
        report("convert", number / len(precisions), f"converting to {precision}")
        try:
            flatbuffer = convert(make(), precision, calibration)
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
        convert_all(
            job,
            order.precisions,
            calibration,
            lambda: tf.lite.TFLiteConverter.from_saved_model(str(source)),
        )
        return
    import keras  # noqa: PLC0415 - only workers import Keras

    try:
        model = keras.models.load_model(source, compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001 - whatever Keras says of a file is for the parent
        for precision in order.precisions:
            write_file(job / f"{precision}.error", f"{UNLOADABLE}: {error}".encode())
        return
    probes = job / "probes.npy"
    if probes.exists():
        answers = model.predict(np.load(probes, allow_pickle=False), verbose=0)
        np.save(job / "answers.npy", np.asarray(answers, dtype=np.float32))
    convert_all(
        job,
        order.precisions,
        calibration,
        lambda: tf.lite.TFLiteConverter.from_keras_model(model),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
