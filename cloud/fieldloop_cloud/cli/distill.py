"""`fieldloop distill`."""

import importlib
import io
from pathlib import Path

import click
from rich.console import Console

from fieldloop.errors import ConfigError
from fieldloop_cloud.cli.compile import load_fitted
from fieldloop_cloud.cli.output import (
    DURATION,
    emit,
    json_option,
    progress_bar,
    seed_option,
    vacant,
)
from fieldloop_cloud.cli.rows import load_rows
from fieldloop_cloud.files import write_file


@click.command("distill")
@click.argument("teacher", type=click.Path(path_type=Path))
@click.argument("student", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--target", help="The target column of a table.")
@click.option(
    "--unlabeled",
    type=click.Path(path_type=Path),
    help="More rows without labels: .csv, .parquet, or .npz with an array X.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="What to write: .keras for a net, .joblib for an estimator.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0.0, 1.0),
    default=0.7,
    show_default=True,
    help="Weight of the teacher; the labels have the rest.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0.0, min_open=True),
    help="Above 1 small probabilities count for more; by default 3 for a net, else 1.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1, 10_000),
    default=60,
    show_default=True,
    help="Most epochs of a net.",
)
@click.option("--budget", type=DURATION, default="10m", show_default=True, help="Training time.")
@seed_option("Of split and training.")
@click.option("--trust", is_flag=True, help="Load pickled models; they may run any code.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@json_option
def distill_command(
    *,
    teacher: Path,
    student: Path,
    data: str,
    target: str | None,
    unlabeled: Path | None,
    out: Path,
    alpha: float,
    temperature: float | None,
    epochs: int,
    budget: float,
    seed: int,
    trust: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Let a small STUDENT learn what a large TEACHER answers, and the labels of DATA.

    Both are .keras files, or estimators saved with joblib or pickle (then --trust says that you
    know where they come from). The student of an estimator's kind need not be fitted.
    """
    from fieldloop_cloud.data.dataset import Dataset  # noqa: PLC0415 - slow to load
    from fieldloop_cloud.train.distill.distill import distill  # noqa: PLC0415 - the same

    wanted = ".keras" if student.suffix == ".keras" else ".joblib"
    if out.suffix != wanted:
        raise ConfigError(
            f"this student is written as {wanted}", where=str(out), advice="Name the output so."
        )
    vacant(out, force=force)
    knows, learns = (load_fitted(path, trust=trust) for path in (teacher, student))
    rows = Dataset.load(data, target)
    labels = [rows.labels[number] for number in rows.y] if rows.labels else rows.y
    named = getattr(knows, "classes_", None) is not None
    with progress_bar("distill") as progress:
        distilled = distill(
            knows,
            learns,
            rows.X,
            labels if named else rows.y,
            unlabeled=None if unlabeled is None else load_rows(unlabeled),
            alpha=alpha,
            temperature=temperature,
            epochs=epochs,
            seed=seed,
            budget_s=budget,
            progress=progress,
        )
    if distilled.keras_bytes is not None:
        distilled.save(out)
    else:
        buffer = io.BytesIO()
        importlib.import_module("joblib").dump(distilled.estimator, buffer)
        write_file(out, buffer.getvalue())
    result = {"student": out, "agreement": distilled.agreement, "epochs": distilled.epochs}

    def text(console: Console) -> None:
        console.print(
            f"{out}: agrees with its teacher to {distilled.agreement:.1%} on the rows given",
            markup=False,
        )

    emit(result, as_json=as_json, text=text)
