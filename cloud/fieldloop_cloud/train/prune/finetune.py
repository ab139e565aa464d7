"""Training a pruned net for a little longer, and asking it for answers; only inside workers."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, UnsupportedError

Task = Literal["classification", "regression"]

_SUM_TOLERANCE = 1e-3
_GRADIENT_BATCHES = 8

Masks = Mapping[str, Sequence[NDArray[np.float32] | None]]
"""For each layer and weight 1 where it may change and 0 where it stays zero; None: all may."""


def shaped_for(model: Any, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give rows the net's input shape; they may come flat, or without a channel axis.

    Raises:
        DataError: They have another number of values.
        UnsupportedError: The net has several inputs or outputs.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UnsupportedError(
            f"the net has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
            where=model.name,
            advice="Use a net with one of each.",
        )
    shape = model.inputs[0].shape
    if any(size is None for size in shape[1:]):
        return rows
    if rows[:1].size != int(np.prod(shape[1:])):
        raise DataError(
            f"rows of shape {rows.shape[1:]} do not fit the net's input of {shape[1:]}",
            where=model.name,
            advice="Give rows as the net takes them.",
        )
    return rows.reshape(len(rows), *shape[1:])


def are_probabilities(answers: NDArray[np.float32]) -> bool:
    """Whether a net's answers, (n, …), look like probabilities, not like logits or values."""
    table = answers.reshape(len(answers), -1)
    if not ((table >= -_SUM_TOLERANCE).all() and (table <= 1 + _SUM_TOLERANCE).all()):
        return False
    return table.shape[1] == 1 or bool(np.allclose(table.sum(axis=1), 1.0, atol=_SUM_TOLERANCE))


class Tuning:
    """The rows, the loss and the schedule that all steps of one pruning share.

    Args:
        task: Whether the net answers classes or values.
        data: `x_train`, `y_train`, `x_held_out`, `y_held_out`.
        answers: The original net's answers on the held-out rows; tell probabilities from logits.
        batch: Rows of a training step.
        learning_rate: Of Adam.

    Raises:
        DataError: Classes that the net does not have, or values of another shape.
    """

    def __init__(
        self,
        task: Task,
        data: Mapping[str, NDArray[Any]],
        answers: NDArray[np.float32],
        *,
        batch: int,
        learning_rate: float,
    ) -> None:
        self._task = task
        self._data = data
        self._batch = batch
        self._learning_rate = learning_rate
        self._width = answers[:1].size
        self._from_logits = not are_probabilities(answers)
        self._check_truth(answers)

    def _check_truth(self, answers: NDArray[np.float32]) -> None:
        truth = np.concatenate([self._data["y_train"], self._data["y_held_out"]])
        if self._task == "regression":
            if truth[:1].size != answers[:1].size:
                raise DataError(
                    f"the net gives {answers[:1].size} values a row, y has {truth[:1].size}",
                    where="y",
                    advice="Give one value for each output.",
                )
        elif truth.max() >= max(2, self._width):
            raise DataError(
                f"y has class {int(truth.max())}, and the net answers {max(2, self._width)}",
                where="y",
                advice="Give class numbers from 0, in the order of the net's outputs.",
            )

    def loss(self) -> Any:
        """Return a fresh Keras loss."""
        import keras  # noqa: PLC0415 - only workers import Keras

        if self._task == "regression":
            return keras.losses.MeanSquaredError()
        if self._width == 1:
            return keras.losses.BinaryCrossentropy(from_logits=self._from_logits)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=self._from_logits)

    def answers(self, model: Any) -> NDArray[np.float32]:
        """Return the net's answers on the held-out rows, (n, …)."""
        made = model.predict(self._data["x_held_out"], verbose=0, batch_size=256)
        return np.asarray(made, dtype=np.float32)

    def choice(self, answers: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the class of each row."""
        table = answers.reshape(len(answers), -1)
        if self._width == 1:
            return (table[:, 0] > (0.0 if self._from_logits else 0.5)).astype(np.int64)
        return np.asarray(table.argmax(axis=1), dtype=np.int64)

    def held_out_loss(self, model: Any) -> float:
        """Return the loss on the held-out rows."""
        return float(self.loss()(self._shaped(self._data["y_held_out"]), self.answers(model)))

    def fit(self, model: Any, *, epochs: int, budget_s: float, masks: Masks | None = None) -> int:
        """Train until the held-out loss stops falling or the time is up; the best weights stay.

        Returns:
            The number of epochs begun.
        """
        import keras  # noqa: PLC0415 - only workers import Keras

        if epochs == 0:
            return 0
        model.compile(optimizer=keras.optimizers.Adam(self._learning_rate), loss=self.loss())
        patience = keras.callbacks.EarlyStopping(
            monitor="val_loss",
            patience=max(2, epochs // 4),
            restore_best_weights=True,
            start_from_epoch=0,
        )
        history = model.fit(
            self._data["x_train"],
            self._shaped(self._data["y_train"]),
            validation_data=(self._data["x_held_out"], self._shaped(self._data["y_held_out"])),
            epochs=epochs,
            batch_size=self._batch,
            verbose=0,
            callbacks=[patience, _deadline(budget_s), *([_masking(masks)] if masks else [])],
        )
        return len(history.epoch)

    def gradients(self, model: Any) -> list[dict[str, list[NDArray[Any]]]]:
        """Return the loss's gradient for every weight on some training batches, by layer."""
        import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

        loss, found = self.loss(), []
        rows = np.arange(len(self._data["x_train"]))
        for part in np.array_split(rows, max(1, len(rows) // self._batch))[:_GRADIENT_BATCHES]:
            with tf.GradientTape() as tape:
                said = model(self._data["x_train"][part], training=False)
                value = loss(self._shaped(self._data["y_train"][part]), said)
            weights = [weight for layer in model.layers for weight in layer.weights]
            slopes = tape.gradient(value, [weight.value for weight in weights])
            arrays = iter(
                np.zeros(weight.shape) if slope is None else np.asarray(slope)
                for weight, slope in zip(weights, slopes, strict=True)
            )
            found.append(
                {layer.name: [next(arrays) for _ in layer.weights] for layer in model.layers}
            )
        return found

    def _shaped(self, truth: NDArray[Any]) -> NDArray[Any]:
        single = self._task == "classification" and self._width > 1
        return truth if single else truth.reshape(len(truth), -1)


def _deadline(budget_s: float) -> Any:
    import keras  # noqa: PLC0415 - only workers import Keras

    until = time.monotonic() + budget_s

    class Deadline(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            del batch, logs
            if time.monotonic() > until:
                self.model.stop_training = True

    return Deadline()


def _masking(masks: Masks) -> Any:
    import keras  # noqa: PLC0415 - only workers import Keras

    class Masking(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            del batch, logs
            for name, layer_masks in masks.items():
                for weight, mask in zip(
                    self.model.get_layer(name).weights, layer_masks, strict=True
                ):
                    if mask is not None:
                        weight.assign(weight * mask)

    return Masking()
