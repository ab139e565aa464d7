"""What each kind of Keras layer does with channels: passes them on, makes new ones, ties them.

Only the last axis counts as channels. A layer that is in none of these tables is refused by name:
what it does with a missing channel is not known.
"""

from dataclasses import dataclass
from typing import Any, Literal

from fieldloop.errors import UnsupportedError

Side = Literal["in", "out", "between"]
"""Whose channels an axis of a weight carries: the input's, the output's, or those that a separable
convolution has between its two steps."""

PASSES = frozenset(
    {
        "Activation",
        "ActivityRegularization",
        "AlphaDropout",
        "AveragePooling1D",
        "AveragePooling2D",
        "AveragePooling3D",
        "ConvertToTensor",
        "Cropping1D",
        "Cropping2D",
        "Dropout",
        "ELU",
        "GaussianDropout",
        "GaussianNoise",
        "GlobalAveragePooling1D",
        "GlobalAveragePooling2D",
        "GlobalAveragePooling3D",
        "GlobalMaxPooling1D",
        "GlobalMaxPooling2D",
        "GlobalMaxPooling3D",
        "Identity",
        "LeakyReLU",
        "MaxPooling1D",
        "MaxPooling2D",
        "MaxPooling3D",
        "RandomBrightness",
        "RandomContrast",
        "RandomCrop",
        "RandomFlip",
        "RandomRotation",
        "RandomTranslation",
        "RandomZoom",
        "ReLU",
        "Rescaling",
        "Resizing",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "UpSampling1D",
        "UpSampling2D",
        "ZeroPadding1D",
        "ZeroPadding2D",
    }
)
"""Each channel goes through by itself."""

MIXES = frozenset({"Softmax"})
"""All channels of a position depend on each other, so none may go."""

RESHAPES = frozenset({"Flatten", "Reshape"})

TIES = frozenset({"Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"})
"""Channels of the same number are one: they stay or go together."""

_KERNELS: dict[str, tuple[tuple[tuple[int, Side], ...], ...]] = {
    "Conv1D": (((-2, "in"), (-1, "out")),),
    "Conv2D": (((-2, "in"), (-1, "out")),),
    "Conv3D": (((-2, "in"), (-1, "out")),),
    "Dense": (((-2, "in"), (-1, "out")),),
    "Conv1DTranspose": (((-2, "out"), (-1, "in")),),
    "Conv2DTranspose": (((-2, "out"), (-1, "in")),),
    "DepthwiseConv1D": (((-2, "in"),),),
    "DepthwiseConv2D": (((-2, "in"),),),
    "SeparableConv1D": (((-2, "in"),), ((-2, "between"), (-1, "out"))),
    "SeparableConv2D": (((-2, "in"),), ((-2, "between"), (-1, "out"))),
}
"""Layer to its kernels, each a tuple of (axis, whose channels)."""

DEPTHWISE = frozenset({"DepthwiseConv1D", "DepthwiseConv2D"})
MAKES = frozenset(_KERNELS) - DEPTHWISE
"""The output has channels of its own."""


@dataclass(frozen=True, slots=True)
class WeightAxis:
    """An axis of one of a layer's weights that carries channels."""

    weight: int
    axis: int
    side: Side


def weight_axes(layer: Any) -> tuple[WeightAxis, ...]:
    """Return the axes that carry channels, for the weights in the order of `get_weights`."""
    kind = type(layer).__name__
    if kind == "BatchNormalization":
        return tuple(WeightAxis(place, -1, "out") for place in range(len(layer.weights)))
    kernels = _KERNELS.get(kind, ())
    axes = [
        WeightAxis(place, axis, side)
        for place, kernel in enumerate(kernels)
        for axis, side in kernel
    ]
    if kernels and layer.use_bias:
        axes.append(WeightAxis(len(kernels), -1, "out"))
    return tuple(axes)


def width_setting(layer: Any) -> str | None:
    """Return the name of the setting that says how many channels a layer makes, if it makes any."""
    kind = type(layer).__name__
    if kind not in MAKES:
        return None
    return "units" if kind == "Dense" else "filters"


def is_softmax(layer: Any) -> bool:
    """Whether a layer ends with a softmax over its channels."""
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "") in {"softmax", "log_softmax"}


def check_layer(layer: Any) -> None:
    """Refuse a layer whose channels cannot be followed.

    Raises:
        UnsupportedError: Names the layer and why.
    """
    kind = type(layer).__name__
    reason = ""
    if kind in _KERNELS or kind == "BatchNormalization":
        if getattr(layer, "data_format", "channels_last") != "channels_last":
            reason = "has its channels first"
        elif getattr(layer, "groups", 1) != 1:
            reason = "is a grouped convolution"
        elif kind == "BatchNormalization" and _axis(layer.axis) not in (-1, _rank(layer) - 1):
            reason = "normalizes another axis than the last"
        elif getattr(layer, "lora_rank", None) or getattr(layer, "quantization_mode", None):
            reason = "has low-rank or quantized weights"
    elif kind == "Normalization":
        reason = "" if layer.axis in (None, (-1,), -1) or layer.built else "is not built"
    elif kind not in PASSES | MIXES | RESHAPES | TIES | {"Concatenate", "InputLayer"}:
        reason = "is of a kind whose channels cannot be followed"
    if reason:
        raise UnsupportedError(
            f"a net with the layer '{layer.name}' ({kind}) cannot be pruned: it {reason}",
            where=layer.name,
            advice="Prune nets of convolutions, dense layers, BatchNormalization, pooling, Add and "
            "Concatenate, or distill the net into a smaller one.",
        )


def _axis(axis: Any) -> int:
    return int(axis[0]) if isinstance(axis, list | tuple) else int(axis)


def _rank(layer: Any) -> int:
    spec = layer.input_spec
    return int(spec.ndim) if spec is not None and spec.ndim is not None else 0
