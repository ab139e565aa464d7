"""Plots as inline SVG, drawn without a display.

Each function draws one figure from plain numbers and returns it as a data URI, so that a page
stays one file.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

INK = "#1f2933"
MUTED = "#7b8794"
ACCENT = "#0b7285"
WARN = "#c92a2a"
PALETTE = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#a61e4d", "#364fc7")
MARKERS = ("o", "s", "^", "D", "v", "P")

_LEGEND_COLUMNS = 5


def figure(width: float = 6.4, height: float = 3.6) -> Any:
    """Return an empty matplotlib figure of this size in inches; no global state is touched."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only when a report is drawn

    return Figure(figsize=(width, height), layout="constrained")


def axes(drawing: Any, *, xlabel: str, ylabel: str) -> Any:
    """Return axes in the house style."""
    made = drawing.subplots()
    made.set_xlabel(xlabel, color=INK)
    made.set_ylabel(ylabel, color=INK)
    made.tick_params(colors=MUTED, labelsize=8)
    made.grid(visible=True, color="#e4e7eb", linewidth=0.6)
    made.set_axisbelow(True)
    for side in ("top", "right"):
        made.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        made.spines[side].set_color("#cbd2d9")
    return made


def data_uri(drawing: Any) -> str:
    """Render a matplotlib figure as `data:image/svg+xml;base64,…`."""
    from matplotlib import rc_context  # noqa: PLC0415 - only when a report is drawn

    buffer = io.BytesIO()
    # Text stays text; a fixed salt and no date make the same figure the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fieldloop"}):
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One variant in a plot of scores over a cost.

    Attributes:
        series: What it belongs to: one colour.
        name: The variant.
        cost: Above 0.
        score: With its interval's ends `low` and `high`.
        counts: Whether it may be chosen; the others are drawn faint.
    """

    series: str
    name: str
    cost: float
    score: float
    low: float
    high: float
    counts: bool


def front(points: Sequence[Point], *, chosen: str, xlabel: str, ylabel: str) -> str:
    """Draw scores with intervals over a cost on a logarithmic axis, and the front through them.

    The front joins what nothing else beats in both cost and score.

    Args:
        points: What was measured.
        chosen: Name of the variant to ring.
        xlabel: The cost's name and unit.
        ylabel: The score's name.
    """
    drawing = figure(7.2, 5.0)
    made = axes(drawing, xlabel=xlabel, ylabel=ylabel)
    _logarithmic(made)
    names = list(dict.fromkeys(point.series for point in points))
    for number, name in enumerate(names):
        mine = [point for point in points if point.series == name]
        colour = PALETTE[number % len(PALETTE)]
        marker = MARKERS[(number // len(PALETTE) + number) % len(MARKERS)]
        for counts, alpha in ((True, 1.0), (False, 0.25)):
            some = [point for point in mine if point.counts == counts]
            made.errorbar(
                [point.cost for point in some],
                [point.score for point in some],
                yerr=[
                    [point.score - point.low for point in some],
                    [point.high - point.score for point in some],
                ],
                fmt=marker,
                color=colour,
                markersize=5,
                elinewidth=0.5,
                capsize=0,
                alpha=alpha,
                label=name if counts or all(not point.counts for point in mine) else None,
            )
    best = _unbeaten([point for point in points if point.counts])
    made.plot(
        [point.cost for point in best],
        [point.score for point in best],
        color=MUTED,
        linewidth=1.0,
        linestyle="--",
        drawstyle="steps-post",
        label="front",
        zorder=1,
    )
    ringed = [point for point in points if point.name == chosen]
    made.scatter(
        [point.cost for point in ringed],
        [point.score for point in ringed],
        s=140,
        facecolors="none",
        edgecolors=WARN,
        linewidths=1.4,
        label="chosen",
        zorder=3,
    )
    legend(made, min(len(names) + 2, _LEGEND_COLUMNS))
    return data_uri(drawing)


def _unbeaten(points: Sequence[Point]) -> list[Point]:
    """Return the points that nothing beats in both cost and score, by cost."""
    best: list[Point] = []
    for point in sorted(points, key=lambda item: (item.cost, -item.score)):
        if not best or point.score > best[-1].score:
            best.append(point)
    return best


def reliability(points: Sequence[tuple[float, float, float, float]]) -> str:
    """Draw accuracy over confidence.

    Args:
        points: (mean confidence, accuracy, low, high) of answers of similar confidence.
    """
    drawing = figure(4.6, 4.2)
    made = axes(drawing, xlabel="confidence", ylabel="share that is right")
    start = min(0.5, *(min(point[0], point[2]) for point in points))
    made.plot([start, 1], [start, 1], color=MUTED, linewidth=0.9, linestyle="--", label="honest")
    made.errorbar(
        [point[0] for point in points],
        [point[1] for point in points],
        yerr=[
            [point[1] - point[2] for point in points],
            [point[3] - point[1] for point in points],
        ],
        fmt="o-",
        color=ACCENT,
        markersize=4,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2,
        label="measured",
    )
    made.set_ylim(max(0.0, start - 0.05), 1.03)
    legend(made, 2)
    return data_uri(drawing)


def epochs(losses: Sequence[float], held_out: Sequence[float]) -> str:
    """Draw a net's losses, epoch by epoch.

    Args:
        losses: On the rows that were learned.
        held_out: On the rows that early stopping watches.
    """
    drawing = figure(6.4, 3.2)
    made = axes(drawing, xlabel="epoch", ylabel="loss")
    numbers = range(1, len(losses) + 1)
    made.plot(numbers, losses, color=MUTED, linewidth=1.2, label="learned rows")
    made.plot(numbers, held_out, color=ACCENT, linewidth=1.4, label="held-out rows")
    best = min(numbers, key=lambda number: held_out[number - 1])
    made.plot([best], [held_out[best - 1]], "o", color=WARN, markersize=5, label="kept")
    made.xaxis.get_major_locator().set_params(integer=True)
    legend(made, 3)
    return data_uri(drawing)


def _logarithmic(made: Any) -> None:
    """Give the x axis a logarithmic scale with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415 - as above

    made.set_xscale("log")
    made.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    made.xaxis.set_major_formatter("{x:g}")
    made.xaxis.set_minor_formatter(NullFormatter())


