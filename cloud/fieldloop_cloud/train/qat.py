"""Quantization-aware training: a net learns with the rounding that int8 will do to it.

BatchNorm is folded first, for the device has none. Then every weight and activation is rounded to
its int8 grid in the forward pass, while gradients pass straight through; ranges are moving
averages, so no calibration set is needed (Jacob et al., "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", 2018). It continues a trained net with a
small learning rate.

Only for workers: Keras is imported when a function is called.
"""

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import GateError, UnsupportedError
from fieldloop_cloud.train.fake_quant import quantized_layers
from fieldloop_cloud.train.folding import (
    WEIGHTED,
    Folds,
    activation_name,
    folded_weights,
    folds_of,
)
from fieldloop_cloud.train.rebuild import Call, Graph, graph_of, rebuild

_FUSED = frozenset({"linear", "relu", "relu6"})
"""Activations that TFLite computes inside the layer before them."""

_BOUNDED = frozenset({"softmax", "sigmoid", "tanh"})
"""Activations whose range is known without looking."""

_MOVING = frozenset(
    {
        "MaxPooling1D", "MaxPooling2D", "AveragePooling1D", "AveragePooling2D",
        "GlobalMaxPooling1D", "GlobalMaxPooling2D", "Flatten", "Reshape", "Permute", "Dropout",
        "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout",
        "ZeroPadding1D", "ZeroPadding2D", "Cropping1D", "Cropping2D", "UpSampling1D",
        "UpSampling2D", "Identity", "InputLayer", "Softmax", "RandomFlip", "RandomTranslation",
        "RandomRotation", "RandomZoom", "RandomContrast", "RandomBrightness", "GetItem",
        "Squeeze", "ExpandDims",
    }
)  # fmt: skip
"""Layers that keep their input's range, or have a fixed one, or do nothing on a device."""

_MIXING = frozenset(
    {
        "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "ReLU",
        "LeakyReLU", "ELU", "Activation", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
        "BatchNormalization", "Rescaling", "Normalization", "Mean", "Relu", "Relu6", "Silu",
        "HardSilu", "TrueDivide", "Sigmoid", "HardSigmoid",
    }
)  # fmt: skip
"""Layers whose results have a range of their own."""

_SCALING = frozenset({"Rescaling", "Normalization"})

_RANGE_BATCHES = 10


class QatSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to fine-tune.

    Attributes:
        epochs: Passes over the rows.
        batch: Rows a step.
        learning_rate: Adam's; falls to zero along a cosine.
        momentum: Of the moving averages of the ranges.
        seed: Of the order and of dropout.
    """

    epochs: int = 5
    batch: int = 32
    learning_rate: float = 5e-4
    momentum: float = 0.95
    seed: int = 0


def quantization_aware(
    model: Any,
    x: Any,
    y: NDArray[Any],
    *,
    loss: Any,
    settings: QatSettings | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Any:
    """Fine-tune a trained net under int8's rounding.

    Args:
        model: A trained functional or Sequential Keras model; it stays as it is.
        x: Training rows as the model takes them, (n, …), n > 0.
        y: Targets as the loss takes them.
        loss: A Keras loss or its name.
        settings: How; None for the usual.
        on_epoch: Told of each epoch's number (from 1) and loss.

    Returns:
        A Keras model that the converter makes fully int8 with `Optimize.DEFAULT` and no rows.

    Raises:
        UnsupportedError: A subclassed model, or a layer that has no fake quantization; names it.
        GateError: The loss became infinite or NaN.
    """
    import keras  # noqa: PLC0415 - only workers import Keras

    chosen = settings or QatSettings()
    keras.utils.set_random_seed(chosen.seed)
    aware = with_fake_quantization(model, momentum=chosen.momentum)
    _find_ranges(aware, x, chosen)
    steps = max(1, chosen.epochs * math.ceil(len(y) / chosen.batch))
    schedule = keras.optimizers.schedules.CosineDecay(chosen.learning_rate, steps)
    aware.compile(optimizer=keras.optimizers.Adam(schedule), loss=loss)

    def told(epoch: int, logs: dict[str, float] | None = None) -> None:
        value = (logs or {}).get("loss", math.nan)
        if not math.isfinite(value):
            raise GateError(
                f"quantization-aware training diverged in epoch {epoch + 1}: the loss is {value}",
                where=str(model.name),
                advice="Lower the learning rate.",
            )
        if on_epoch is not None:
            on_epoch(epoch + 1, value)

    aware.fit(
        x,
        y,
        epochs=chosen.epochs,
        batch_size=chosen.batch,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=told)],
    )
    return aware


def with_fake_quantization(model: Any, *, momentum: float = 0.95) -> Any:
    """Return a copy of a net with BatchNorm folded and every range and weight rounded.

    Raises:
        UnsupportedError: A subclassed model, or a layer that has no fake quantization; names it.
    """
    graph = graph_of(model)
    _check(graph)
    return _Rewriting(graph, folds_of(graph), momentum).of(model)


def _check(graph: Graph) -> None:
    for call in graph.calls:
        known = call.kind in WEIGHTED or call.kind in _MOVING or call.kind in _MIXING
        causal = getattr(call.operation, "padding", "") == "causal"
        if not known or causal:
            raise UnsupportedError(
                f"quantization-aware training does not know {call.kind}"
                f"{' with causal padding' if causal else ''}",
                where=f"layer {call.operation.name}",
                advice="Quantize the trained net instead, or replace the layer.",
            )


class _Rewriting:
    """Makes every call of a graph again, rounded."""

    def __init__(self, graph: Graph, folds: Folds, momentum: float) -> None:
        self._graph = graph
        self._folds = folds
        self._norms = folds.norms
        self._momentum = momentum
        self._kinds = quantized_layers()
        self._twins: dict[int, Any] = {}

    def of(self, model: Any) -> Any:
        return rebuild(model, self._graph, self._apply, at_input=self._at_input)

    def _at_input(self, tensor: Any) -> Any:
        first = [call for call in self._graph.calls if -1 in call.sources]
        if all(call.kind in _SCALING or call.kind == "InputLayer" for call in first):
            return tensor  # raw pixels are scaled in float, and rounded after that
        return self._range(f"{tensor.name}_input")(tensor)

    def _apply(
        self, call: Call, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if call.number in self._norms:
            return args[0]
        if call.kind in WEIGHTED:
            return self._weighted(call, operation, args[0])
        layer = self._unshared(operation)
        made = layer(*args, **kwargs)
        if call.kind in _MOVING or activation_name(operation) in _BOUNDED:
            return made
        return made if self._is_fused(call.number) else self._range(operation.name)(made)

    def _weighted(self, call: Call, layer: Any, inputs: Any) -> Any:
        import keras  # noqa: PLC0415 - only workers import Keras

        activation = activation_name(layer)
        is_fused = activation in _FUSED
        norm = self._folds.norm_of.get(call.number)
        twin = self._twins.get(id(layer))
        if twin is None:
            config = layer.get_config() | {"use_bias": True}
            if not is_fused:
                config["activation"] = "linear"
            twin = getattr(self._kinds, call.kind).from_config(config)
            self._twins[id(layer)] = twin
            twin.build(inputs.shape)
            twin.set_weights(folded_weights(layer, norm.operation if norm else None))
        made = twin(inputs)
        if is_fused:
            last = norm.number if norm else call.number
            return made if self._is_fused(last) else self._range(layer.name)(made)
        made = self._range(f"{layer.name}_sum")(made)
        made = keras.layers.Activation(layer.activation, name=f"{layer.name}_activation")(made)
        return made if activation in _BOUNDED else self._range(layer.name)(made)

    def _is_fused(self, number: int) -> bool:
        """Whether a call's result is only ever seen through the ReLU that follows."""
        readers = self._graph.readers(number)
        if len(readers) != 1 or number in self._graph.outputs:
            return False
        reader = readers[0]
        if reader.kind == "ReLU":
            layer = reader.operation
            plain = not layer.negative_slope and not layer.threshold
            return bool(plain and layer.max_value in (None, 6))
        name = activation_name(reader.operation)
        return reader.kind == "Activation" and name in ("relu", "relu6")

    def _unshared(self, operation: Any) -> Any:
        """Return the operation, or a frozen copy if it has weights: the original stays as it is."""
        import keras  # noqa: PLC0415 - only workers import Keras

        if not isinstance(operation, keras.layers.Layer) or not operation.weights:
            return operation
        twin = self._twins.get(id(operation))
        if twin is None:
            twin = type(operation).from_config(operation.get_config())
            twin.build(operation.get_build_config()["input_shape"])
            twin.set_weights(operation.get_weights())
            twin.trainable = False
            self._twins[id(operation)] = twin
        return twin

    def _range(self, name: str) -> Any:
        return self._kinds.Range(self._momentum, name=f"{name}_range_{len(self._twins)}")


def _find_ranges(aware: Any, x: Any, settings: QatSettings) -> None:
    """Let a few batches set the ranges before anything is learned from them."""
    random = np.random.default_rng(settings.seed)
    several = x if isinstance(x, list | tuple) else [x]
    for _ in range(_RANGE_BATCHES):
        rows = random.integers(0, len(several[0]), settings.batch)
        batch = [one[rows] for one in several]
        aware(batch if isinstance(x, list | tuple) else batch[0], training=True)
