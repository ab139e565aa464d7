"""Columns of a table: each becomes numbers with a meaning, or is refused by name and row."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop.signature import Category, FeatureSpec
from fieldloop_cloud.data.dataset import DataTask

MAX_CATEGORIES = 100
"""More different texts than this are names or prose, not categories."""

MAX_GUESSED_CLASSES = 20
"""A whole-number target with more different values is taken for a quantity."""

_USE_OF_DATES = (
    "Drop it, name it with time= or --time if it says when a row came, or turn it into numbers "
    "such as the hour of the day."
)

_OTHER_NOTATIONS = (
    (
        re.compile(r"[+-]?\d+,\d+"),
        "the column holds numbers with a decimal comma",
        "Write them with a decimal point.",
    ),
    (
        re.compile(r"\d{4}-\d\d-\d\d([T ][\d:.]+(Z|[+-][\d:]+)?)?"),
        "the column holds dates",
        _USE_OF_DATES,
    ),
)

Targets = NDArray[np.int64] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Column:
    """One encoded column: float32 values (n,), their meaning, and what is odd about them."""

    codes: NDArray[np.float32]
    spec: FeatureSpec
    notes: tuple[str, ...] = ()


def encode_column(series: pd.Series, *, where: str, categorical: bool = False) -> Column:
    """Turn one column into float32: numbers as they are, categories as codes, missing as NaN.

    Raises:
        DataError: All missing, infinite, numbers mixed with text, a date, or too many texts.
    """
    name = str(series.name)
    place = f"{where}, column '{name}'"
    missing = series.isna().to_numpy(dtype=bool)
    if len(series) and missing.all():
        raise DataError(
            "a column is empty", where=place, advice=f"Drop it: drop=['{name}'] or --drop {name}."
        )
    numbers = _numbers(series, missing, place)
    if numbers is not None and not categorical:
        _refuse_infinite(numbers, missing, place)
        values = numbers.astype(np.float32)
        spec = FeatureSpec(
            name=name,
            low=float(np.nanmin(values)) if len(values) else None,
            high=float(np.nanmax(values)) if len(values) else None,
            missing_allowed=bool(missing.any()),
        )
        return Column(values, spec, _rounding_note(name, numbers, values))
    raw = _categories(series, missing, numbers)
    known = sorted(set(raw[~missing].tolist()), key=lambda item: (str(type(item)), item))
    if len(known) > MAX_CATEGORIES:
        raise DataError(
            f"the column has {len(known)} different texts in {len(series)} rows, which looks like "
            "a name or free text",
            where=place,
            advice=f"Drop it: drop=['{name}'] or --drop {name}.",
        )
    code = {category: index for index, category in enumerate(known)}
    values = np.asarray([code.get(item, np.nan) for item in raw.tolist()], dtype=np.float32)
    spec = FeatureSpec(
        name=name,
        categories=tuple(known),
        missing_allowed=bool(missing.any()),
        unknown="encode",
    )
    return Column(values, spec)


def encode_target(
    series: pd.Series, *, task: DataTask | None, where: str
) -> tuple[DataTask, Targets, tuple[Category, ...]]:
    """Turn the target into class indices (int64) with labels, or into float32 numbers.

    Without `task`, texts, truth values and up to 20 different whole numbers are classes.

    Raises:
        DataError: Missing or infinite targets, text where numbers are asked for.
    """
    place = f"{where}, target '{series.name}'"
    missing = series.isna().to_numpy(dtype=bool)
    if missing.any():
        rows = np.flatnonzero(missing)
        raise DataError(
            f"the target is missing in {len(rows)} of {len(series)} rows, first in row "
            f"{rows[0] + 1}",
            where=place,
            advice="Label these rows or remove them.",
        )
    numbers = _numbers(series, missing, place)
    if numbers is not None:
        _refuse_infinite(numbers, missing, place)
    if task is None:
        task = _guess_task(numbers)
    if task == "regression":
        if numbers is None:
            raise DataError(
                "the target holds text where numbers are needed",
                where=place,
                advice="Use task='classification' for labels.",
            )
        return task, numbers.astype(np.float32), ()
    raw = _categories(series, missing, numbers)
    labels = tuple(sorted(set(raw.tolist()), key=lambda item: (str(type(item)), item)))
    code = {label: index for index, label in enumerate(labels)}
    return task, np.asarray([code[item] for item in raw.tolist()], dtype=np.int64), labels


def _guess_task(numbers: NDArray[np.float64] | None) -> DataTask:
    if numbers is None:
        return "classification"
    whole = bool((numbers == np.rint(numbers)).all())
    few = len(np.unique(numbers)) <= MAX_GUESSED_CLASSES
    return "classification" if whole and few else "regression"


def _numbers(
    series: pd.Series, missing: NDArray[np.bool_], place: str
) -> NDArray[np.float64] | None:
    """Return the column as numbers, None if it is text or truth values; refuse a mixture."""
    if pd.api.types.is_bool_dtype(series.dtype):
        return None
    if pd.api.types.is_numeric_dtype(series.dtype):
        if np.issubdtype(np.asarray(series.iloc[:1]).dtype, np.complexfloating):
            raise DataError("the column holds complex numbers", where=place)
        return _as_float64(series)
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        raise DataError(
            "the column holds dates",
            where=place,
            advice=_USE_OF_DATES,
        )
    parsed = _as_float64(pd.to_numeric(series, errors="coerce"))
    # "nan" and "inf" written out are numbers too; only what is present and unreadable is text.
    text = ~missing & np.isnan(parsed)
    if text[~missing].all():
        _refuse_other_notations(series[~missing], place)
        return None
    if text.any():
        row = int(np.flatnonzero(text)[0])
        raise DataError(
            f"the column mixes numbers and text: {series.iloc[row]!r} in row {row + 1}",
            where=place,
            advice="Correct the cell, leave it empty, or drop the column.",
        )
    return parsed


def _refuse_other_notations(texts: pd.Series, place: str) -> None:
    """Refuse what would be taken for categories and is none: decimal commas and dates."""
    for pattern, what, advice in _OTHER_NOTATIONS:
        fits = [isinstance(text, str) and pattern.fullmatch(text.strip()) for text in texts]
        if fits and all(fits):
            raise DataError(f"{what}, as in {texts.iloc[0]!r}", where=place, advice=advice)


def _as_float64(series: pd.Series) -> NDArray[np.float64]:
    array: NDArray[np.float64] = series.to_numpy(dtype=np.float64, na_value=np.nan)
    return array


def _categories(
    series: pd.Series, missing: NDArray[np.bool_], numbers: NDArray[np.float64] | None
) -> NDArray[Any]:
    """Return categories as Python values: int where all are whole, bool where all are."""
    if numbers is not None:
        whole = bool((numbers[~missing] == np.rint(numbers[~missing])).all())
        found = [int(n) if whole and not np.isnan(n) else float(n) for n in numbers]
        return np.asarray(found, dtype=object)
    raw = np.asarray([item.strip() if isinstance(item, str) else item for item in series], object)
    truth = {"true": True, "false": False}
    lowered = {str(item).lower() for item in raw[~missing]}
    if lowered <= truth.keys():
        return np.asarray([truth.get(str(item).lower(), np.nan) for item in raw], dtype=object)
    return np.asarray(
        [item if gone else str(item) for item, gone in zip(raw, missing, strict=True)], dtype=object
    )


def _refuse_infinite(numbers: NDArray[np.float64], missing: NDArray[np.bool_], place: str) -> None:
    beyond = ~missing & ~(np.abs(numbers) <= np.finfo(np.float32).max)
    if beyond.any():
        rows = np.flatnonzero(beyond)
        raise DataError(
            f"{len(rows)} values are infinite or beyond float32, first in row {rows[0] + 1}",
            where=place,
            advice="Replace them with a number, or leave the cells empty.",
        )


def _rounding_note(
    name: str, numbers: NDArray[np.float64], values: NDArray[np.float32]
) -> tuple[str, ...]:
    """Say when float32 merges numbers that differ (time stamps, long ids)."""
    before, after = len(np.unique(numbers)), len(np.unique(values))
    if after * 1.01 >= before:
        return ()
    note = (
        f"Column '{name}': float32 merges {before} different numbers into {after}; subtract an "
        "offset if the differences matter."
    )
    return (note,)
