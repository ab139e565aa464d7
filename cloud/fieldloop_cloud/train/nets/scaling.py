"""What the graph must know of the training rows: fills and scales, found once and folded in.

Only the rows that weights are fitted on are looked at, in chunks, so that they need not fit in
memory.
"""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.streamed import StreamedImages

_CHUNK = 4096
_SAMPLE = 512


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """Statistics of the fitted rows.

    Attributes:
        mean: Of each column or channel, missing values left out; what is missing becomes this.
        std: Their standard deviation; 1 where nothing varies.
        target_mean: Of the target of a regression.
        target_std: Its standard deviation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    target_mean: float = 0.0
    target_std: float = 1.0

    @classmethod
    def neutral(cls, width: int) -> "Scaling":
        """Return a scaling that changes nothing, for nets that are not trained."""
        return cls(mean=(0.0,) * width, std=(1.0,) * width)


def scaling_of(data: Dataset, rows: NDArray[np.int64]) -> Scaling:
    """Look at the rows with these numbers; per column, or per channel of images and windows.

    Codes of categories get statistics too, which nobody reads. Of images that are on disk a
    sample is looked at: decoding all of them would take as long as an epoch.

    Raises:
        DataError: Infinity, or NaN where there are no missing values; names the row.
    """
    X: Any = data.X
    if isinstance(X, StreamedImages):
        rows = rows[:: -(-len(rows) // _SAMPLE)]
    width = X.shape[-1]
    count, total, squares = np.zeros(width), np.zeros(width), np.zeros(width)
    shift = np.nan_to_num(np.asarray(X[rows[:1]], dtype=np.float64).reshape(-1, width)[0])
    for start in range(0, len(rows), _CHUNK):
        part = np.asarray(X[rows[start : start + _CHUNK]], dtype=np.float64)
        _check_numbers(data, part, rows[start : start + _CHUNK])
        # Centred on some row: the squares of large offsets would eat the digits.
        part = part.reshape(-1, width) - shift
        known = ~np.isnan(part)
        count += known.sum(axis=0)
        total += np.where(known, part, 0.0).sum(axis=0)
        squares += np.where(known, part**2, 0.0).sum(axis=0)
    count = np.maximum(count, 1)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    flat = std <= 2e-7 * np.maximum(1.0, np.abs(mean + shift))
    std = np.where(flat, 1.0, std)
    target = data.y[rows].astype(np.float64) if not data.labels else np.zeros(1)
    spread = float(target.std())
    return Scaling(
        mean=tuple(float(value) for value in mean + shift),
        std=tuple(float(value) for value in std),
        target_mean=float(target.mean()),
        target_std=spread if spread > 0 else 1.0,
    )


def _check_numbers(data: Dataset, part: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
    bad = np.isinf(part) if data.kind == "tabular" else ~np.isfinite(part)
    if bad.any():
        row = numbers[np.flatnonzero(bad.reshape(len(part), -1).any(axis=1))[0]]
        raise DataError(
            "a row holds NaN or infinity",
            where=f"{data.name}, training row {int(row) + 1}",
            advice="Repair it or leave it out.",
        )
