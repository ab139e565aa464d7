"""How rows hang together: the group that each belongs to, and the time it came.

Neither is a feature. A split keeps groups whole and times in order, so that a score says what a
new machine, a new patient or tomorrow will give.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop_cloud.data.dataset import Dataset


def related(
    dataset: Dataset,
    *,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
    where: str = "",
) -> Dataset:
    """Return the data set with groups and times.

    Args:
        dataset: The rows.
        groups: One name or number a row, shape (n,); None leaves them as they are.
        times: Numbers, dates or ISO 8601 texts, shape (n,); None leaves them as they are.
        where: For error messages.

    Raises:
        DataError: Not one value a row, a missing one, or a time that cannot be read.
    """
    place = where or dataset.name
    for name, values in (("group", groups), ("time", times)):
        if values is not None and np.shape(values) != (len(dataset),):
            raise DataError(
                f"{name}s have shape {np.shape(values)} for {len(dataset)} rows",
                where=place,
                advice=f"Give one {name} a row.",
            )
    if groups is not None:
        groups = encode_groups(_series(groups, "groups"), where=place)
        dataset = replace(dataset, groups=groups)
    if times is not None:
        times = encode_times(_series(times, "times"), where=place)
        dataset = replace(dataset, times=times)
    return dataset


def encode_groups(series: pd.Series, *, where: str) -> NDArray[np.int64]:
    """Number the groups in the order of their first rows; shape (n,).

    Raises:
        DataError: A row without a group.
    """
    _refuse_gaps(series, series.isna().to_numpy(dtype=bool), "group", where)
    codes, _ = pd.factorize(series)
    return np.asarray(codes, dtype=np.int64)


def encode_times(series: pd.Series, *, where: str) -> NDArray[np.float64]:
    """Turn numbers as they are, and dates or ISO 8601 texts, into seconds; shape (n,), float64.

    Texts without a zone are taken as UTC.

    Raises:
        DataError: A row without a time, or with one that cannot be read.
    """
    _refuse_gaps(series, series.isna().to_numpy(dtype=bool), "time", where)
    is_date = pd.api.types.is_datetime64_any_dtype(series.dtype)
    if not is_date:
        numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64)
        if np.isfinite(numbers).all():
            return np.asarray(numbers, dtype=np.float64)
    dates = pd.to_datetime(series, errors="coerce", utc=True, format=None if is_date else "ISO8601")
    unread = dates.isna().to_numpy(dtype=bool)
    if unread.any():
        row = int(np.flatnonzero(unread)[0])
        raise DataError(
            f"{series.iloc[row]!r} in row {row + 1} is no time",
            where=f"{where}, column '{series.name}'",
            advice="Write numbers, or ISO 8601 such as 2026-03-01T12:00:00.",
        )
    seconds = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return np.asarray(seconds, dtype=np.float64)


def _series(values: NDArray[Any], name: str) -> pd.Series:
    array = np.asarray(values)
    return pd.Series(
        np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array, name=name
    )


def _refuse_gaps(series: pd.Series, gaps: NDArray[np.bool_], what: str, where: str) -> None:
    if gaps.any():
        rows = np.flatnonzero(gaps)
        raise DataError(
            f"the {what} is missing in {len(rows)} of {len(series)} rows, first in row "
            f"{rows[0] + 1}",
            where=f"{where}, column '{series.name}'",
            advice="Fill it in or remove these rows.",
        )
