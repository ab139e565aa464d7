"""Raw images into numbers: decode, convert channels, resize, scale.

An image is an array (height, width) or (height, width, channels) in the range 0 … `max_value`, a
nested list of the same, the bytes of an image file, or a path. Only the last two need a library
(see `decoding`), and only to decode: the resize is done here for all of them, so a camera's array
and the same picture from a file give the same tensor.
"""

import functools
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.decoding import FILE_MAX_VALUE, decode_picture
from fieldloop.errors import SignatureError
from fieldloop.signature import ImageSpec

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""

_COLOUR = 3
_COLOUR_AND_ALPHA = 4
_RANGE_TOLERANCE = 1e-3
"""Share of `max_value` by which rounding may pass the range."""


class ImageEncoder:
    """Encodes raw images of one model.

    Args:
        spec: The preprocessing that is not in the graph.
    """

    def __init__(self, spec: ImageSpec) -> None:
        self._spec = spec
        self._shape = (spec.height, spec.width, spec.channels)

    def row(self, raw: object) -> NDArray[np.float32]:
        """Encode one image; returns shape (1, height, width, channels).

        Raises:
            SignatureError: It is no image, or its values leave the range.
            DataError: A file that is missing, no image or too large.
            EnvironmentFaultError: Neither Pillow nor OpenCV is installed to decode a file.
        """
        return self._image(raw, "")[np.newaxis]

    def rows(self, raw: object) -> NDArray[np.float32]:
        """Encode a list of images or an array of them; returns (n, height, width, channels).

        Raises:
            SignatureError: As for `row`; names the row.
            DataError: As for `row`.
            EnvironmentFaultError: As for `row`.
        """
        if isinstance(raw, (str, bytes, os.PathLike)) or not hasattr(raw, "__len__"):
            raise SignatureError(
                f"a batch must be a list of images, not {type(raw).__name__}",
                advice="Put a single image into a list.",
            )
        encoded = np.empty((len(raw), *self._shape), dtype=np.float32)
        for number, image in enumerate(raw):  # type: ignore[arg-type, var-annotated]
            encoded[number] = self._image(image, f"row {number}")
        return encoded

    def _image(self, raw: object, where: str) -> NDArray[np.float32]:
        spec = self._spec
        if isinstance(raw, (bytes, bytearray, memoryview, str, os.PathLike)):
            pixels = decode_picture(raw) * np.float32(spec.max_value / FILE_MAX_VALUE)
        else:
            pixels = self._pixels(raw, where)
        pixels = _with_channels(pixels, spec.channels)
        if pixels.shape != self._shape:
            pixels = resize(pixels, spec)
        # In place: the pixels are a copy already, and another one costs more than the arithmetic.
        if spec.scale != 1.0:
            pixels *= np.float32(spec.scale)
        if spec.offset != 0.0:
            pixels += np.float32(spec.offset)
        return pixels

    def _pixels(self, raw: object, where: str) -> NDArray[np.float32]:
        """Return an array in the user's range with shape (h, w) or (h, w, channels)."""
        try:
            array = np.asarray(raw)
        except ValueError:  # ragged
            array = np.asarray(None)
        if array.dtype.kind not in "fiub":
            raise SignatureError(
                "this is not an image: an array of numbers is needed",
                where=where,
                advice="Give an array (height, width[, channels]), a file's bytes, or a path.",
            )
        if array.ndim == 1 and array.size == np.prod(self._shape):
            array = array.reshape(self._shape)
        is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))  # noqa: PLR2004 - dimensions
        if not is_image or array.size == 0:
            raise SignatureError(
                f"an array of shape {array.shape} is not an image",
                where=where,
                advice="Give (height, width) or (height, width, channels).",
            )
        return self._in_range(array, where)

    def _in_range(self, array: NDArray[Any], where: str) -> NDArray[np.float32]:
        low, high = float(array.min()), float(array.max())
        slack = self._spec.max_value * _RANGE_TOLERANCE
        # Written so that NaN fails too.
        if not (low >= -slack and high <= self._spec.max_value + slack):
            raise SignatureError(
                f"pixel values {low:g} … {high:g} leave the range 0 … {self._spec.max_value:g}",
                where=where,
                advice="Scale the image to the range it was trained in.",
            )
        return array.astype(np.float32)


def resize(pixels: NDArray[np.float32], spec: ImageSpec) -> NDArray[np.float32]:
    """Resize one image of shape (h, w, channels) to the spec's size.

    `bilinear` averages over the covered area when it shrinks (a triangle filter, as Pillow's and
    as TensorFlow's with antialias), so that fine texture does not turn into false patterns;
    `nearest` takes the pixel at the centre.
    """
    height, width = pixels.shape[:2]
    if spec.resize == "nearest":
        rows = (np.arange(spec.height) * 2 + 1) * height // (2 * spec.height)
        columns = (np.arange(spec.width) * 2 + 1) * width // (2 * spec.width)
        nearest: NDArray[np.float32] = pixels[rows][:, columns]
        return nearest
    down = _weights(height, spec.height)
    across = _weights(width, spec.width)
    # (H, h) · (h, w·c), then (W, w) · (H, w, c)
    tall = (down @ pixels.reshape(height, -1)).reshape(spec.height, width, -1)
    return np.ascontiguousarray(across @ tall)


@functools.lru_cache(maxsize=16)
def _weights(old: int, new: int) -> NDArray[np.float32]:
    """Return the (new, old) matrix of a triangle filter along one axis."""
    ratio = old / new
    support = max(ratio, 1.0)
    centres = (np.arange(new) + 0.5) * ratio
    distance = np.abs(np.arange(old) + 0.5 - centres[:, np.newaxis]) / support
    weights = np.maximum(0.0, 1.0 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights.astype(np.float32)


def _with_channels(pixels: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """Convert (h, w), grey, colour or colour with alpha to the model's channels."""
    if pixels.ndim == 2:  # noqa: PLR2004 - grey
        pixels = pixels[:, :, np.newaxis]
    if pixels.shape[2] == _COLOUR_AND_ALPHA:
        pixels = pixels[:, :, :_COLOUR]
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1:
        return (pixels @ _LUMA)[:, :, np.newaxis]
    return np.repeat(pixels, channels, axis=2)
