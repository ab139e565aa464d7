"""The ranges of a net's activations, measured on training rows, and how far they can be trusted.

Integers need to know between which numbers a tensor lies. The float32 flatbuffer runs on more and
more calibration rows, doubling, until no range grows any further; the rows that are left over then
show how much lies outside. A range that a few outliers stretch leaves the bulk of the values only
a handful of integer steps: that is what most often ruins int8, and it is said here by layer.
"""

import math
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.layers import ops
from fieldloop_cloud.compile.quantize import calibration_sha256

FIRST_ROWS = 64
"""The sweep begins with as many rows."""

SETTLED = 0.05
"""A range that grows by less of its width when the rows are doubled has settled."""

STRETCHED = 16.0
"""A range so many times as wide as the middle 99.8 % of its values is stretched by outliers."""

OUTSIDE = 0.005
"""Share of values outside a range from which on it is said."""

_MIDDLE = 0.998
_BATCH = 32
_SAMPLE = 4096


class TensorRange(msgspec.Struct, frozen=True, kw_only=True):
    """The range of one activation.

    Attributes:
        tensor: Its name in the flatbuffer.
        layer: The layer that made it; empty for an input.
        low: Smallest value seen.
        high: Largest value seen.
        rank: Number of dimensions.
        stretch: Width of the range over the width of its middle 99.8 % of values.
        outside: Share of the values of further rows that lie outside.
    """

    tensor: str
    layer: str
    low: float
    high: float
    rank: int
    stretch: float = 1.0
    outside: float = 0.0


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The ranges, and what they rest on.

    Attributes:
        ranges: One for each activation.
        row_count: Rows that set them.
        has_settled: Whether they had stopped growing.
        sha256: Hash of all the calibration rows.
    """

    ranges: tuple[TensorRange, ...]
    row_count: int
    has_settled: bool
    sha256: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes these ranges doubtful, one sentence each; empty if nothing does."""
        said = []
        if not self.has_settled:
            said.append(
                f"the ranges still grew after all {self.row_count} calibration rows: bring more"
            )
        for one in _worst_of_layers(self.ranges, lambda one: one.stretch):
            if one.stretch > STRETCHED:
                steps = max(1, round(255 / one.stretch))
                said.append(
                    f"layer {one.layer or 'input'}: outliers stretch the range {one.low:.3g} … "
                    f"{one.high:.3g}; {_MIDDLE:.1%} of its values share {steps} of 256 int8 steps"
                )
        said += [
            f"layer {one.layer or 'input'}: {one.outside:.2%} of the values of further rows lie "
            f"outside {one.low:.3g} … {one.high:.3g}"
            for one in _worst_of_layers(self.ranges, lambda one: one.outside)
            if one.outside > OUTSIDE
        ]
        return tuple(said)


def _worst_of_layers(
    ranges: Iterable[TensorRange], badness: Callable[[TensorRange], float]
) -> list[TensorRange]:
    """Return the worst range of each layer, the worst layer first."""
    worst: dict[str, TensorRange] = {}
    for one in sorted(ranges, key=badness):
        worst[one.layer] = one
    return sorted(worst.values(), key=badness, reverse=True)


def calibrate(tflite: bytes, inputs: Sequence[NDArray[Any]]) -> Calibration:
    """Measure the ranges of every float activation of a float32 flatbuffer.

    Args:
        tflite: The flatbuffer.
        inputs: For each input tensor the rows, (n, …), n > 0; training rows only.

    Returns:
        The ranges after the first doubling of the rows that left them where they were.
    """
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - only workers calibrate

    with warnings.catch_warnings():
        # It warns of memory; keeping every tensor is the purpose here.
        warnings.simplefilter("ignore")
        interpreter = Interpreter(
            model_content=tflite, experimental_preserve_all_tensors=True, num_threads=1
        )
    layer_of = {op.tensor: op.layer for op in ops(tflite)}
    layer_of |= {one["name"]: "" for one in interpreter.get_input_details()}
    sweep = _Sweep(layer_of)
    count = len(inputs[0])
    done, settled = 0, False
    while done < count and not settled:
        upto = min(count, max(FIRST_ROWS, 2 * done))
        before = dict(sweep.bounds)
        for values in _activations(interpreter, layer_of, [rows[done:upto] for rows in inputs]):
            sweep.widen(values)
        settled = bool(before) and _growth(before, sweep.bounds) <= SETTLED
        done = upto
    for values in _activations(interpreter, layer_of, [rows[done:] for rows in inputs]):
        sweep.count_outside(values)
    return Calibration(
        ranges=sweep.ranges(),
        row_count=done,
        has_settled=settled,
        sha256=calibration_sha256(*inputs),
    )


