"""How the ladder's results look in a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fieldloop_cloud.cli.output import table
from fieldloop_cloud.compile.compiled import Compiled

if TYPE_CHECKING:  # slow to load, and needed for its name only
    from fieldloop_cloud.compile.explain import Explanation


def show_rungs(compiled: Compiled, console: Console) -> None:
    """Print what each precision reached, and the reasons; nothing if none was looked for."""
    rungs = compiled.evidence.rungs
    if not rungs:
        return
    rows = [
        (
            ("→ " if rung.precision == compiled.precision else "") + rung.precision,
            rung.size_bytes,
            rung.arena_bytes,
            None if rung.latency_p50_ms is None else round(rung.latency_p50_ms * 1000, 1),
            rung.gate.agreement if rung.gate else None,
            min(rung.gate.recall) if rung.gate and rung.gate.recall else None,
            rung.gate.verdict if rung.gate else "not possible",
        )
        for rung in rungs
    ]
    columns = ("precision", "bytes", "arena", "µs a row", "same labels", "worst recall", "verdict")
    console.print(table("precisions", columns, rows))
    for rung in rungs:
        by = f" by {rung.quantizer}" if rung.quantizer else ""
        console.print(f"{rung.precision}{by}: {rung.reason}", markup=False)
        if rung.kept_float:
            console.print(f"  in float: {', '.join(rung.kept_float)}", markup=False)
    for warning in dict.fromkeys(text for rung in rungs for text in rung.warnings):
        console.print(f"warning: {warning}", markup=False)


def show_explanation(explanation: "Explanation", console: Console) -> None:
    """Print the lint and the sensitivity table."""
    rows = [
        (
            one.layer,
            None if one.snr_db is None else round(one.snr_db, 1),
            one.drop_alone,
            one.drop_spared,
        )
        for one in explanation.layers
    ]
    columns = ("layer", "SNR dB, only it int8", "loss, only it int8", "loss, only it float")
    console.print(table("what int8 does to each layer", columns, rows))
    for finding in explanation.findings:
        console.print(f"lint: {finding}", markup=False)
    for warning in explanation.warnings:
        console.print(f"warning: {warning}", markup=False)


def show_lite(path: Path, changes: Sequence[str], console: Console) -> None:
    """Print what the Lite variant changes."""
    for change in changes:
        console.print(f"Lite: {change}", markup=False)
    console.print(f"{path}: the Lite variant; train it further before you compile it", markup=False)
