"""`fieldloop advise`: what the data say before anything is trained."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from fieldloop_cloud.cli.output import (
    DURATION,
    emit,
    json_option,
    plain,
    progress_bar,
    seed_option,
    table,
    vacant,
)
from fieldloop_cloud.cli.train import data_options, load_data

if TYPE_CHECKING:
    from fieldloop_cloud.select.advice import Advice

_BARS = "▁▂▃▄▅▆▇█"


@click.command("advise")
@click.argument("data")
@data_options
@click.option(
    "--budget", type=DURATION, default="10m", show_default=True, help="Time training may take."
)
@click.option(
    "--points",
    type=click.FloatRange(0.1, 40.0),
    default=5.0,
    show_default=True,
    help="Wanted half width of the final score's 95 % interval, in points.",
)
@seed_option("Of split and probes; train with the same.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Write a page with the plots, advice.html."
)
@click.option("--force", is_flag=True, help="Overwrite --out.")
@json_option
def advise_command(
    *,
    data: str,
    budget: float,
    points: float,
    seed: int,
    out: Path | None,
    force: bool,
    as_json: bool,
    **source: object,
) -> None:
    """Say what DATA ask for: kind of model, split, metric, test size, and what more labels buy.

    Takes seconds to a minute; nothing is trained for good, and the test rows stay unseen.
    """
    from fieldloop_cloud.report.advice import write_advice_report  # noqa: PLC0415 - slow to load
    from fieldloop_cloud.select.advice import advise  # noqa: PLC0415

    if out is not None:
        vacant(out, force=force)
    dataset = load_data(data, **source)
    with progress_bar("advise") as progress:
        advice = advise(
            dataset, budget_s=budget, width=2 * points / 100, seed=seed, progress=progress
        )
    if out is not None:
        write_advice_report(advice, out)
    following = next_command(advice, data, source)
    emit(
        advice_summary(advice, following, out),
        as_json=as_json,
        text=lambda console: show_advice(advice, following, out, console),
    )


def advice_summary(advice: "Advice", following: str, out: Path | None) -> dict[str, object]:
    """Return the advice as plain data."""
    from fieldloop_cloud.report.advice import (  # noqa: PLC0415 - as above
        headline,
        purchases,
        split_sentences,
    )

    told: dict[str, object] = plain(advice)
    return {
        "headline": headline(advice),
        **told,
        "split_sentences": list(split_sentences(advice)),
        "purchases": list(purchases(advice.curve)),
        "next": following,
        "report": plain(out),
    }


def show_advice(advice: "Advice", following: str, out: Path | None, console: Console) -> None:
    """Print the advice."""
    from fieldloop_cloud.report.advice import (  # noqa: PLC0415 - as above
        NOTHING_TO_FORECAST,
        headline,
        purchases,
        split_sentences,
    )
    from fieldloop_cloud.select.probes import WORDS  # noqa: PLC0415

    console.print(headline(advice), style="bold", markup=False)
    _section(console, "model", (*advice.route.reasons, advice.noise.sentence))
    rows = [
        (WORDS[item.name], _bar(item.score), item.score, 1.96 * item.standard_error, item.fit_s)
        for item in advice.probes
    ]
    columns = ("probe", "", advice.aim.metric, "± 95 %", "fit s")
    console.print(table("what cheap models reach", columns, rows))
    _section(console, "machine", (advice.machine.sentence,))
    _section(console, "split", split_sentences(advice))
    sizes = ", ".join(f"±{50 * item.width:g}: {item.row_count:,}" for item in advice.test_sizes)
    _section(console, "test", (f"Rows for an interval of so many points: {sizes}.",))
    aim = f"Choose by {advice.aim.metric}, train for {advice.aim.objective}."
    _section(console, "aim", (aim, *advice.aim.reasons))
    curve = advice.curve
    if curve is not None:
        first, last = curve.points[0], curve.points[-1]
        ends = f"{first.score:.3f} with {first.row_count} rows to {last.score:.3f}"
        shape = _spark([point.score for point in curve.points])
        _section(console, "curve", (f"{shape}  {ends} with {last.row_count}.",))
    labels = purchases(curve) or ((curve.refusal if curve else NOTHING_TO_FORECAST),)
    _section(console, "labels", labels)
    _section(console, "first", advice.warnings)
    console.print(f"next: {following}", markup=False)
    if out is not None:
        console.print(f"page: {out}", markup=False)


def _section(console: Console, name: str, sentences: tuple[str, ...]) -> None:
    for number, sentence in enumerate(sentences):
        console.print(f"{name if number == 0 else '':8}{sentence}", markup=False)


def next_command(advice: "Advice", data: str, source: Mapping[str, object]) -> str:
    """Return the command that trains as advised, with the options that the data were read with."""
    from fieldloop_cloud.select.route import WEIGHTS  # noqa: PLC0415 - slow to load

    words = ["fieldloop", "train", data]
    for name, value in source.items():
        option = f"--{name.replace('_', '-')}"
        if name in ("drop", "categorical") and isinstance(value, tuple):
            words += [word for item in value for word in (option, str(item))]
        elif isinstance(value, tuple):
            words += [option, *(str(item) for item in value)]
        elif value is not None:
            words += [option, str(value)]
    if advice.route.name == "transfer":
        words += WEIGHTS.split()
    words += ["--split", "auto", "--budget", f"{advice.budget_s:.0f}s", "-o", "runs/NAME"]
    return shlex.join(words)


def _bar(score: float, width: int = 20) -> str:
    return "█" * round(width * min(1.0, max(0.0, score)))


def _spark(scores: list[float]) -> str:
    low, high = min(scores), max(scores)
    span = (high - low) or 1.0
    return "".join(_BARS[round((score - low) / span * (len(_BARS) - 1))] for score in scores)
