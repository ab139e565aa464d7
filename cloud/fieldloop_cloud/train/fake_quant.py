"""Keras layers that compute as int8 will: weights and activations rounded to a grid, gradients not.

The converter recognises `keras.quantizers.fake_quant_with_min_max_vars` and makes integers of it,
with these ranges and without calibration rows. Convolutions have a grid for each output channel,
Dense one for the whole matrix: per-channel Dense does not convert.

Only for workers: Keras is imported when a function is called.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

SMALLEST = 1e-6
"""Half the width of the narrowest grid."""


@cache
def quantized_layers() -> SimpleNamespace:  # noqa: C901 - five classes, none of them complex
    """Return the layer classes: `Range`, and those that stand for Keras's own by their names."""
    import keras  # noqa: PLC0415 - only workers import Keras
    from keras import layers, ops  # noqa: PLC0415 - the same

    fake_quant = keras.quantizers.fake_quant_with_min_max_vars

    def on_grid(weights: Any, *, axis: int | None) -> Any:
        """Round weights to 255 symmetric steps, as TFLite's kernels want them."""
        others = tuple(one for one in range(len(weights.shape)) if one != axis)
        high = ops.maximum(ops.max(ops.abs(weights), axis=others), SMALLEST)
        return fake_quant(weights, -high, high, narrow_range=True, axis=axis)

    class Range(layers.Layer):  # type: ignore[misc]  # Keras ships no types
        """Rounds activations to 256 steps between moving averages of their ends."""

        def __init__(self, momentum: float = 0.99, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.momentum = momentum

        def build(self, _: Any) -> None:
            def add(name: str) -> Any:
                return self.add_weight(name=name, shape=(), initializer="zeros", trainable=False)

            self.low, self.high, self.seen = add("low"), add("high"), add("seen")

        def compute_output_spec(self, inputs: Any, **_: Any) -> Any:
            # Keras takes the product with a number for sparse, and cannot infer from that.
            return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

        def call(self, inputs: Any, *, training: bool = False) -> Any:
            if training:
                # The first batch sets the range, the later ones move it.
                keep = self.seen * self.momentum
                self.low.assign(keep * self.low + (1 - keep) * ops.minimum(ops.min(inputs), 0.0))
                self.high.assign(
                    keep * self.high + (1 - keep) * ops.maximum(ops.max(inputs), SMALLEST)
                )
                self.seen.assign(1.0)
            return fake_quant(inputs, self.low, self.high)

    class Conv2D(layers.Conv2D):  # type: ignore[misc]  # as above
        def call(self, inputs: Any) -> Any:
            made = ops.conv(
                inputs,
                on_grid(self.kernel, axis=3),
                strides=self.strides,
                padding=self.padding,
                dilation_rate=self.dilation_rate,
            )
            return self.activation(ops.add(made, self.bias))

    class Conv1D(layers.Conv1D):  # type: ignore[misc]  # as above
        def call(self, inputs: Any) -> Any:
            # In two dimensions from the start: the converter does not look behind a reshape.
            made = ops.conv(
                ops.expand_dims(inputs, 1),
                on_grid(ops.expand_dims(self.kernel, 0), axis=3),
                strides=(1, *self.strides),
                padding=self.padding,
                dilation_rate=(1, *self.dilation_rate),
            )
            return self.activation(ops.squeeze(ops.add(made, self.bias), 1))

    class DepthwiseConv2D(layers.DepthwiseConv2D):  # type: ignore[misc]  # as above
        def call(self, inputs: Any) -> Any:
            is_single = self.depth_multiplier == 1
            made = ops.depthwise_conv(
                inputs,
                on_grid(self.kernel, axis=2 if is_single else None),
                strides=self.strides,
                padding=self.padding,
                dilation_rate=self.dilation_rate,
            )
            return self.activation(ops.add(made, self.bias))

    class Dense(layers.Dense):  # type: ignore[misc]  # as above
        def call(self, inputs: Any) -> Any:
            made = ops.matmul(inputs, on_grid(self.kernel, axis=None))
            return self.activation(ops.add(made, self.bias))

    return SimpleNamespace(
        Range=Range, Conv2D=Conv2D, Conv1D=Conv1D, DepthwiseConv2D=DepthwiseConv2D, Dense=Dense
    )
