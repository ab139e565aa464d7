"""The net's own process: train, keep the best epoch, save, and convert in the same import.

Run as `python -m fieldloop_cloud.train.deep_worker JOB_DIR`.
"""

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.manifest import Precision
from fieldloop_cloud.compile.keras_worker import convert_all
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.train.cnn import CnnPlan


class DeepJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `job.json` says.

    Attributes:
        plan: The net.
        epochs: Most epochs.
        batch: Rows per step.
        learning_rate: Of Adam.
        patience: Epochs without improvement before stopping.
        seed: Of weights, order and dropout.
        train_s: Training stops after this many seconds, keeping the best epoch so far.
        precisions: What to convert to afterwards.
    """

    plan: CnnPlan
    epochs: int
    batch: int
    learning_rate: float
    patience: int
    seed: int
    train_s: float
    precisions: tuple[Precision, ...]


class DeepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `result.json` says: epochs run, the best one (from 1), and seconds of training."""

    epochs: int
    best_epoch: int
    train_s: float
    stopped_by_time: bool


def build(plan: CnnPlan) -> Any:
    """Build the Keras model of a plan."""
    from keras import Input, Sequential, layers  # noqa: PLC0415 - only workers import Keras

    stack: list[Any] = [Input((plan.height, plan.width, plan.channels))]
    for number, filters in enumerate(plan.filters):
        stack.append(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        if number:
            stack.append(layers.MaxPooling2D(2))
    stack.append(layers.Flatten() if plan.flatten else layers.GlobalAveragePooling2D())
    stack.append(layers.Dropout(0.25))
    stack.append(layers.Dense(plan.dense, activation="relu"))
    stack.append(layers.Dense(plan.classes, activation="softmax", name="probabilities"))
    return Sequential(stack)


def _watch(order: DeepJob, started: float) -> Any:
    import keras  # noqa: PLC0415 - only workers import Keras

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        """Reports each epoch and stops when the time is up."""

        expired = False

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            loss = (logs or {}).get("val_loss", float("nan"))
            text = f"epoch {epoch + 1} of {order.epochs}, held-out loss {loss:.4f}"
            report("train", (epoch + 1) / order.epochs, text)
            if time.monotonic() - started > order.train_s:
                self.expired = True
                self.model.stop_training = True

    return Watch()


def _fit(model: Any, order: DeepJob, data: dict[str, NDArray[Any]]) -> DeepResult:
    """Train until the held-out loss stops falling or the time is up; the best weights stay."""
    import keras  # noqa: PLC0415 - only workers import Keras

    model.compile(
        optimizer=keras.optimizers.Adam(order.learning_rate),
        loss="sparse_categorical_crossentropy",
    )
    started = time.monotonic()
    watch = _watch(order, started)
    best = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=order.patience, restore_best_weights=True
    )
    history = model.fit(
        data["x_train"],
        data["y_train"],
        validation_data=(data["x_stop"], data["y_stop"]),
        epochs=order.epochs,
        batch_size=order.batch,
        verbose=0,
        callbacks=[best, watch],
    )
    losses = history.history["val_loss"]
    return DeepResult(
        epochs=len(losses),
        best_epoch=int(np.nanargmin(losses)) + 1 if np.isfinite(losses).any() else 0,
        train_s=time.monotonic() - started,
        stopped_by_time=watch.expired,
    )


def main(job: Path) -> None:
    """Train and convert what `job.json` describes."""
    die_with_parent()
    order = msgspec.json.decode((job / "job.json").read_bytes(), type=DeepJob)
    report("train", 0.0, "starting TensorFlow")
    import keras  # noqa: PLC0415 - only workers import Keras
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    keras.utils.set_random_seed(order.seed)
    tf.config.experimental.enable_op_determinism()
    data = {name: np.load(job / f"{name}.npy", allow_pickle=False) for name in _ARRAYS}
    model = build(order.plan)
    result = _fit(model, order, data)
    model.save(job / "model.keras")
    np.save(job / "answers.npy", model.predict(data["probes"], verbose=0))
    # Written last: its presence says that the training is whole.
    (job / "result.json").write_bytes(msgspec.json.encode(result))
    convert_all(
        job,
        order.precisions,
        data["calibration"],
        lambda: tf.lite.TFLiteConverter.from_keras_model(model),
    )


_ARRAYS = ("x_train", "y_train", "x_stop", "y_stop", "calibration", "probes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
