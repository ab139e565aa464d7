"""Image files into arrays, with Pillow or OpenCV, whichever is there; Pillow is preferred.

Formats without loss (PNG, BMP, TIFF) give the same values with both. JPEG decoders may round
differently: single values by up to 4 of 255, 0.5 on average. Neither turns a picture by its EXIF.
"""

import importlib
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError, EnvironmentFaultError

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded; a small file can hold an enormous one."""

FILE_MAX_VALUE = 255.0
_DEEP_MAX_VALUE = 65_535.0


def decode_picture(raw: Any) -> NDArray[np.float32]:
    """Decode a file's bytes, or the file at a path.

    Returns:
        Values 0 … 255, shape (h, w) for grey or (h, w, 3) for red, green and blue.

    Raises:
        DataError: The file is missing, no image, or too large.
        EnvironmentFaultError: Neither Pillow nor OpenCV is installed.
    """
    is_path = isinstance(raw, (str, os.PathLike))
    where = os.fspath(raw) if is_path else f"{len(raw)} bytes"
    decode = _decoder()
    try:
        content = Path(raw).read_bytes() if is_path else bytes(raw)
    except OSError as error:
        raise DataError(
            f"the image cannot be read: {error.strerror}",
            where=str(where),
            advice="Check the path.",
        ) from error
    return decode(content, str(where))


def _decoder() -> Callable[[bytes, str], NDArray[np.float32]]:
    try:
        importlib.import_module("PIL.Image")
    except ImportError:
        # Read when OpenCV is loaded: it would decode sixteen times as much.
        os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
        try:
            importlib.import_module("cv2")
        except ImportError as error:
            raise EnvironmentFaultError(
                "image files need Pillow or OpenCV, and neither is installed",
                advice="Run: pip install 'fieldloop-device[image]', or give arrays.",
            ) from error
        return _by_opencv
    return _by_pillow


def _by_pillow(content: bytes, where: str) -> NDArray[np.float32]:
    image_module = importlib.import_module("PIL.Image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oversized and odd files are judged here
            with image_module.open(io.BytesIO(content)) as image:
                return _picture(image, where)
    except image_module.DecompressionBombError as error:
        raise _too_large(where) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise _no_image(where) from error


def _picture(image: Any, where: str) -> NDArray[np.float32]:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(where)
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey: Pillow's own conversion would clip it to white.
        return _shallow(np.array(image, dtype=np.float32))
    grey = image.mode in ("1", "L", "LA")
    return np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32)


def _by_opencv(content: bytes, where: str) -> NDArray[np.float32]:
    opencv = importlib.import_module("cv2")
    try:
        pixels = opencv.imdecode(np.frombuffer(content, np.uint8), opencv.IMREAD_UNCHANGED)
    except opencv.error as error:
        if "pixels" in str(error).lower():
            raise _too_large(where) from error
        raise _no_image(where) from error
    if pixels is None:
        raise _no_image(where)
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise _too_large(where)
    is_deep = pixels.dtype != np.uint8
    pixels = pixels.astype(np.float32)
    if pixels.ndim > 2:  # noqa: PLR2004 - colour: OpenCV's order is blue, green, red
        pixels = np.ascontiguousarray(pixels[:, :, 2::-1])
    return _shallow(pixels) if is_deep else pixels


def _shallow(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring 16-bit values to 8 bits' range."""
    pixels *= np.float32(FILE_MAX_VALUE / _DEEP_MAX_VALUE)
    return np.minimum(pixels, np.float32(FILE_MAX_VALUE))


def _too_large(where: str) -> DataError:
    return DataError(
        "the image has too many pixels",
        where=where,
        advice=f"Give at most {MAX_PIXELS} pixels.",
    )


def _no_image(where: str) -> DataError:
    return DataError(
        "this is not an image, or a damaged one",
        where=where,
        advice="Give a PNG, JPEG or another format that the library reads.",
    )