class _Sweep:
    """What was seen of every tensor so far."""

    def __init__(self, layer_of: dict[str, str]) -> None:
        self.bounds: dict[str, tuple[float, float]] = {}
        self._layer_of = layer_of
        self._rank: dict[str, int] = {}
        self._sample: dict[str, list[NDArray[np.float32]]] = {}
        self._outside: dict[str, int] = {}
        self._further: dict[str, int] = {}

    def widen(self, values: dict[str, NDArray[np.float32]]) -> None:
        for name, array in values.items():
            low, high = self.bounds.get(name, (math.inf, -math.inf))
            self.bounds[name] = min(low, float(array.min())), max(high, float(array.max()))
            self._rank[name] = array.ndim
            flat = array.reshape(-1)
            self._sample.setdefault(name, []).append(flat[:: max(1, len(flat) // _SAMPLE)])

    def count_outside(self, values: dict[str, NDArray[np.float32]]) -> None:
        for name, array in values.items():
            low, high = self.bounds[name]
            self._outside[name] = self._outside.get(name, 0) + int(
                ((array < low) | (array > high)).sum()
            )
            self._further[name] = self._further.get(name, 0) + array.size

    def ranges(self) -> tuple[TensorRange, ...]:
        return tuple(
            TensorRange(
                tensor=name,
                layer=self._layer_of.get(name, ""),
                low=low,
                high=high,
                rank=self._rank[name],
                stretch=self._stretch(name, high - low),
                outside=self._outside.get(name, 0) / max(1, self._further.get(name, 0)),
            )
            for name, (low, high) in self.bounds.items()
        )

    def _stretch(self, name: str, width: float) -> float:
        edge = (1 - _MIDDLE) / 2
        low, high = np.quantile(np.concatenate(self._sample[name]), [edge, 1 - edge])
        return width / float(high - low) if high > low else 1.0


def _growth(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> float:
    """Return by how much of its width the range grew that grew most."""
    worst = 0.0
    for name, (low, high) in after.items():
        old_low, old_high = before[name]
        if high > low:
            worst = max(worst, (old_low - low + high - old_high) / (high - low))
    return worst


def _activations(
    interpreter: Any, wanted: Container[str], inputs: Sequence[NDArray[Any]]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Run rows and give the computed float tensors of each batch."""
    details = interpreter.get_input_details()
    batch = _BATCH if all(_takes_any_batch(one) for one in details) else 1
    for start in range(0, len(inputs[0]), batch):
        for one, rows in zip(details, inputs, strict=True):
            part = np.ascontiguousarray(rows[start : start + batch], dtype=one["dtype"])
            interpreter.resize_tensor_input(one["index"], part.shape)
        interpreter.allocate_tensors()
        for one, rows in zip(details, inputs, strict=True):
            part = np.ascontiguousarray(rows[start : start + batch], dtype=one["dtype"])
            interpreter.set_tensor(one["index"], part)
        interpreter.invoke()
        yield dict(_tensors(interpreter, wanted))


def _takes_any_batch(details: dict[str, Any]) -> bool:
    signature = details["shape_signature"]
    return len(signature) > 0 and int(signature[0]) == -1


def _tensors(interpreter: Any, wanted: Container[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for details in interpreter.get_tensor_details():
        if details["dtype"] is not np.float32 or details["name"] not in wanted:
            continue
        try:
            values = interpreter.get_tensor(details["index"])
        except ValueError:  # a tensor that the delegate fused away
            continue
        if values.size and np.isfinite(values).all():
            yield details["name"], values
