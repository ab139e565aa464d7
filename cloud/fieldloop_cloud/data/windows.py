"""Sensor readings cut into windows: one row of a data set is (steps, channels).

No window reaches over the end of its group or over a gap in time, and none holds readings of two
classes. A device gives a window as it was cut here: a list of readings, oldest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.data.columns import encode_column, encode_target
from fieldloop_cloud.data.dataset import Dataset, DataTask
from fieldloop_cloud.data.relations import encode_groups, encode_times

_GAP = 2.5
"""A step longer than this many usual ones is a gap."""

MIN_STEPS = 2


@dataclass(frozen=True, slots=True)
class Windowing:
    """How readings become windows.

    Attributes:
        window: Readings in a window.
        stride: Readings from the start of one window to the next; None: no overlap.
    """

    window: int
    stride: int | None = None

    @property
    def step(self) -> int:
        """Readings from the start of one window to the next."""
        return self.stride or self.window

    def checked(self) -> "Windowing":
        """Return self.

        Raises:
            ConfigError: A window of fewer than two readings, or a stride of none.
        """
        if self.window < MIN_STEPS or (self.stride is not None and self.stride < 1):
            raise ConfigError(
                f"a window of {self.window} readings with a stride of {self.step} is none",
                where="window",
                advice=f"Give a window of at least {MIN_STEPS} and a stride of at least 1.",
            )
        return self


def windows_from_frame(
    frame: pd.DataFrame,
    target: str,
    windowing: Windowing,
    *,
    name: str,
    where: str,
    task: DataTask | None = None,
    drop: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
) -> Dataset:
    """Cut a long table, one reading a row, into windows.

    A window of classes needs one class throughout; a window of values takes its last reading's.
    Without a time column the rows' order is the time, in steps.

    Args:
        frame: The readings; all columns but those named here are channels.
        target: The target's column.
        windowing: Length and stride.
        name: For people.
        where: For error messages.
        task: Says whether classes or numbers are predicted.
        drop: Columns to leave out.
        group: Column of the recording, machine or person.
        time: Column of the time; readings are put into its order within each group.

    Raises:
        ConfigError: Window or stride make no sense.
        DataError: A channel that is not numbers or has gaps, or recordings that are shorter than
            the window.
    """
    windowing = windowing.checked()
    groups = None if group is None else encode_groups(frame[group], where=where)
    times = None if time is None else encode_times(frame[time], where=where)
    clock = np.arange(len(frame), dtype=np.float64) if times is None else times
    order = np.lexsort((clock, np.zeros(len(frame)) if groups is None else groups))
    named = [str(column) for column in frame.columns]
    kept = [column for column in named if column not in {target, group, time, *drop}]
    readings = _channels(frame, kept, where)[order]
    found_task, codes, labels = encode_target(frame[target], task=task, where=where)
    recordings = _recordings(None if groups is None else groups[order], clock[order])
    starts = _starts(recordings, windowing, where)
    spans = _index(starts, windowing.window)
    truth = codes[order][spans]
    mixed = (truth != truth[:, :1]).any(axis=1) if labels else np.zeros(len(starts), np.bool_)
    if mixed.all():
        raise DataError(
            f"every window of {windowing.window} readings holds more than one class",
            where=where,
            advice="Use a shorter window.",
        )
    starts, spans, truth = starts[~mixed], spans[~mixed], truth[~mixed]
    return Dataset(
        name=name,
        kind="series",
        task=found_task,
        X=readings[spans],
        y=truth[:, -1],
        labels=labels,
        target=target,
        channels=tuple(kept),
        groups=None if groups is None else groups[order][starts],
        times=clock[order][starts],
        span=windowing.window * _usual_step(recordings, clock[order]),
        notes=_notes(len(frame), recordings, windowing, int(mixed.sum()), len(starts)),
    )


def windows_from_arrays(
    X: NDArray[Any],
    y: NDArray[Any],
    *,
    name: str,
    where: str,
    task: DataTask | None = None,
    channels: Sequence[str] | None = None,
) -> Dataset:
    """Build a data set from windows that are cut already.

    Args:
        X: (n, steps, channels), or (n, steps) for one channel.
        y: (n,) labels or numbers.
        name: For people.
        where: For error messages.
        task: Says whether classes or numbers are predicted.
        channels: Names of the channels; `c0`, `c1`, … by default.

    Raises:
        DataError: Another shape, or values that are no finite numbers.
    """
    rows = np.asarray(X)[:, :, np.newaxis] if np.ndim(X) == 2 else np.asarray(X)  # noqa: PLR2004 - one channel
    if rows.ndim != 3 or rows.shape[1] < MIN_STEPS or not rows.shape[2]:  # noqa: PLR2004 - dimensions
        raise DataError(
            f"windows of shape {rows.shape[1:]} cannot be used",
            where=where,
            advice="Give X as (n, steps, channels) with at least two steps.",
        )
    bad = ~np.isfinite(rows).all(axis=(1, 2))
    if bad.any():
        raise DataError(
            "a window holds NaN or infinity",
            where=f"{where}, row {int(np.flatnonzero(bad)[0]) + 1}",
            advice="Fill the gap in or leave the window out.",
        )
    names = tuple(channels or (f"c{number}" for number in range(rows.shape[2])))
    if len(names) != rows.shape[2]:
        raise DataError(
            f"there are {len(names)} channel names for {rows.shape[2]} channels",
            where=where,
            advice="Name every channel once.",
        )
    found, codes, labels = encode_target(pd.Series(y, name="y"), task=task, where=where)
    return Dataset(
        name=name,
        kind="series",
        task=found,
        X=rows.astype(np.float32),
        y=codes,
        labels=labels,
        channels=names,
    )


def _channels(frame: pd.DataFrame, kept: list[str], where: str) -> NDArray[np.float32]:
    if not kept:
        raise DataError("no channels are left", where=where, advice="Drop fewer columns.")
    columns = []
    for name in kept:
        column = encode_column(frame[name], where=where)
        place = f"{where}, column '{name}'"
        if column.spec.categories:
            raise DataError(
                "a channel holds texts",
                where=place,
                advice=f"Drop it: drop=['{name}'], or name it as group, time or target.",
            )
        gaps = np.flatnonzero(np.isnan(column.codes))
        if len(gaps):
            raise DataError(
                f"{len(gaps)} readings are missing, first in row {gaps[0] + 1}",
                where=place,
                advice="Fill them in (as the device will), or remove these rows.",
            )
        columns.append(column.codes)
    return np.stack(columns, axis=1)


def _recordings(groups: NDArray[np.int64] | None, clock: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number unbroken stretches of ordered readings: a new group or a gap begins a new one."""
    breaks = np.zeros(len(clock), dtype=np.bool_)
    if groups is not None:
        breaks[1:] = groups[1:] != groups[:-1]
    steps = np.diff(clock)
    within = steps[~breaks[1:]]
    forward = within[within > 0]
    if len(forward):
        breaks[1:] |= steps > _GAP * float(np.median(forward))
    return np.cumsum(breaks).astype(np.int64)


