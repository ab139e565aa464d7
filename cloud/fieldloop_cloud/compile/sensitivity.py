"""Which layers of a net suffer from int8: the sensitivity table, in the layers' own names.

Each layer is quantized alone, and left out alone. The first shows what it does to the answers by
itself, as signal-to-noise ratio of the outputs and as loss of score; the second shows what would
be won by leaving it in float.
"""

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.layers import Op, by_layer, ops
from fieldloop_cloud.compile.quantizers import Recipe
from fieldloop_cloud.compile.requantize import Requantizer

MOST_GROUPS = 24
"""A net of more layers is looked at in groups of neighbours."""

_NEVER = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE", "DEQUANTIZE", "SHAPE", "PACK"})
"""Ops that move numbers and do not compute any."""

Outputs = Callable[[bytes], tuple[NDArray[np.float32], ...]]
"""Gives a flatbuffer's outputs for the rows that are compared."""


class LayerSensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What int8 does to one layer, or to a few neighbours.

    Attributes:
        layer: Its name.
        tensors: The output tensors of its ops.
        snr_db: Signal-to-noise ratio of the net's outputs if only this layer is int8; the lower,
            the worse; None if it cannot be quantized alone.
        drop_alone: Score lost if only this layer is int8.
        drop_spared: Score lost if everything but this layer is int8.
    """

    layer: str
    tensors: tuple[str, ...]
    snr_db: float | None = None
    drop_alone: float | None = None
    drop_spared: float | None = None


def ranked(
    requantizer: Requantizer, outputs: Outputs, drop: Callable[[bytes], float] | None = None
) -> tuple[LayerSensitivity, ...]:
    """Measure every layer, the most sensitive first.

    Args:
        requantizer: Of the float32 flatbuffer, with calibration rows.
        outputs: Gives a flatbuffer's outputs for the rows that are compared.
        drop: Gives the score that a flatbuffer lost; None leaves both losses out.
    """
    groups = _groups(by_layer(ops(requantizer.tflite)))
    alone = [Recipe(precision="int8", only=tensors) for _, tensors in groups]
    spared = [Recipe(precision="int8", keep_float=tensors) for _, tensors in groups]
    made = requantizer.run(alone if drop is None else alone + spared).models
    reference = outputs(requantizer.tflite)

    def lost(tflite: bytes | None) -> float | None:
        return None if tflite is None or drop is None else drop(tflite)

    found = [
        LayerSensitivity(
            layer=layer,
            tensors=tensors,
            snr_db=None
            if made[number] is None
            else snr_db(reference, outputs(made[number] or b"")),
            drop_alone=lost(made[number]),
            drop_spared=None if drop is None else lost(made[len(groups) + number]),
        )
        for number, (layer, tensors) in enumerate(groups)
    ]
    return tuple(sorted(found, key=lambda one: math.inf if one.snr_db is None else one.snr_db))


def snr_db(signal: Sequence[NDArray[np.float32]], noisy: Sequence[NDArray[np.float32]]) -> float:
    """Return the signal-to-noise ratio in decibels; infinite without noise.

    Example:
        >>> ones = np.ones((1, 2), dtype=np.float32)
        >>> round(snr_db([ones], [ones * 1.1]))
        20
    """
    power = sum(float((one.astype(np.float64) ** 2).sum()) for one in signal)
    noise = sum(
        float(((other.astype(np.float64) - one) ** 2).sum())
        for one, other in zip(signal, noisy, strict=True)
    )
    if not noise > 0:
        return math.inf if noise == 0 else -math.inf  # NaN is all noise
    return 10 * math.log10(power / noise) if power > 0 else -math.inf


def _groups(layers: dict[str, tuple[Op, ...]]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the layers that compute, with their ops' tensors; neighbours together if many."""
    computing = [
        (layer, tuple(op.tensor for op in group if op.is_float and op.kind not in _NEVER))
        for layer, group in layers.items()
    ]
    single = [(layer, tensors) for layer, tensors in computing if tensors]
    width = math.ceil(len(single) / MOST_GROUPS)
    if width <= 1:
        return single
    grouped = [single[start : start + width] for start in range(0, len(single), width)]
    return [
        (
            group[0][0] if len(group) == 1 else f"{group[0][0]} … {group[-1][0]}",
            tuple(tensor for _, tensors in group for tensor in tensors),
        )
        for group in grouped
    ]
