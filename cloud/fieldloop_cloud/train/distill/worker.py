"""The distilling process: asks a net that teaches, or trains a net that learns.

Run as `python -m fieldloop_cloud.train.distill.worker JOB_DIR`. Asking leaves `answers.npy`,
learning `student.keras` and, last, `result.json`; an error is left as `error.json`.
"""

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, FieldloopError, UnsupportedError
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.job import tell_error
from fieldloop_cloud.train.prune.finetune import are_probabilities, shaped_for

_TINY = 1e-7
_PROBED = 64


class DistillJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `job.json` says.

    Attributes:
        asks: Whether a teacher is asked; else a student learns.
        alpha: Weight of the teacher; the labels have the rest.
        temperature: At which teacher and student are compared.
        epochs: Most epochs.
        batch: Rows of a training step.
        learning_rate: Of Adam.
        seed: Of everything random.
        budget_s: Training stops then, keeping the best epoch.
    """

    asks: bool = False
    alpha: float = 1.0
    temperature: float = 1.0
    epochs: int = 0
    batch: int = 32
    learning_rate: float = 1e-3
    seed: int = 0
    budget_s: float = 600.0


class DistillResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `result.json` says: the epochs run and the lowest held-out loss."""

    epochs: int
    held_out_loss: float


def main(job: Path) -> None:
    """Ask or learn, as `job.json` says."""
    die_with_parent()
    order = msgspec.json.decode((job / "job.json").read_bytes(), type=DistillJob)
    report("distill", 0.0, "starting TensorFlow")
    try:
        model = _loaded(job / "model.keras", order.seed)
        rows = shaped_for(model, np.load(job / "rows.npy", allow_pickle=False))
        if order.asks:
            said = model.predict(rows, verbose=0, batch_size=256)
            np.save(job / "answers.npy", np.asarray(said, dtype=np.float32))
            return
        learn(job, order, model, rows)
    except FieldloopError as error:
        tell_error(job, error)


def _loaded(path: Path, seed: int) -> Any:
    """Load a net that shows its inputs and outputs."""
    import keras  # noqa: PLC0415 - only workers import Keras

    keras.utils.set_random_seed(seed)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise UnsupportedError(
            f"the net cannot be loaded: {' '.join(str(error).split())[:300]}",
            where=path.name,
            advice="Use layers that Keras loads in safe mode.",
        ) from error
    if getattr(model, "inputs", None) is None or getattr(model, "outputs", None) is None:
        raise UnsupportedError(
            "the net is a subclassed model, whose inputs cannot be seen",
            where=type(model).__name__,
            advice="Build it with keras.Model(inputs, outputs) or keras.Sequential.",
        )
    return model


def learn(job: Path, order: DistillJob, model: Any, rows: NDArray[np.float32]) -> None:
    """Train a student on the lesson that lies in the job's directory, and save it."""
    import keras  # noqa: PLC0415 - only workers import Keras

    lesson = np.load(job / "lesson.npy", allow_pickle=False)
    held_out = np.load(job / "held_out.npy", allow_pickle=False)
    said = np.asarray(model.predict(rows[:_PROBED], verbose=0), dtype=np.float32)
    is_classifier = lesson.shape[1] > 1
    _check_width(model, said, lesson.shape[1] // 2 if is_classifier else 1)
    loss: Any = keras.losses.MeanSquaredError()
    if is_classifier:
        loss = _soft_loss(order, from_logits=not are_probabilities(said))
    model.compile(optimizer=keras.optimizers.Adam(order.learning_rate), loss=loss)
    history = model.fit(
        rows[~held_out],
        lesson[~held_out],
        validation_data=(rows[held_out], lesson[held_out]),
        epochs=order.epochs,
        batch_size=order.batch,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping(
                monitor="val_loss", patience=max(3, order.epochs // 6), restore_best_weights=True
            ),
            _watch(order),
        ],
    )
    model.save(job / "student.keras")
    said = model.predict(rows, verbose=0, batch_size=256)
    np.save(job / "answers.npy", np.asarray(said, dtype=np.float32))
    losses = history.history["val_loss"]
    result = DistillResult(epochs=len(losses), held_out_loss=float(np.nanmin(losses)))
    write_file(job / "result.json", msgspec.json.encode(result))


def _check_width(model: Any, said: NDArray[np.float32], classes: int) -> None:
    width = said[:1].size
    if width != classes and not (width == 1 and classes == 2):  # noqa: PLR2004 - a sigmoid
        raise DataError(
            f"the student answers {width} values, the teacher {classes}",
            where=model.name,
            advice="Give the student one output for each of the teacher's classes.",
        )


def _soft_loss(order: DistillJob, *, from_logits: bool) -> Any:
    """Return the loss of Hinton et al. 2015: the teacher's soft labels and the hard ones.

    A row of the lesson holds the teacher's probabilities at the temperature and the true class as
    zeros and a one, all zeros where it is not known. The soft part is multiplied with the
    temperature squared, so that both parts keep their weight in the gradient.
    """
    from keras import ops  # noqa: PLC0415 - only workers import Keras

    def logits_of(answers: Any) -> Any:
        if answers.shape[-1] != 1:
            return answers if from_logits else ops.log(ops.maximum(answers, _TINY))
        if from_logits:
            return ops.concatenate([ops.zeros_like(answers), answers], axis=-1)
        certain = ops.clip(answers, _TINY, 1 - _TINY)
        return ops.log(ops.concatenate([1 - certain, certain], axis=-1))

    def loss(lesson: Any, answers: Any) -> Any:
        soft, hard = ops.split(lesson, 2, axis=-1)
        logits = logits_of(answers)
        cool = ops.log_softmax(logits / order.temperature, axis=-1)
        taught = -ops.sum(soft * cool, axis=-1) * order.temperature**2
        labelled = -ops.sum(hard * ops.log_softmax(logits, axis=-1), axis=-1)
        return order.alpha * taught + (1 - order.alpha) * labelled

    return loss


def _watch(order: DistillJob) -> Any:
    import keras  # noqa: PLC0415 - only workers import Keras

    until = time.monotonic() + order.budget_s

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            loss = (logs or {}).get("val_loss", float("nan"))
            text = f"epoch {epoch + 1} of {order.epochs}, held-out loss {loss:.4f}"
            report("distill", (epoch + 1) / order.epochs, text)
            if time.monotonic() > until:
                self.model.stop_training = True

    return Watch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
