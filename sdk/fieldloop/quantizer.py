"""Real values to a tensor's integers and back."""

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import SignatureError
from fieldloop.signature import TensorSpec

_MIN_SCALE = float(np.finfo(np.float32).tiny)
_MAX_SCALE = float(np.finfo(np.float32).max)
_FEW = 16
"""Up to so many values Python numbers are faster than arrays."""

_DTYPES = frozenset({"float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"})


class Quantizer:
    """Scales between the real values and the dtype of one tensor.

    real = (q - zero_point) · scale, per tensor or per element of the last axis; q is rounded half
    to even and saturates.
    (https://ai.google.dev/edge/litert/models/quantization_spec)

    Args:
        spec: The tensor.

    Raises:
        SignatureError: An unknown dtype, or scales that are not positive normal numbers, one per
            tensor or per element of the last axis.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._name = spec.name
        self._dtype = _dtype(spec)
        self._is_float = self._dtype.kind == "f"
        _check_scale(spec)
        # float64: a tiny scale must not overflow on the way.
        self._scale = np.asarray(spec.scale or (1.0,), dtype=np.float64)
        self._zero_point = np.asarray(spec.zero_point or (0,), dtype=np.float64)
        self._is_quantized = spec.is_quantized
        if self._dtype.kind in "iu":
            limits = np.iinfo(self._dtype)
            # Arrays, because NumPy would make some of plain numbers in every call.
            self._low = np.asarray([limits.min], dtype=np.float64)
            self._high = np.asarray([limits.max], dtype=np.float64)
        self._table = self._reals()
        self._code = self._codes_of_few()

    def quantize(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Turn real values into the tensor's dtype.

        Raises:
            SignatureError: NaN, for a tensor of integers.
        """
        if self._is_float:
            return rows if rows.dtype == self._dtype else rows.astype(self._dtype)
        if self._code is not None and rows.size <= _FEW:
            try:
                codes = self._code(rows.ravel().tolist())
                return np.ndarray(rows.shape, self._dtype, codes)
            except (ValueError, OverflowError, struct.error):
                pass  # saturated, or not a number: the long way below decides
        if self._dtype.kind == "b":
            return rows.astype(np.bool_)
        scaled = rows / self._scale
        np.rint(scaled, out=scaled)
        scaled += self._zero_point
        # The cheapest test for NaN: squares never cancel, so only NaN gives NaN.
        if math.isnan(np.vdot(scaled, scaled)):
            raise SignatureError(
                "a quantized input has no code for a missing value",
                where=f"input {self._name}",
                advice="Fill it in, or use a float32 variant.",
            )
        np.maximum(scaled, self._low, out=scaled)
        np.minimum(scaled, self._high, out=scaled)
        return scaled.astype(self._dtype)

    def dequantize(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn the tensor's values into real ones: float32, or as they are if not quantized."""
        if self._table is not None:
            # Negative codes count from the table's end, which is where their values are.
            return self._table.take(array, mode="wrap")
        if self._is_quantized:
            return ((array - self._zero_point) * self._scale).astype(np.float32)
        return array.astype(np.float32) if array.dtype == np.float16 else array

    def _reals(self) -> NDArray[np.float32] | None:
        """Return the real value of each 8-bit code, in the order of its bits."""
        if not self._is_quantized or self._scale.size > 1 or self._dtype.itemsize > 1:
            return None
        codes = np.arange(1 << 8, dtype=np.uint8).view(self._dtype)
        return ((codes - self._zero_point) * self._scale).astype(np.float32)

    def _codes_of_few(self) -> Callable[[list[float]], bytes] | None:
        """Return a function from a few float32 values to their codes' bytes; it cannot saturate."""
        if not self._is_quantized or self._dtype.kind not in "iu" or self._scale.size > _FEW:
            return None
        # From 0 on, so that the index is the number of values.
        packs = [struct.Struct(f"={count}{self._dtype.char}").pack for count in range(_FEW + 1)]
        scales, zero_points = self._scale.tolist(), [int(point) for point in self._zero_point]
        if len(scales) == 1:
            [scale], [zero_point] = scales, zero_points
            return lambda values: packs[len(values)](
                *[round(value / scale) + zero_point for value in values]
            )
        each = list(zip(scales, zero_points, strict=True))

        def codes(values: list[float]) -> bytes:
            parts = each * (len(values) // len(each))  # the last axis runs fastest
            return packs[len(values)](
                *[
                    round(value / scale) + point
                    for value, (scale, point) in zip(values, parts, strict=True)
                ]
            )

        return codes


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    if spec.dtype not in _DTYPES:
        raise SignatureError(
            f"'{spec.dtype[:40]}' is not the dtype of a tensor",
            where=f"tensor {spec.name}",
            advice="Compile again.",
        )
    return np.dtype(spec.dtype)


def _check_scale(spec: TensorSpec) -> None:
    counts = {1, spec.shape[-1]} if spec.shape else {1}
    if spec.is_quantized and (
        len(spec.scale) not in counts
        or len(spec.zero_point) != len(spec.scale)
        or not all(_MIN_SCALE <= scale <= _MAX_SCALE for scale in spec.scale)
    ):
        raise SignatureError(
            "the quantization scales must be positive, one or one per element",
            where=f"tensor {spec.name}",
            advice="Quantize again.",
        )
