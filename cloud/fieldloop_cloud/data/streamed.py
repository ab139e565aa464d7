"""Image files as an array that is read where it is asked for.

Picking rows costs nothing; only what is turned into an array (`numpy.asarray`) is decoded, by the
codec that a device uses. So a folder larger than memory can be split, sampled and trained on.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fieldloop.errors import DataError
from fieldloop.images import ImageEncoder
from fieldloop.signature import ImageSpec

MAX_DECODED_BYTES = 4 << 30
"""More than this is not decoded into one array."""


class StreamedImages:
    """Encoded images, shape (n, height, width, channels), float32, decoded when read.

    Args:
        paths: The files, in the rows' order.
        image: How a file becomes a row.

    Example:
        >>> StreamedImages((Path("a.png"),) * 3, ImageSpec(height=8, width=8, channels=1)).shape
        (3, 8, 8, 1)
    """

    dtype = np.dtype(np.float32)
    ndim = 4

    def __init__(self, paths: tuple[Path, ...], image: ImageSpec) -> None:
        self.paths = paths
        self.image = image
        self._encoder = ImageEncoder(image)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, height, width, channels)."""
        return (len(self.paths), self.image.height, self.image.width, self.image.channels)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows when decoded."""
        return 4 * math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, key: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, key: "slice | ArrayLike") -> "StreamedImages": ...
    def __getitem__(self, key: Any) -> "StreamedImages | NDArray[np.float32]":
        if isinstance(key, (int, np.integer)):
            return self._row(int(key))
        numbers = np.arange(len(self.paths))[key]
        return StreamedImages(tuple(self.paths[number] for number in numbers), self.image)

    def __array__(  # NumPy's protocol fixes the arguments
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - as NumPy calls it
    ) -> NDArray[Any]:
        if self.nbytes > MAX_DECODED_BYTES:
            raise DataError(
                f"{len(self)} images of {self.shape[1]} x {self.shape[2]} do not fit in memory",
                advice="Train a net on them, or give a smaller image_size.",
            )
        rows = np.empty(self.shape, dtype=np.float32)
        for number in range(len(self.paths)):
            rows[number] = self._row(number)
        return rows if dtype is None else rows.astype(dtype, copy=bool(copy))

    def copies(self) -> NDArray[np.int64]:
        """Number rows so that files with the same bytes share a number; nothing is decoded."""
        digests = [hashlib.sha256(self.encoded(path)).hexdigest() for path in self.paths]
        return np.unique(digests, return_inverse=True)[1].astype(np.int64)

    @staticmethod
    def encoded(path: Path) -> bytes:
        """Return a file's bytes.

        Raises:
            DataError: It cannot be read.
        """
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"an image cannot be read: {error.strerror}",
                where=str(path),
                advice="Put it back, or load the folder again.",
            ) from error

    def reshape(self, *shape: Any) -> NDArray[np.float32]:
        """Decode everything into an array of another shape."""
        flat: NDArray[np.float32] = np.asarray(self).reshape(*shape)
        return flat

    def _row(self, number: int) -> NDArray[np.float32]:
        path = self.paths[number]
        try:
            row: NDArray[np.float32] = self._encoder.row(path)[0]
        except DataError as error:
            raise DataError(
                f"an image cannot be read: {error.what}",
                where=str(path),
                advice="Repair it or take it out of the folder.",
            ) from error
        return row
