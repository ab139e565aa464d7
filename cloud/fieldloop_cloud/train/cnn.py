"""The small convolutional net, planned for an image size and a model budget before it is built.

The plan is arithmetic: layers, parameters and bytes are known without TensorFlow, so a net that
cannot fit a device is never trained.
"""

import msgspec

from fieldloop.errors import GateError
from fieldloop.signature import ImageSpec

_MIN_SIDE = 4
_MAX_FILTERS = 128
_FLAT_LIMIT = 2048
_FIXED_BYTES = 8_192
"""Graph, options and alignment around the weights, generously."""


class CnnPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Layers of the net.

    Attributes:
        height: Input height.
        width: Input width.
        channels: Input channels.
        filters: Filters of each 3x3 convolution; all but the first are followed by 2x2 pooling.
        flatten: Whether the last feature map is flattened (else averaged).
        dense: Units of the hidden dense layer.
        classes: Number of classes.
    """

    height: int
    width: int
    channels: int
    filters: tuple[int, ...]
    flatten: bool
    dense: int
    classes: int

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        count, previous = 0, self.channels
        for filters in self.filters:
            count += (9 * previous + 1) * filters
            previous = filters
        values = previous * (self._flat_pixels if self.flatten else 1)
        return count + (values + 1) * self.dense + (self.dense + 1) * self.classes

    @property
    def _flat_pixels(self) -> int:
        shrink = 1 << (len(self.filters) - 1)
        return (self.height // shrink) * (self.width // shrink)

    @property
    def float32_bytes(self) -> int:
        """Estimated size of the float32 flatbuffer."""
        return 4 * self.parameter_count + _FIXED_BYTES


def plan_cnn(image: ImageSpec, class_count: int, *, max_model_bytes: int) -> CnnPlan:
    """Plan the largest of our nets whose int8 form fits the budget.

    Args:
        image: Input size.
        class_count: Number of classes.
        max_model_bytes: Largest flatbuffer allowed, in its smallest precision.

    Raises:
        GateError: Even the smallest net is too large, or the image is too small to convolve.
    """
    side = min(image.height, image.width)
    if side < _MIN_SIDE:
        raise GateError(
            f"images of {image.height} x {image.width} are too small for a convolutional net",
            advice="Use a classical candidate.",
        )
    # Pool until about 4 pixels are left on the shorter side, at most five times.
    pools = max(1, min(5, (side // _MIN_SIDE).bit_length() - 1))
    for base in (16, 8, 4):
        filters = tuple(min(_MAX_FILTERS, base * 2**step) for step in range(pools + 1))
        pixels = (image.height // 2**pools) * (image.width // 2**pools)
        plan = CnnPlan(
            height=image.height,
            width=image.width,
            channels=image.channels,
            filters=filters,
            flatten=pixels * filters[-1] <= _FLAT_LIMIT,
            dense=3 * base,
            classes=class_count,
        )
        if plan.parameter_count + _FIXED_BYTES <= max_model_bytes:
            return plan
    raise GateError(
        f"the smallest convolutional net needs {plan.parameter_count + _FIXED_BYTES} bytes in int8",
        where=f"the device allows {max_model_bytes} bytes",
        advice="Use smaller images or a larger device.",
    )
