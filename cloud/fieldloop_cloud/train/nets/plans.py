"""The nets' plans: layers as plain data, their parameters by arithmetic.

A plan says what is built, never how it is trained. `classes` is 0 for a regression. A further kind
of net joins with a tagged struct here and its builder in `build`.
"""

import itertools

import msgspec

from fieldloop_cloud.train.transfer.plan import TransferPlan


class CnnPlan(msgspec.Struct, frozen=True, kw_only=True, tag="cnn"):
    """A convolutional net for images.

    Attributes:
        height: Input height.
        width: Input width.
        channels: Input channels.
        filters: Filters of each 3x3 convolution; all but the first are followed by 2x2 pooling.
        flatten: Whether the last feature map is flattened (else averaged).
        dense: Units of the hidden dense layer.
        classes: Number of classes; 0 for a regression.
        dropout: Share of values dropped before the hidden layer, in training.
        batch_norm: Whether each convolution is normalised over the batch.
    """

    height: int
    width: int
    channels: int
    filters: tuple[int, ...]
    flatten: bool
    dense: int
    classes: int
    dropout: float = 0.25
    batch_norm: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One row's shape."""
        return (self.height, self.width, self.channels)

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        count, previous = 0, self.channels
        for filters in self.filters:
            count += (9 * previous + (2 if self.batch_norm else 1)) * filters
            previous = filters
        values = previous * (self._flat_pixels if self.flatten else 1)
        return count + (values + 1) * self.dense + _head(self.dense, self.classes)

    @property
    def _flat_pixels(self) -> int:
        shrink = 1 << (len(self.filters) - 1)
        return (self.height // shrink) * (self.width // shrink)


class MlpPlan(msgspec.Struct, frozen=True, kw_only=True, tag="mlp"):
    """Dense layers for tables; what is missing is filled, coded and scaled inside the graph.

    Attributes:
        columns: For each column 0 (a number) or how many categories its codes stand for.
        hidden: Units of each hidden layer.
        classes: Number of classes; 0 for a regression.
        dropout: Share of values dropped after each hidden layer, in training.
    """

    columns: tuple[int, ...]
    hidden: tuple[int, ...]
    classes: int
    dropout: float = 0.1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One row's shape."""
        return (len(self.columns),)

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        widths = (sum(max(1, codes) for codes in self.columns), *self.hidden)
        layers = itertools.pairwise(widths)
        return sum((a + 1) * b for a, b in layers) + _head(widths[-1], self.classes)


class Cnn1dPlan(msgspec.Struct, frozen=True, kw_only=True, tag="cnn1d"):
    """Convolutions over time for sensor windows.

    Attributes:
        steps: Readings of a window.
        channels: Values of a reading.
        filters: Filters of each convolution; all but the first are followed by pooling by 2.
        kernel_size: Readings under a filter.
        dense: Units of the hidden dense layer.
        classes: Number of classes; 0 for a regression.
        dropout: Share of values dropped before the hidden layer, in training.
    """

    steps: int
    channels: int
    filters: tuple[int, ...]
    kernel_size: int
    dense: int
    classes: int
    dropout: float = 0.25

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One row's shape."""
        return (self.steps, self.channels)

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        widths = (self.channels, *self.filters)
        layers = itertools.pairwise(widths)
        count = sum((self.kernel_size * a + 1) * b for a, b in layers)
        return count + (widths[-1] + 1) * self.dense + _head(self.dense, self.classes)


class GruPlan(msgspec.Struct, frozen=True, kw_only=True, tag="gru"):
    """A small recurrent net for sensor windows, unrolled into builtin ops.

    A convolution first gathers readings, one step for every `stride`, because every step of an
    unrolled layer adds ops to the file.

    Attributes:
        steps: Readings of a window.
        channels: Values of a reading.
        kernel_size: Readings under the convolution.
        stride: Readings from one step to the next.
        filters: Values of a gathered step.
        units: Units of the recurrent layer.
        classes: Number of classes; 0 for a regression.
        dropout: Share of values dropped after the recurrent layer, in training.
    """

    steps: int
    channels: int
    kernel_size: int
    stride: int
    filters: int
    units: int
    classes: int
    dropout: float = 0.25

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One row's shape."""
        return (self.steps, self.channels)

    @property
    def unrolled_steps(self) -> int:
        """Steps of the recurrent layer."""
        return -(-self.steps // self.stride)

    @property
    def parameter_count(self) -> int:
        """Trainable parameters."""
        gathered = (self.kernel_size * self.channels + 1) * self.filters
        # Three gates, with a bias for the input and one for the state.
        recurrent = 3 * self.units * (self.filters + self.units + 2)
        return gathered + recurrent + _head(self.units, self.classes)


NetPlan = CnnPlan | MlpPlan | Cnn1dPlan | GruPlan | TransferPlan
"""Every kind of net; msgspec tells them apart by their tag."""


def _head(width: int, classes: int) -> int:
    return (width + 1) * max(1, classes)