def _starts(recordings: NDArray[np.int64], windowing: Windowing, where: str) -> NDArray[np.int64]:
    """Return where windows begin, each inside one recording."""
    lengths = np.bincount(recordings)
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    starts = [
        np.arange(begin, begin + length - windowing.window + 1, windowing.step)
        for begin, length in zip(begins, lengths, strict=True)
        if length >= windowing.window
    ]
    if not starts:
        raise DataError(
            f"no recording is as long as the window of {windowing.window} readings; the longest "
            f"has {int(lengths.max(initial=0))}",
            where=where,
            advice="Use a shorter window, or bring longer recordings.",
        )
    return np.concatenate(starts).astype(np.int64)


def _index(starts: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """Return the readings of each window, (n, window)."""
    end = int(starts.max()) + window
    every: NDArray[np.int64] = sliding_window_view(np.arange(end, dtype=np.int64), window)[starts]
    return every


def _usual_step(recordings: NDArray[np.int64], clock: NDArray[np.float64]) -> float:
    steps = np.diff(clock)[np.diff(recordings) == 0]
    return float(np.median(steps)) if len(steps) else 0.0


def _notes(
    reading_count: int, recordings: NDArray[np.int64], windowing: Windowing, mixed: int, made: int
) -> tuple[str, ...]:
    lengths = np.bincount(recordings)
    cut = f"{made} windows of {windowing.window}, one every {windowing.step}"
    notes = [f"{reading_count} readings in {len(lengths)} recordings gave {cut}."]
    if windowing.step < windowing.window:
        notes.append("Windows overlap: only a split by group or by time keeps readings apart.")
    short = int((lengths < windowing.window).sum())
    if short:
        notes.append(f"{short} recordings are shorter than a window and were left out.")
    if mixed:
        notes.append(f"{mixed} windows held more than one class and were left out.")
    return tuple(notes)
