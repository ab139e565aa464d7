"""Raw values to tensors and tensors to answers; the only such code in the project.

The data flows one way: `encode_row` (or `encode_rows`) turns what the user measured into real
numbers, `tensors` quantizes them for the engine, `decode` turns the engine's outputs into
`Prediction`s. A `Codec` precomputes all it can from the signature, because a device calls it for
every single prediction.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.answers import AnswerReader
from fieldloop.encoders import encoder_of
from fieldloop.errors import ModelRuntimeError
from fieldloop.layout import layout
from fieldloop.quantizer import Quantizer
from fieldloop.ranges import RangeCheck, RangePolicy
from fieldloop.signature import Category, Signature, TensorSpec
from fieldloop.tabular import TabularEncoder
from fieldloop.targets import target_views

_FLAT = 2
"""Dimensions of the rows of a model with several inputs."""


class OutputRow(Mapping[str, NDArray[Any]]):
    """One row of every output, by name; cut out when it is asked for, because few ask."""

    __slots__ = ("_arrays", "_names", "_row")

    def __init__(self, names: tuple[str, ...], arrays: Sequence[NDArray[Any]], row: int) -> None:
        self._names = names
        self._arrays = arrays
        self._row = row

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._arrays[self._names.index(name)][self._row, ...]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class TargetAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer for one of several targets; the attributes are those of `Prediction`."""

    name: str
    label: Category | None = None
    value: float | None = None
    probabilities: tuple[float, ...] | None = None
    confidence: float | None = None


