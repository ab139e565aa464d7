"""The report of a whole loop: accuracy over time, what changed, what was noticed, what it cost."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.files import write_file
from fieldloop_cloud.fleet.drift import DriftVerdict
from fieldloop_cloud.loop import LoopResult
from fieldloop_cloud.report import plots
from fieldloop_cloud.report.html import render
from fieldloop_cloud.train.run import Run

SMOOTHING = 25
"""Answers in the running mean of the accuracy curve."""

EXAMPLE_COUNT = 8

MARK_CHARS = 36
"""A longer sentence would run out of the plot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    """One device's line in the closing table.

    Attributes:
        sent: Messages it numbered.
        lost: Of these, what home has not stored.
        runs: Short hash of the bundle it reports to run.
    """

    device: str
    windows: int
    events: int
    samples: int
    sent: int
    stored: int
    duplicates: int
    lost: int
    runs: str


def device_rows(result: LoopResult) -> list[DeviceRow]:
    """Return the closing table: what each device sent, what arrived, and what it runs."""
    record = result.record
    rows = []
    for item in record.counts:
        lost = item.missing + record.outbox_left.get(item.device, 0)
        rows.append(
            DeviceRow(
                device=item.device,
                windows=item.windows,
                events=item.events,
                samples=item.samples,
                sent=item.stored + lost,
                stored=item.stored,
                duplicates=item.duplicates,
                lost=lost,
                runs=record.running.get(item.device, "")[:12],
            )
        )
    return rows


def variants(result: LoopResult) -> list[tuple[int, Run]]:
    """Return the releases' numbers with the runs that they came from."""
    runs = (result.first, result.second.challenger)
    return [(item.release, run) for item, run in zip(result.releases, runs, strict=True)]


def write_loop_report(result: LoopResult, path: Path) -> None:
    """Write the report as one self-contained HTML file.

    Raises:
        EnvironmentFaultError: The file cannot be written.
    """
    write_file(path, loop_report(result).encode())


def loop_report(result: LoopResult) -> str:
    """Return the report as HTML."""
    settings, record = result.settings, result.record
    first, second = result.releases
    return render(
        "loop.html",
        title="The whole loop, once round",
        lead=(
            f"{settings.source}, {settings.device_count} devices over {record.broker}, "
            f"{result.elapsed_s:.0f} s"
        ),
        result=result,
        first=first,
        second=second,
        devices=device_rows(result),
        releases=variants(result),
        fleet_drift=[item for item in result.drift if item.device is None],
        device_drift=[item for item in result.drift if item.device is not None],
        timeline=_timeline(result),
        pictures=_pictures(result.field.under_unchanged, result.field.under),
        drift_plot=_drift(result.drift),
    )


def _timeline(result: LoopResult) -> str:
    """Draw the running accuracy of each stretch, with what happened when."""
    series = []
    for phase in result.record.phases:
        right = np.asarray(phase.right, dtype=float)
        width = min(SMOOTHING, len(right))
        mean = np.convolve(right, np.full(width, 1 / width), mode="valid")
        series.append((phase.name, list(phase.at_s[width - 1 :]), [float(m) for m in mean]))
    marks = [
        (moment, text)
        for moment, text in result.record.events
        if not any(text.startswith(phase.name) for phase in result.record.phases)
    ]
    return plots.lines(
        series,
        xlabel="seconds in the field",
        ylabel=f"accuracy, mean of {SMOOTHING}",
        marks=[
            (moment, textwrap.shorten(text, MARK_CHARS, placeholder=" …")) for moment, text in marks
        ],
    )


def _pictures(unchanged: Dataset, changed: Dataset) -> str:
    """Draw some inputs as the sensors saw them when new, and as they see them now."""
    assert changed.image is not None
    count = min(EXAMPLE_COUNT, len(changed))
    drawing = plots.figure(0.8 * count, 1.8)
    grid = drawing.subplots(2, count, squeeze=False)
    high = changed.image.max_value * changed.image.scale + changed.image.offset
    for line, data in enumerate((unchanged, changed)):
        for column in range(count):
            place = grid[line][column]
            place.imshow(data.X[column].mean(axis=2), cmap="gray_r", vmin=0.0, vmax=high)
            place.set_axis_off()
    return plots.data_uri(drawing)


def _drift(found: Sequence[DriftVerdict]) -> str:
    """Draw the size of each noticed change, fleet first."""
    ordered = sorted(found, key=lambda item: (item.device is not None, -item.effect))
    drawing = plots.figure(6.4, 0.9 + 0.28 * len(ordered))
    made = plots.axes(drawing, xlabel="population stability index beyond chance", ylabel="")
    names = [f"{item.quantity} · {item.device or 'fleet'}" for item in ordered]
    colours = [plots.ACCENT if item.device is None else plots.MUTED for item in ordered]
    made.barh(names, [item.effect for item in ordered], color=colours)
    made.invert_yaxis()
    return plots.data_uri(drawing)
