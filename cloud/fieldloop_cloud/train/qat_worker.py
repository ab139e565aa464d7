"""Quantization-aware training's own process: load the net, fine-tune it, convert it to int8.

Run as `python -m fieldloop_cloud.train.qat_worker JOB_DIR`.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fieldloop.errors import FieldloopError, UnsupportedError
from fieldloop_cloud.compile.keras_worker import convert_all
from fieldloop_cloud.compile.worker import die_with_parent, last_line, report
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.job import tell_error
from fieldloop_cloud.train.nets.objectives import row_losses
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.qat import QatSettings, quantization_aware


class QatJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `job.json` says.

    Attributes:
        settings: How to fine-tune.
        net: What the net was trained with; its objective is used again.
        classes: How many; 0 for values.
        spread: Standard deviation of the values; losses are in its units.
        trust: Whether code in the model's file may be loaded and run.
    """

    settings: QatSettings
    net: NetSettings
    classes: int
    spread: float = 1.0
    trust: bool = False


def main(job: Path) -> None:
    """Fine-tune `model.keras` on `x.npy` and `y.npy`; write `int8.tflite` and `losses.json`."""
    die_with_parent()
    order = msgspec.json.decode((job / "job.json").read_bytes(), type=QatJob)
    report("qat", 0.0, "starting TensorFlow")
    try:
        aware = _fine_tuned(job, order)
    except FieldloopError as error:
        tell_error(job, error)
        return
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    # Without rows: the net carries its ranges.
    convert_all(job, ("int8",), (), lambda: tf.lite.TFLiteConverter.from_keras_model(aware))


def _fine_tuned(job: Path, order: QatJob) -> Any:
    import keras  # noqa: PLC0415 - only workers import Keras

    try:
        model = keras.models.load_model(
            job / "model.keras", compile=False, safe_mode=not order.trust
        )
    except Exception as error:
        raise UnsupportedError(
            f"the saved model cannot be loaded: {last_line(str(error))}",
            where="model.keras",
            advice="Use layers that Keras loads in safe mode.",
        ) from error
    losses: list[float] = []

    def told(epoch: int, loss: float) -> None:
        losses.append(loss)
        epochs = order.settings.epochs
        report("qat", epoch / epochs, f"rounded epoch {epoch} of {epochs}, loss {loss:.4f}")

    made = quantization_aware(
        model,
        np.load(job / "x.npy", allow_pickle=False),
        np.load(job / "y.npy", allow_pickle=False),
        loss=_loss(order),
        settings=order.settings,
        on_epoch=told,
    )
    write_file(job / "losses.json", msgspec.json.encode(losses))
    return made


def _loss(order: QatJob) -> Callable[[Any, Any], Any]:
    from keras import ops  # noqa: PLC0415 - only workers import Keras

    losses = row_losses(order.net.resolved(order.classes), order.classes)

    def loss(truth: Any, said: Any) -> Any:
        flat = ops.reshape(truth, (-1,))
        if order.classes:
            return losses(flat, said)
        return losses(ops.cast(flat, "float32") / order.spread, said / order.spread)

    return loss


if __name__ == "__main__":
    main(Path(sys.argv[1]))
