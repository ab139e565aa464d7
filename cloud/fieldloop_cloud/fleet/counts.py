"""Telemetry as tables of counts: the field's windows beside the reference's cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop.histogram import unpack_counts
from fieldloop.profile import ReferenceProfile
from fieldloop.telemetry import CONFIDENCE_EDGES, TelemetryWindow

CLASS_QUANTITY = "prediction.class"
CONFIDENCE_QUANTITY = "prediction.confidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldWindow:
    """One telemetry window with its place and time.

    Attributes:
        device: Who counted.
        at_ms: When it ended, milliseconds since 1970 UTC.
        window: What was counted.
    """

    device: str
    at_ms: int
    window: TelemetryWindow


def references_of(profile: ReferenceProfile) -> dict[str, NDArray[np.int64]]:
    """Reference counts by quantity; the last cell of a feature counts missing values.

    Of several targets each has its classes and confidences, `prediction.class.<target>`.
    """
    found = {
        item.name: np.array([*item.counts, item.missing_count], dtype=np.int64)
        for item in profile.quantities
    }
    if profile.confidence_counts:
        confidence = np.array(profile.confidence_counts, dtype=np.int64)
        ends = np.cumsum([target.class_count for target in profile.targets])[:-1]
        names = [f".{target.name}" for target in profile.targets] or [""]
        for name, table in zip(names, np.split(confidence, ends), strict=True):
            found[CLASS_QUANTITY + name] = table.sum(axis=1)
            found[CONFIDENCE_QUANTITY + name] = table.sum(axis=0)
    return found


def count_windows(
    references: Mapping[str, NDArray[np.int64]], items: Sequence[FieldWindow]
) -> dict[str, NDArray[np.int64]]:
    """Unpack one device's windows into a table (windows, cells) for each quantity.

    Raises:
        DataError: A window counts other quantities, cells or classes than the profile.
    """
    answers = [name for name in references if name.startswith(CLASS_QUANTITY)]
    ends = np.cumsum([len(references[name]) for name in answers])
    names = [
        name for name in references if not name.startswith((CLASS_QUANTITY, CONFIDENCE_QUANTITY))
    ]
    rows: dict[str, list[Sequence[int]]] = {name: [] for name in references}
    for item in items:
        window = item.window
        missing = window.missing_counts or (0,) * len(names)
        counts = window.feature_counts or ((),) * len(names)
        if len(counts) != len(names) or len(missing) != len(names):
            raise _other_model(f"{len(counts)} quantities", f"{len(names)}")
        for name, packed, lost in zip(names, counts, missing, strict=True):
            cells = len(references[name]) - 1
            values = unpack_counts(packed, cell_count=cells) if packed else [0] * cells
            rows[name].append([*values, lost])
        if answers:
            confidence = confidence_table(window, int(ends[-1]))
            for name, table in zip(answers, np.split(confidence, ends[:-1]), strict=True):
                rows[name].append(table.sum(axis=1).tolist())
                place = CONFIDENCE_QUANTITY + name.removeprefix(CLASS_QUANTITY)
                rows[place].append(table.sum(axis=0).tolist())
    return {name: np.array(table, dtype=np.int64) for name, table in rows.items()}


def confidence_table(window: TelemetryWindow, class_count: int) -> NDArray[np.int64]:
    """Unpack class by confidence counts; a window without predictions has none.

    Raises:
        DataError: The window counts other classes than the profile.
    """
    cells = len(CONFIDENCE_EDGES) + 1
    if not window.confidence_counts:
        return np.zeros((class_count, cells), dtype=np.int64)
    if len(window.confidence_counts) != class_count:
        raise _other_model(f"{len(window.confidence_counts)} classes", f"{class_count}")
    table = [unpack_counts(row, cell_count=cells) for row in window.confidence_counts]
    return np.array(table, dtype=np.int64)


def _other_model(window: str, profile: str) -> DataError:
    return DataError(
        f"a window counts {window}, the profile {profile}",
        advice="Compare windows with the profile of the model that wrote them.",
    )
