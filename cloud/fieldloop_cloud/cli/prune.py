"""`fieldloop prune`."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fieldloop_cloud.cli.output import (
    DURATION,
    emit,
    json_option,
    progress_bar,
    seed_option,
    table,
    vacant,
)
from fieldloop_cloud.cli.train import epsilon_option


@click.command("prune")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--target", help="The target column of a table.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="The .keras to write."
)
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    help="Of all channels, by default 0.5; with --magnitude of all weights, by default 0.8.",
)
@click.option(
    "--magnitude",
    is_flag=True,
    help="Set single weights to zero instead: a smaller download, the same file size and latency.",
)
@click.option(
    "--importance",
    type=click.Choice(["l2", "l1", "bn", "taylor"]),
    default="l2",
    show_default=True,
    help="Which channels matter: by their filter's norm, BatchNormalization's scale, or gradients.",
)
@click.option(
    "--scope",
    type=click.Choice(["global", "layer", "sensitivity"]),
    default="global",
    show_default=True,
    help="Take channels anywhere, the same share of each layer, or where a sweep says.",
)
@click.option("--steps", type=click.IntRange(1, 100), default=3, show_default=True, help="Rounds.")
@click.option(
    "--epochs",
    type=click.IntRange(0, 10_000),
    default=10,
    show_default=True,
    help="Most epochs of a round.",
)
@click.option("--budget", type=DURATION, default="10m", show_default=True, help="Training time.")
@epsilon_option
@seed_option("Of split and training.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@json_option
def prune_command(
    *,
    model: Path,
    data: str,
    target: str | None,
    out: Path,
    share: float | None,
    magnitude: bool,
    importance: Any,
    scope: Any,
    steps: int,
    epochs: int,
    budget: float,
    epsilon: float,
    seed: int,
    force: bool,
    as_json: bool,
) -> None:
    """Take channels out of a net and train it on, so that it gets smaller and faster.

    MODEL is a .keras file, DATA what `train` takes; classes are numbered in the order of the data
    set's labels. A fifth of the rows is held out, and the net comes out as small as it may be
    without losing more than --epsilon of its score there.
    """
    from fieldloop_cloud.data.dataset import Dataset  # noqa: PLC0415 - slow to load
    from fieldloop_cloud.train.prune.prune import prune, prune_magnitude  # noqa: PLC0415 - the same

    vacant(out, force=force)
    rows = Dataset.load(data, target)
    settings: dict[str, Any] = {
        "epsilon": epsilon,
        "steps": steps,
        "epochs": epochs,
        "seed": seed,
        "budget_s": budget,
    }
    with progress_bar("prune", told=frozenset({"prune"})) as progress:
        if magnitude:
            pruned = prune_magnitude(
                model, rows.X, rows.y, share=share or 0.8, progress=progress, **settings
            )
        else:
            pruned = prune(
                model,
                rows.X,
                rows.y,
                share=share or 0.5,
                importance=importance,
                scope=scope,
                progress=progress,
                **settings,
            )
    result = {
        "keras": pruned.save(out),
        "share": pruned.share,
        "before": pruned.before,
        "after": pruned.after,
        "channels": pruned.channels,
        "sensitivity": pruned.sensitivity,
        "gate": pruned.gate,
        "steps": pruned.steps,
    }

    def text(console: Console) -> None:
        costs = [
            (name.replace("_", " "), getattr(pruned.before, name), getattr(pruned.after, name))
            for name in type(pruned.before).__slots__
        ]
        console.print(table("as a float32 flatbuffer", ("cost", "before", "after"), costs))
        console.print(f"{out}: {pruned.share:.0%} gone. {pruned.gate.reason}", markup=False)
        if magnitude:
            console.print("Only the deflated download is smaller; file and latency stay the same.")

    emit(result, as_json=as_json, text=text)
