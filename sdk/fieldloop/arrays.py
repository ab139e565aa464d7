"""Raw rows of a model whose values have no names: arrays of the input's own shape."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import SignatureError

_LARGEST_WHOLE = 2**24
"""Up to here float32 holds every whole number."""


class ArrayEncoder:
    """Encodes unnamed raw rows of one model.

    Args:
        shape: One row's shape; -1 takes any size.
        whole: Whether the values are numbers of something (tokens, categories), which must not be
            rounded.
    """

    def __init__(self, shape: tuple[int, ...], *, whole: bool = False) -> None:
        self._shape = shape
        self._whole = whole

    def row(self, raw: object) -> NDArray[np.float32]:
        """Encode one row of the shape; returns shape (1, *shape).

        Raises:
            SignatureError: Another shape, or values that are not finite numbers.
        """
        return self._encode(raw, "")[np.newaxis]

    def rows(self, raw: object) -> NDArray[np.float32]:
        """Encode rows of the same shape; returns shape (n, *shape).

        Raises:
            SignatureError: As for `row`; names the row.
        """
        if isinstance(raw, (str, bytes)) or not hasattr(raw, "__len__"):
            raise SignatureError(
                f"a batch must be a list of rows or an array, not {type(raw).__name__}",
                advice="Put a single row into a list.",
            )
        rows = [self._encode(row, f"row {number}") for number, row in enumerate(raw)]  # type: ignore[arg-type, var-annotated]
        if not rows:
            return np.empty((0, *(max(size, 0) for size in self._shape)), dtype=np.float32)
        if len({row.shape for row in rows}) > 1:
            raise SignatureError(
                "the rows of one batch have different shapes", advice="Encode them one by one."
            )
        return np.stack(rows)

    def _encode(self, raw: object, where: str) -> NDArray[np.float32]:
        try:
            array: NDArray[Any] = np.asarray(raw)
        except ValueError:  # ragged
            array = np.asarray(None)
        if array.dtype.kind not in "fiub":
            raise SignatureError(
                "the row is not an array of numbers",
                where=where,
                advice=f"Give numbers of shape {self._shape}.",
            )
        if array.ndim == 0 and self._shape == (1,):  # one number needs no brackets
            array = array.reshape(1)
        fits = array.ndim == len(self._shape) and all(
            wanted in (-1, size) for wanted, size in zip(self._shape, array.shape, strict=True)
        )
        if not fits:
            raise SignatureError(
                f"a row of shape {array.shape} came where {self._shape} is needed",
                where=where,
                advice="Give one row in the model's shape.",
            )
        with np.errstate(over="ignore"):
            encoded = array.astype(np.float32)
        if not np.isfinite(encoded).all():
            position = tuple(np.argwhere(~np.isfinite(encoded))[0].tolist())
            raise SignatureError(
                f"{array[position]} is not a finite number",
                where=f"{where}, position {position}".removeprefix(", "),
                advice="Fill missing values in before predicting.",
            )
        if self._whole and not (
            (np.rint(encoded) == array).all() and (abs(encoded) <= _LARGEST_WHOLE).all()
        ):
            raise SignatureError(
                "the input takes whole numbers up to 16,777,216",
                where=where,
                advice="Give whole numbers.",
            )
        return encoded
