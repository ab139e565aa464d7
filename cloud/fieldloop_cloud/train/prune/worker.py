"""The pruning process: prune a little, fine-tune, compare with the original, again.

Run as `python -m fieldloop_cloud.train.prune.worker JOB_DIR`. It leaves `result.json` and, if a
round was good enough, `pruned.keras`; `before.tflite` and `after.tflite` are float32.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import FieldloopError, UnsupportedError
from fieldloop_cloud.compile.quantize import Gate, classification_gate, regression_gate
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.files import write_file
from fieldloop_cloud.train.nets.job import tell_error
from fieldloop_cloud.train.prune.channels import Trace, trace
from fieldloop_cloud.train.prune.finetune import Tuning, shaped_for
from fieldloop_cloud.train.prune.importance import channel_scores
from fieldloop_cloud.train.prune.job import PruneJob, PruneResult, PruneStep
from fieldloop_cloud.train.prune.selection import (
    Family,
    allotted,
    least_important,
    least_of_each,
)
from fieldloop_cloud.train.prune.shrink import flattened, shrunk, silenced
from fieldloop_cloud.train.prune.weights import density, masked, masks_for

ARRAYS = ("x_train", "y_train", "x_held_out", "y_held_out")
_SWEPT = (0.25, 0.5, 0.75)


class _Pruning:
    """One run: the original's answers, the rounds, and what came of them."""

    def __init__(self, order: PruneJob, model: Any, data: Mapping[str, NDArray[Any]]) -> None:
        self.order = order
        self.model = model
        original = np.asarray(
            model.predict(data["x_held_out"], verbose=0, batch_size=256), dtype=np.float32
        )
        self.tuning = Tuning(
            order.task, data, original, batch=order.batch, learning_rate=order.learning_rate
        )
        self._original = original
        self._truth = data["y_held_out"]
        self._channel_count = 0
        self.sensitivity: dict[Family, tuple[tuple[float, float], ...]] = {}

    def rounds(self) -> tuple[Any | None, list[PruneStep]]:
        """Prune and fine-tune until a round is refused; return the last good net."""
        order, best, steps = self.order, None, []
        until = time.monotonic() + order.budget_s
        for number in range(1, order.steps + 1):
            share = 1 - (1 - order.share) ** (number / order.steps)
            report("prune", (number - 1) / order.steps, f"round {number} of {order.steps}")
            budget_s = max(0.0, until - time.monotonic()) / (order.steps - number + 1)
            if order.method == "channels":
                pruned, epochs, left = self._without_channels(share, budget_s)
            else:
                pruned, epochs, left = self._without_weights(share, budget_s)
            gate = self._gate(self.tuning.answers(pruned))
            kept = gate.drop <= order.epsilon
            steps.append(
                PruneStep(share=share, parameter_count=left, epochs=epochs, gate=gate, kept=kept)
            )
            report("prune", number / order.steps, f"{share:.0%} gone: {gate.reason}")
            if not kept:
                break
            best = self.model = pruned
        return best, steps

    def _without_channels(self, share: float, budget_s: float) -> tuple[Any, int, int]:
        channels = trace(self.model)
        left = sum(map(len, channels.families().values()))
        self._channel_count = self._channel_count or left
        now = 1 - (1 - share) * self._channel_count / max(left, 1)
        gone = self._chosen(channels, max(0.0, now))
        smaller = shrunk(self.model, channels, gone)
        epochs = self.tuning.fit(smaller, epochs=self.order.epochs, budget_s=budget_s)
        return smaller, epochs, density(smaller)

    def _chosen(self, channels: Trace, share: float) -> frozenset[int]:
        order = self.order
        scores = channel_scores(
            channels, order.importance, lambda: self.tuning.gradients(self.model)
        )
        families = channels.families()
        if not families:
            raise UnsupportedError(
                "the net has no channels that may go: all belong to its inputs and outputs",
                where=self.model.name,
                advice="Prune a net with hidden layers.",
            )
        if order.scope == "global":
            return least_important(channels, scores, share, multiple_of=order.multiple_of)
        shares = dict.fromkeys(families, share)
        if order.scope == "sensitivity":
            self.sensitivity = self.sensitivity or self._swept(channels, scores)
            sizes = {family: len(groups) for family, groups in families.items()}
            shares = allotted(self.sensitivity, sizes, share)
        return least_of_each(channels, scores, shares, multiple_of=order.multiple_of)

    def _swept(
        self, channels: Trace, scores: Mapping[int, float]
    ) -> dict[Family, tuple[tuple[float, float], ...]]:
        """Silence a share of each layer alone and see by how much the held-out loss grows."""
        model, base = self.model, self.tuning.held_out_loss(self.model)
        weights, curves = model.get_weights(), {}
        for family in channels.families():
            points = []
            for part in _SWEPT:
                quiet = silenced(channels, least_of_each(channels, scores, {family: part}))
                for name, values in quiet.items():
                    model.get_layer(name).set_weights(values)
                points.append((part, self.tuning.held_out_loss(model) - base))
                model.set_weights(weights)
            curves[family] = tuple(points)
        return curves

    def _without_weights(self, share: float, budget_s: float) -> tuple[Any, int, int]:
        masks = masks_for(self.model, share)
        masked(self.model, masks)
        epochs = self.tuning.fit(
            self.model, epochs=self.order.epochs, budget_s=budget_s, masks=masks
        )
        masked(self.model, masks)
        return self.model, epochs, density(self.model)

    def _gate(self, answers: NDArray[np.float32]) -> Gate:
        epsilon = self.order.epsilon
        if self.order.task == "regression":
            values = self._truth.reshape(-1).astype(np.float32)
            return regression_gate(
                values, self._original.reshape(-1), answers.reshape(-1), epsilon=epsilon
            )
        choice = self.tuning.choice
        classes = self._truth.astype(np.int64)
        return classification_gate(
            classes, choice(self._original), choice(answers), epsilon=epsilon
        )


