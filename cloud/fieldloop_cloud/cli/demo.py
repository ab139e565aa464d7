"""`fieldloop demo`: the whole loop on real data, with real device processes."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fieldloop_cloud.cli.output import emit, json_option, plain, progress_bar, seed_option, table
from fieldloop_cloud.loop import LoopResult, LoopSettings, run_loop
from fieldloop_cloud.train.run import Run

CAVEAT = (
    "Confidences overrate a model on inputs unlike its training data: that is why drift asks for "
    "labels."
)


@click.command("demo")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Directory for the runs, the fleet, the devices and the report.",
)
@seed_option("Of everything that is drawn.")
@json_option
def demo_command(*, out: Path, seed: int, as_json: bool) -> None:
    """Play the whole loop: train, flash, observe, drift, label, retrain, roll out."""
    from fieldloop_cloud.report.loop import write_loop_report  # noqa: PLC0415 - plots load slowly

    with progress_bar("demo", told=frozenset({"field"})) as progress:
        result = run_loop(out, settings=LoopSettings(seed=seed), progress=progress)
    report = out / "report.html"
    write_loop_report(result, report)
    emit(
        {**_summary(result), "report": report},
        as_json=as_json,
        text=lambda console: _show(result, report, console),
    )


def _summary(result: LoopResult) -> dict[str, Any]:
    record = result.record
    return {
        "broker": record.broker,
        "events": plain(record.events),
        "phases": plain(record.phases),
        "false_alarm_count": len(result.false_alarms),
        "drift": plain(result.drift),
        "gate": plain(result.second.gate),
        "releases": plain(result.releases),
        "rollout": result.rollout.stage,
        "counts": plain(record.counts),
        "outbox_left": record.outbox_left,
        "lost": record.lost,
        "running": record.running,
        "variants": [*_variants(result.first, 1), *_variants(result.second.challenger, 2)],
        "elapsed_s": result.elapsed_s,
    }


def _variants(run: Run, release: int) -> list[dict[str, Any]]:
    return [
        {
            "release": release,
            "variant": item.name,
            "size_bytes": item.size_bytes,
            "latency_p50_ms": item.latency_p50_ms,
            "latency_p90_ms": item.latency_p90_ms,
        }
        for item in run.chosen_variants
    ]


def _show(result: LoopResult, report: Path, console: Console) -> None:
    """Print the closing tables."""
    from fieldloop_cloud.report.loop import device_rows  # noqa: PLC0415 - plots load slowly

    record = result.record
    phases = [
        (
            phase.name,
            f"{phase.accuracy.value:.1%} [{phase.accuracy.low:.1%}, {phase.accuracy.high:.1%}]",
            None if phase.estimated is None else f"{phase.estimated.accuracy:.1%}",
        )
        for phase in record.phases
    ]
    console.print(table("accuracy", ("stretch", "measured (95 %)", "from confidences"), phases))
    console.print(CAVEAT, markup=False)
    summary = _summary(result)
    variants = [tuple(item.values()) for item in summary["variants"]]
    columns = ("release", "variant", "bytes", "p50 ms", "p90 ms")
    console.print(table("variants", columns, variants))
    counts = [
        (row.device, row.sent, row.windows, row.stored, row.duplicates, row.lost, row.runs)
        for row in device_rows(result)
    ]
    columns_ = ("device", "sent", "windows", "stored", "duplicates", "lost", "runs")
    console.print(table(f"messages over {record.broker}", columns_, counts))
    for sentence in (
        result.second.gate.sentence,
        f"rollout {result.rollout.stage}, {record.lost} messages lost",
        f"{result.elapsed_s:.0f} s in all",
        f"report: {report}",
    ):
        console.print(sentence, markup=False)