def count_axis(made: Any, counts: Sequence[float]) -> None:
    """Give a logarithmic x axis of counts plain numbers at the ends and doublings between them."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator  # noqa: PLC0415

    low, high = min(counts), max(counts)
    ticks = [low]
    while ticks[-1] * 2 <= high:
        ticks.append(ticks[-1] * 2)
    made.set_xscale("log")
    made.xaxis.set_major_locator(FixedLocator(ticks))
    made.xaxis.set_major_formatter("{x:g}")
    made.xaxis.set_minor_locator(NullLocator())
    made.xaxis.set_minor_formatter(NullFormatter())


def legend(made: Any, columns: int) -> None:
    """Put the legend above the axes, where it hides nothing."""
    made.legend(
        fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns
    )


def confusion_matrix(table: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Draw a confusion matrix; rows are true classes, columns predictions."""
    size = min(9.0, 2.2 + 0.42 * len(labels))
    drawing = figure(size, size)
    made = axes(drawing, xlabel="predicted", ylabel="true")
    made.grid(visible=False)
    shares = [[cell / max(1, sum(row)) for cell in row] for row in table]
    made.imshow(shares, cmap="GnBu", vmin=0, vmax=1)
    ticks = range(len(labels))
    made.set_xticks(ticks, labels, rotation=45 if len(labels) > 10 else 0)  # noqa: PLR2004 - fits
    made.set_yticks(ticks, labels)
    if len(labels) <= 20:  # noqa: PLR2004 - numbers would overlap
        for row, cells in enumerate(table):
            for column, count in enumerate(cells):
                if count:
                    colour = "white" if shares[row][column] > 0.6 else INK  # noqa: PLR2004
                    made.text(
                        column, row, str(count), ha="center", va="center", fontsize=8, color=colour
                    )
    return data_uri(drawing)


def lines(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Draw lines over a common axis.

    Args:
        series: (name, x values, y values).
        xlabel: Of the x axis.
        ylabel: Of the y axis.
        marks: (x, text) of vertical lines, for example when something happened.
    """
    drawing = figure(7.6, 3.4)
    made = axes(drawing, xlabel=xlabel, ylabel=ylabel)
    for number, (name, x, y) in enumerate(series):
        made.plot(x, y, color=PALETTE[number % len(PALETTE)], linewidth=1.6, label=name)
    for where, text in marks:
        made.axvline(where, color=MUTED, linewidth=0.8, linestyle="--")
        made.annotate(
            text,
            (where, 1.0),
            xycoords=("data", "axes fraction"),
            fontsize=7,
            rotation=90,
            va="top",
            ha="right",
            color=MUTED,
        )
    if series:
        legend(made, len(series))
    return data_uri(drawing)