def main(job: Path) -> None:
    """Prune the net that lies in the job's directory."""
    die_with_parent()
    order = msgspec.json.decode((job / "job.json").read_bytes(), type=PruneJob)
    report("prune", 0.0, "starting TensorFlow")
    try:
        _run(job, order)
    except FieldloopError as error:
        tell_error(job, error)


def _run(job: Path, order: PruneJob) -> None:
    import keras  # noqa: PLC0415 - only workers import Keras

    keras.utils.set_random_seed(order.seed)
    data = {name: np.load(job / f"{name}.npy", allow_pickle=False) for name in ARRAYS}
    model = flattened(_loaded(job / "model.keras"))
    for name in ("x_train", "x_held_out"):
        data[name] = shaped_for(model, data[name])
    widths, original = _widths(model), density(model)
    if order.method == "channels":
        trace(model)  # says what it cannot follow before anything takes time
    write_file(job / "before.tflite", _converted(model))
    pruning = _Pruning(order, model, data)
    best, steps = pruning.rounds()
    if best is not None:
        best.save(job / "pruned.keras")
        write_file(job / "after.tflite", _converted(best))
    result = PruneResult(
        steps=tuple(steps),
        parameter_count=original,
        channels={
            name: (widths[name], width)
            for name, width in (_widths(best) if best is not None else {}).items()
            if widths[name] != width
        },
        sensitivity={" + ".join(family): curve for family, curve in pruning.sensitivity.items()},
    )
    write_file(job / "result.json", msgspec.json.encode(result))


def _loaded(path: Path) -> Any:
    import keras  # noqa: PLC0415 - only workers import Keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise UnsupportedError(
            f"the net cannot be loaded: {' '.join(str(error).split())[:300]}",
            where=path.name,
            advice="Use layers that Keras loads in safe mode.",
        ) from error


def _widths(model: Any) -> dict[str, int]:
    """Return the output channels of every layer with weights."""
    return {layer.name: int(layer.output.shape[-1]) for layer in model.layers if layer.weights}


def _converted(model: Any) -> bytes:
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    try:
        return bytes(converter.convert())
    except Exception as error:
        raise UnsupportedError(
            f"the net does not convert to TFLite: {' '.join(str(error).split())[:200]}",
            where=model.name,
            advice="See `fieldloop compile`, which names the layer.",
        ) from error


if __name__ == "__main__":
    main(Path(sys.argv[1]))
