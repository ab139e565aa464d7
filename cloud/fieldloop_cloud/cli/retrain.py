"""`fieldloop retrain`: a challenger from old and field data, gated against the champion."""

from pathlib import Path

import click
from rich.console import Console

from fieldloop_cloud.cli.output import (
    DURATION,
    emit,
    home_option,
    json_option,
    progress_bar,
    seed_option,
)
from fieldloop_cloud.cli.train import (
    check_new_run,
    data_options,
    epsilon_option,
    load_data,
    run_summary,
    show_run,
)
from fieldloop_cloud.cli.weights import backbone_of, weights_options
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.home import Home


@click.command("retrain")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("data")
@data_options
@click.option("--budget", type=DURATION, default="10m", show_default=True, help="Training time.")
@seed_option("Of split and training.")
@click.option(
    "--candidate", "candidates", multiple=True, help="Family to try; by default the champion's."
)
@weights_options
@epsilon_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="Directory for the new run."
)
@home_option
@json_option
def retrain_command(
    *,
    run: Path,
    data: str,
    budget: float,
    seed: int,
    candidates: tuple[str, ...],
    weights: str | None,
    member: str | None,
    alpha: float | None,
    cut: str,
    epsilon: float,
    out: Path,
    home: Home,
    as_json: bool,
    **source: object,
) -> None:
    """Train on DATA and the labelled field samples; compare with the champion's RUN.

    DATA is what the champion was trained from. The challenger must be better on field samples that
    neither was trained on; else the command fails with code 1 and says by how much it fell short.
    The new run is kept either way.
    """
    from fieldloop_cloud.fleet.retrain import retrain  # noqa: PLC0415 - slow to load
    from fieldloop_cloud.train.run import Run  # noqa: PLC0415 - the same

    check_new_run(out)
    backbone = backbone_of(weights, member, alpha, cut)
    champion = Run.load(run)
    with Store(home.opened().store_file) as store:
        samples = store.samples(labelled=True)
    dataset = load_data(data, **source)
    with progress_bar("retrain") as progress:
        done = retrain(
            champion,
            dataset,
            samples,
            budget_s=budget,
            seed=seed,
            out=out,
            candidates=candidates or None,
            weights=backbone,
            epsilon=epsilon,
            progress=progress,
        )
    challenger = done.require()
    result = {
        **run_summary(challenger),
        "gate": done.gate,
        "field_row_count": done.field_row_count,
        "note": done.note,
    }

    def text(console: Console) -> None:
        show_run(challenger, console)
        console.print(f"{done.field_row_count} field rows were learnt from; {done.note}")
        console.print(done.gate.sentence, markup=False)

    emit(result, as_json=as_json, text=text)
