"""From a plan to a Keras model; only workers call this.

The model takes encoded rows and ends in what is trained: class probabilities, or a standardised
value. `finished` adds what turns that value back into the target's unit.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from fieldloop_cloud.train.nets.plans import Cnn1dPlan, CnnPlan, GruPlan, MlpPlan, NetPlan
from fieldloop_cloud.train.nets.scaling import Scaling
from fieldloop_cloud.train.transfer.build import transfer_body
from fieldloop_cloud.train.transfer.plan import TransferPlan

Head = Literal["softmax", "sigmoid", "linear"]


def head_of(classes: int, objective: str) -> Head:
    """Return the last activation: one sigmoid for `binary_cross_entropy`, else softmax."""
    if not classes:
        return "linear"
    return "sigmoid" if objective == "binary_cross_entropy" else "softmax"


def build(
    plan: NetPlan,
    *,
    head: Head | None = None,
    scaling: Scaling | None = None,
    unrolled: bool = True,
) -> Any:
    """Build the Keras model of a plan, weights as drawn.

    Args:
        plan: The net.
        head: The last activation; by default softmax, or linear for a regression.
        scaling: Statistics to fold in; None changes nothing.
        unrolled: Whether recurrent layers are, as TFLite's builtin ops need them. A loop learns
            the same weights and is compiled much sooner.
    """
    import keras  # noqa: PLC0415 - only workers import Keras

    inputs = keras.Input(plan.input_shape, name="x")
    known = scaling or Scaling.neutral(plan.input_shape[-1])
    if isinstance(plan, GruPlan):
        body = _gru(plan, inputs, known, unrolled=unrolled)
    else:
        body = _BODIES[type(plan)](plan, inputs, known)
    return keras.Model(inputs, _head(plan.classes, head or head_of(plan.classes, "auto"))(body))


def finished(model: Any, scaling: Scaling, head: Head) -> Any:
    """Return the model that is shipped: a value comes out in the target's own unit."""
    import keras  # noqa: PLC0415 - only workers import Keras

    if head != "linear":
        return model
    layer = keras.layers.Rescaling(
        scaling.target_std, offset=scaling.target_mean, name="value", dtype="float32"
    )
    return keras.Model(model.inputs, layer(model.outputs[0]))


def _head(classes: int, head: Head) -> Any:
    from keras import layers  # noqa: PLC0415 - only workers import Keras

    # Always float32: a half-precision softmax loses the small probabilities.
    if head == "linear":
        return layers.Dense(1, name="standardised", dtype="float32")
    width = 1 if head == "sigmoid" else classes
    return layers.Dense(width, activation=head, name="probabilities", dtype="float32")


def _cnn(plan: CnnPlan, inputs: Any, scaling: Scaling) -> Any:  # noqa: ARG001 - pixels share one scale already
    from keras import layers  # noqa: PLC0415 - only workers import Keras

    x = inputs
    for number, filters in enumerate(plan.filters):
        if plan.batch_norm:
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        else:
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        if number:
            x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x) if plan.flatten else layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(plan.dropout)(x)
    return layers.Dense(plan.dense, activation="relu")(x)


def _mlp(plan: MlpPlan, inputs: Any, scaling: Scaling) -> Any:
    from keras import layers  # noqa: PLC0415 - only workers import Keras

    x = _columns(plan, inputs, scaling)
    for units in plan.hidden:
        x = layers.Dense(units, activation="relu")(x)
        x = layers.Dropout(plan.dropout)(x)
    return x


def _columns(plan: MlpPlan, inputs: Any, scaling: Scaling) -> Any:
    """Fill, scale and one-hot inside the graph; an unknown category (-1, NaN) is all zeros."""
    from keras import layers, ops  # noqa: PLC0415 - only workers import Keras

    parts = []
    for start, end in _runs(plan.columns):
        column = inputs[:, start:end]
        if plan.columns[start]:
            codes = np.arange(plan.columns[start], dtype=np.float32)[np.newaxis]
            parts.append(ops.cast(ops.equal(column, codes), "float32"))
            continue
        mean = np.asarray([scaling.mean[start:end]], dtype=np.float32)
        # NaN alone differs from itself; NOT_EQUAL is a builtin op of every runtime.
        filled = ops.where(ops.not_equal(column, column), mean, column)
        variance = np.asarray(scaling.std[start:end], dtype=np.float32) ** 2
        parts.append(layers.Normalization(mean=mean[0], variance=variance)(filled))
    return parts[0] if len(parts) == 1 else layers.Concatenate()(parts)


def _runs(columns: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (start, end) of neighbouring numbers together and of each category alone."""
    runs: list[tuple[int, int]] = []
    for index, codes in enumerate(columns):
        if runs and not codes and not columns[runs[-1][0]]:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def _scaled_channels(inputs: Any, scaling: Scaling) -> Any:
    from keras import layers  # noqa: PLC0415 - only workers import Keras

    variance = np.asarray(scaling.std, dtype=np.float32) ** 2
    return layers.Normalization(mean=np.asarray(scaling.mean, np.float32), variance=variance)(
        inputs
    )


def _cnn1d(plan: Cnn1dPlan, inputs: Any, scaling: Scaling) -> Any:
    from keras import layers  # noqa: PLC0415 - only workers import Keras

    x = _scaled_channels(inputs, scaling)
    for number, filters in enumerate(plan.filters):
        x = layers.Conv1D(filters, plan.kernel_size, padding="same", activation="relu")(x)
        if number:
            x = layers.MaxPooling1D(2)(x)
    x = layers.Dropout(plan.dropout)(layers.GlobalAveragePooling1D()(x))
    return layers.Dense(plan.dense, activation="relu")(x)


def _transfer(plan: TransferPlan, inputs: Any, scaling: Scaling) -> Any:  # noqa: ARG001 - the family says how pixels are scaled
    return transfer_body(plan, inputs)


def _gru(plan: GruPlan, inputs: Any, scaling: Scaling, *, unrolled: bool) -> Any:
    from keras import layers  # noqa: PLC0415 - only workers import Keras

    x = _scaled_channels(inputs, scaling)
    gather = layers.Conv1D(
        plan.filters, plan.kernel_size, strides=plan.stride, padding="same", activation="relu"
    )
    x = layers.GRU(plan.units, unroll=unrolled)(gather(x))
    return layers.Dropout(plan.dropout)(x)


_BODIES: dict[type, Callable[[Any, Any, Scaling], Any]] = {
    CnnPlan: _cnn,
    MlpPlan: _mlp,
    Cnn1dPlan: _cnn1d,
    TransferPlan: _transfer,
}
