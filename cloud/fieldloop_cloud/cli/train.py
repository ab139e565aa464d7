"""`fieldloop train`: from data to a run."""

from pathlib import Path

import click
from rich.console import Console

from fieldloop.errors import ConfigError
from fieldloop_cloud.cli.output import (
    DURATION,
    Command,
    emit,
    json_option,
    plain,
    progress_bar,
    seed_option,
    table,
)
from fieldloop_cloud.cli.search_options import search_options
from fieldloop_cloud.cli.weights import backbone_of, weights_options
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.split import Strategy
from fieldloop_cloud.train.run import Run


def data_options(command: Command) -> Command:
    """Add the options that say how a data set is read."""
    options = [
        click.option("--target", help="The target column of a table."),
        click.option(
            "--task",
            type=click.Choice(["classification", "regression"]),
            help="What is predicted, where the target leaves it open.",
        ),
        click.option(
            "--group",
            help="The column (of an .npz the array) that says what a row belongs to, for example "
            "a machine; no group stands in two parts.",
        ),
        click.option(
            "--time",
            help="The column or array that says when a row came; what is judged comes after what "
            "is learnt from.",
        ),
        click.option("--drop", multiple=True, help="A column to leave out; may be repeated."),
        click.option(
            "--categorical", multiple=True, help="A numeric column whose numbers are categories."
        ),
        click.option(
            "--image-size", type=(int, int), help="Height and width that images are resized to."
        ),
        click.option(
            "--window",
            type=click.IntRange(2),
            help="Cut a table of sensor readings, one a row, into windows of so many.",
        ),
        click.option(
            "--stride",
            type=click.IntRange(1),
            help="Readings from one window to the next; by default the window.",
        ),
        click.option(
            "--kind",
            type=click.Choice(["tabular", "image", "series"]),
            help="What the arrays of an .npz are, where their dimensions leave it open.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def epsilon_option(command: Command) -> Command:
    """Add `--epsilon`: what a smaller precision may cost."""
    return click.option(
        "--epsilon",
        type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
        default=0.01,
        show_default=True,
        help="Largest loss of score that a smaller precision may cost: 0.01 is one point of "
        "accuracy. The smaller, the more rows are needed to prove it.",
    )(command)


@click.command("train")
@click.argument("data")
@data_options
@click.option(
    "--device",
    default="x86",
    show_default=True,
    help="Target: a name, a .toml file, or a measurement's .json.",
)
@click.option("--budget", type=DURATION, default="10m", show_default=True, help="Training time.")
@seed_option("Of split and training.")
@click.option(
    "--candidate", "candidates", multiple=True, help="Only this model family; may be repeated."
)
@weights_options
@epsilon_option
@search_options
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory for the run, for example runs/pump.",
)
@json_option
def train_command(
    *,
    data: str,
    device: str,
    budget: float,
    seed: int,
    candidates: tuple[str, ...],
    weights: str | None,
    member: str | None,
    alpha: float | None,
    cut: str,
    epsilon: float,
    strategy: Strategy,
    trials: int | None,
    search_s: float | None,
    max_trial_s: float | None,
    floor: float | None,
    workers: int,
    study: str | None,
    heartbeat_s: int,
    allow_leakage: str,
    resume: bool,
    out: Path,
    as_json: bool,
    **source: object,
) -> None:
    """Train, compile and measure candidates on DATA and choose one for a device.

    Of every suitable model family a setting or two are tried first; --trials or --search go on
    from there. Ctrl-C ends it and keeps the best so far, once a model that may be chosen has been
    measured; a search that was killed goes on with --resume.

    DATA is a .csv, .parquet or .npz file, a folder with one sub-folder of images per class, or
    sklearn:NAME (digits, iris, wine, breast_cancer, diabetes).
    """
    from fieldloop_cloud.train.trainer import train  # noqa: PLC0415 - scikit-learn is slow to load

    if not resume:
        check_new_run(out)
    backbone = backbone_of(weights, member, alpha, cut)
    dataset = load_data(data, **source)
    with progress_bar("train") as progress:
        run = train(
            dataset,
            device=device,
            budget_s=budget,
            seed=seed,
            out=out,
            candidates=candidates or None,
            weights=backbone,
            epsilon=epsilon,
            strategy=strategy,
            trials=trials,
            search_s=search_s,
            max_trial_s=max_trial_s,
            floor=floor,
            workers=workers,
            study=study,
            heartbeat_s=heartbeat_s,
            allow_leakage=allow_leakage,
            resume=resume,
            progress=progress,
        )
    emit(run_summary(run), as_json=as_json, text=lambda console: show_run(run, console))


def load_data(source: str, **options: object) -> Dataset:
    """Load a data set with the options of `data_options`."""
    return Dataset.load(source, **options)  # type: ignore[arg-type] # click has checked the types


def check_new_run(out: Path) -> None:
    """Refuse to write a run over another one, before anything is trained.

    Raises:
        ConfigError: There is something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        searched = (out / "study").is_dir()
        raise ConfigError(
            "there is something at the output already",
            where=str(out),
            advice="Go on with the search there by --resume, or name a new directory with --out."
            if searched
            else "Name a new directory with --out, or remove this one.",
        )


def run_summary(run: Run) -> dict[str, object]:
    """Return a run as plain data, without flatbuffers."""
    return {
        "run": plain(run.path),
        "report": plain(run.report),
        "chosen": run.chosen.name,
        "why": run.why,
        "metric": run.metric,
        "device": run.device,
        "test": {precision: plain(list(found)) for precision, found in run.test.items()},
        "front": [
            {
                "name": item.name,
                "score": item.score,
                "score_low": item.score_low,
                "score_high": item.score_high,
                "size_bytes": item.size_bytes,
                "latency_p50_ms": item.latency_p50_ms,
                "latency_p90_ms": item.latency_p90_ms,
                "train_s": item.train_s,
                "gate": plain(item.gate),
                "over_budget": item.over_budget,
            }
            for item in run.front
        ],
        "skipped": [plain(item) for item in run.skipped],
        "search": plain(run.search),
        "notes": list(run.notes),
        "elapsed_s": run.elapsed_s,
    }


def _three_digits(value: float) -> float:
    """Round to three significant digits: what a clock's noise leaves."""
    return float(f"{value:.3g}")


def show_run(run: Run, console: Console) -> None:
    """Print the front, the choice and the test score."""
    rows = [
        (
            ("→ " if item.name == run.chosen.name else "") + item.name,
            f"{item.score:.3f} [{item.score_low:.3f}, {item.score_high:.3f}]",
            item.size_bytes,
            _three_digits(item.latency_p50_ms),
            _three_digits(item.latency_p90_ms),
            _three_digits(item.train_s),
            item.over_budget or item.gate.verdict,
        )
        for item in run.front
    ]
    columns = ("variant", f"{run.metric} (95 %)", "bytes", "p50 ms", "p90 ms", "train s", "gate")
    console.print(table(f"{run.data} on {run.device}", columns, rows))
    for item in run.skipped:
        console.print(f"left out {item.name}: {item.reason}", markup=False)
    for text in run.notes:
        console.print(f"note: {text}", markup=False)
    if run.search is not None:
        console.print(f"search: {run.search.sentence}", markup=False)
    console.print(f"chosen {run.chosen.name}: {run.why}", markup=False)
    for found in run.test.get(run.chosen.precision, ()):
        console.print(
            f"sealed test: {found.metric} {found.value:.4f} "
            f"[{found.low:.4f}, {found.high:.4f}] on {found.row_count} rows",
            markup=False,
        )
    console.print(f"run: {run.path}\nreport: {run.report}", markup=False)