class Prediction(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One answer.

    Attributes:
        label: The class (or cluster) in the user's words; None for a regression, and for several
            targets.
        value: The predicted value in the target's unit; None unless the model gives one number.
        probabilities: Of all classes, in the order of the signature's labels; None without, and for
            several targets.
        confidence: Probability of the answered label, the lowest one of several targets; None
            without probabilities.
        targets: For a model of several targets the answer for each, in the signature's order.
        outputs: Every output by name, one row, as real values.
        out_of_range: Names of the features outside what was seen in training.
        latency_ms: How long the answer took.
    """

    label: Category | None = None
    value: float | None = None
    probabilities: tuple[float, ...] | None = None
    confidence: float | None = None
    targets: tuple[TargetAnswer, ...] = ()
    outputs: Mapping[str, NDArray[Any]]
    out_of_range: tuple[str, ...] = ()
    latency_ms: float = 0.0

    @property
    def answer(self) -> Category | tuple[Category | None, ...] | None:
        """The label, or else the value; of each target where there are several."""
        if self.targets:
            return tuple(each.value if each.label is None else each.label for each in self.targets)
        return self.value if self.label is None else self.label


class Codec:
    """Encodes and decodes for one model.

    Args:
        signature: The model's contract.
        out_of_range: What is done with values outside the range that was seen in training.

    Raises:
        ConfigError: An unknown range policy.
        SignatureError: The signature contradicts itself.
        UnsupportedError: The model has several inputs, of which one has no fixed shape.

    Example:
        >>> from fieldloop.signature import FeatureSpec
        >>> codec = Codec(Signature(
        ...     task="regression",
        ...     inputs=(TensorSpec(name="x", shape=(-1, 2), dtype="float32"),),
        ...     outputs=(TensorSpec(name="value", shape=(-1, 1), dtype="float32", role="value"),),
        ...     features=(FeatureSpec(name="current"), FeatureSpec(name="voltage", high=5.0)),
        ... ))
        >>> rows, outside = codec.admit({"current": 0.5, "voltage": 7.0})
        >>> codec.tensors(rows)[0].shape
        (1, 2)
        >>> codec.decode([np.array([[21.5]], dtype=np.float32)], outside=[outside])[0].out_of_range
        ('voltage',)
    """

    def __init__(self, signature: Signature, *, out_of_range: RangePolicy = "flag") -> None:
        self.signature = signature.checked()
        layout_ = layout(signature)
        self._columns = layout_.columns
        self._shapes = tuple(spec.shape[1:] for spec in signature.inputs)
        self._encoder = encoder_of(signature, layout_)
        self._ranges = (
            RangeCheck(signature.features, columns=layout_.features, policy=out_of_range)
            if signature.features
            else None
        )
        self._clip = self._ranges.clipped if self._ranges and self._ranges.clips else None
        self._ordinary = (
            self._encoder.ordinary if isinstance(self._encoder, TabularEncoder) else None
        )
        self._quantizers = tuple(Quantizer(spec) for spec in signature.inputs)
        # Bound once: a device calls these for every single prediction.
        self._quantize = self._quantizers[0].quantize if len(self._quantizers) == 1 else None
        self._rank = len(signature.inputs[0].shape) if self._quantize else _FLAT
        self._dequantizers = tuple(Quantizer(spec) for spec in signature.outputs)
        self._is_plain = not any(
            spec.is_quantized or spec.dtype == "float16" for spec in signature.outputs
        )
        self._names = tuple(spec.name for spec in signature.outputs)
        self._views = target_views(signature)
        self._readers = tuple(AnswerReader(view.signature) for view in self._views)
        self._read = AnswerReader(signature).read if not self._views else None

    def encode_row(self, raw: object) -> NDArray[np.float32]:
        """Turn one raw row into real numbers, shape (1, *input shape without the batch).

        Args:
            raw: A dict by feature name, a sequence in the features' order, or for an image model
                an array (height, width[, channels]), a file's bytes or a path. For a model with
                several inputs a dict by input name, or a sequence in the inputs' order, of what
                each takes; the row is then flat, see `layout`.

        Raises:
            SignatureError: A value does not fit; names the feature.
            DataError: An image file that is missing or not an image.
            EnvironmentFaultError: An image file, but neither Pillow nor OpenCV is installed.
        """
        rows = self._encoder.row(raw)
        return rows if rows.ndim == self._rank else self._shaped(rows)

    def encode_rows(self, raw: object) -> NDArray[np.float32]:
        """Turn many raw rows into real numbers, shape (n, *input shape without the batch).

        Args:
            raw: A list of what `encode_row` takes, or an array with the rows as first dimension;
                for several inputs also a dict by input name of what each takes.

        Raises:
            SignatureError: A value does not fit; names the row and the feature.
            DataError: An image file that is missing or not an image.
            EnvironmentFaultError: An image file, but neither Pillow nor OpenCV is installed.
        """
        rows = self._encoder.rows(raw)
        return rows if rows.ndim == self._rank else self._shaped(rows)

    def admit(self, raw: object) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Encode one raw row and check its ranges.

        Returns:
            The row as `encode_row` gives it, unclipped, because telemetry counts what was measured;
            and the names of the features out of range.

        Raises:
            SignatureError: As `encode_row`, or out of range under the policy `reject`.
            DataError: As `encode_row`.
            EnvironmentFaultError: As `encode_row`.
        """
        if self._ordinary is not None:
            rows = self._ordinary(raw)
            if rows is not None:
                return rows, ()
        rows = self.encode_row(raw)
        return rows, self._ranges.outside(rows)[0] if self._ranges is not None else ()

    def admit_rows(self, raw: object) -> tuple[NDArray[np.float32], Sequence[tuple[str, ...]]]:
        """Encode many raw rows and check their ranges; names for each row.

        Raises:
            SignatureError: As `encode_rows`, or out of range under the policy `reject`.
            DataError: As `encode_rows`.
            EnvironmentFaultError: As `encode_rows`.
        """
        rows = self.encode_rows(raw)
        outside = ((),) * len(rows) if self._ranges is None else self._ranges.outside(rows)
        return rows, outside

    def tensors(self, rows: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        """Turn encoded rows into the engine's input tensors; clips, if that is the range policy.

        Raises:
            SignatureError: A missing value for a model with integer inputs.
        """
        if self._clip is not None:
            rows = self._clip(rows)
        if self._quantize is not None:
            return (self._quantize(rows),)
        return tuple(
            quantizer.quantize(rows[:, columns].reshape(len(rows), *shape))
            for quantizer, columns, shape in zip(
                self._quantizers, self._columns, self._shapes, strict=True
            )
        )

    def decode(
        self,
        outputs: Sequence[NDArray[Any]],
        *,
        outside: Sequence[tuple[str, ...]] | None = None,
        latency_ms: float = 0.0,
    ) -> list[Prediction]:
        """Turn the engine's outputs into one prediction a row.

        Args:
            outputs: One tensor per output of the signature, in its order; rows first.
            outside: For each row the features out of range, as `admit_rows` names them.
            latency_ms: What to write into each prediction.

        Raises:
            ModelRuntimeError: The outputs contradict the signature, or are not numbers.
        """
        if outside is None:
            outside = ((),) * (len(outputs[0]) if outputs[0].ndim else 1)
        if len(outputs) != len(self._names):
            raise ModelRuntimeError(
                f"the model gave {len(outputs)} outputs, the signature names {len(self._names)}",
                advice="Compile the model again.",
            )
        count = len(outside)
        for array in outputs:
            if not array.ndim or len(array) != count:
                raise ModelRuntimeError(
                    f"an output of shape {array.shape} does not have {count} rows",
                    advice="Compile the model again.",
                )
        if not self._is_plain:
            outputs = [
                quantizer.dequantize(array)
                for quantizer, array in zip(self._dequantizers, outputs, strict=True)
            ]
        if self._read is None:
            return self._several(outputs, outside, latency_ms)
        names = self._names
        predictions = []
        for row, (label, value, probabilities, confidence) in enumerate(self._read(outputs, count)):
            predictions.append(
                Prediction(
                    label=label,
                    value=value,
                    probabilities=probabilities,
                    confidence=confidence,
                    outputs=OutputRow(names, outputs, row),
                    out_of_range=outside[row],
                    latency_ms=latency_ms,
                )
            )
        return predictions

    def _several(
        self, outputs: Sequence[NDArray[Any]], outside: Sequence[tuple[str, ...]], latency_ms: float
    ) -> list[Prediction]:
        """Read the rows of a model with several targets."""
        answers = [
            [
                TargetAnswer(
                    name=view.target.name,
                    label=label,
                    value=value,
                    probabilities=probabilities,
                    confidence=confidence,
                )
                for label, value, probabilities, confidence in reader.read(
                    view.cut(outputs), len(outside)
                )
            ]
            for view, reader in zip(self._views, self._readers, strict=True)
        ]
        predictions = []
        for row, targets in enumerate(zip(*answers, strict=True)):
            sure = [target.confidence for target in targets if target.confidence is not None]
            predictions.append(
                Prediction(
                    confidence=min(sure, default=None),
                    targets=targets,
                    outputs=OutputRow(self._names, outputs, row),
                    out_of_range=outside[row],
                    latency_ms=latency_ms,
                )
            )
        return predictions

    def _shaped(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give encoded rows the input's rank: a classical model takes an image as flat row."""
        return rows.reshape(len(rows), *self._shapes[0])


def quantize(spec: TensorSpec, rows: NDArray[Any]) -> NDArray[Any]:
    """Turn real values, shape (n, …), into the tensor's dtype.

    Raises:
        SignatureError: NaN, for a tensor of integers.

    Example:
        >>> spec = TensorSpec(name="x", shape=(-1, 3), dtype="int8", scale=(0.5,), zero_point=(1,))
        >>> quantize(spec, np.array([[0.0, 0.75, 100.0]], dtype=np.float32)).tolist()
        [[1, 3, 127]]
    """
    return Quantizer(spec).quantize(rows)


def dequantize(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    """Turn a tensor, shape (n, …), into real values; labels and other integers stay integers.

    Example:
        >>> spec = TensorSpec(name="y", shape=(-1, 1), dtype="int8", scale=(0.5,), zero_point=(1,))
        >>> dequantize(spec, np.array([[3]], dtype=np.int8)).tolist()
        [[1.0]]
    """
    return Quantizer(spec).dequantize(array)
