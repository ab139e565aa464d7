"""`fieldloop worker`: help with a search that was begun elsewhere."""

from pathlib import Path

import click
from rich.console import Console

from fieldloop_cloud.cli.output import emit, json_option, progress_bar
from fieldloop_cloud.cli.search_options import STUDY_VARIABLE


@click.command("worker")
@click.option(
    "--study",
    required=True,
    envvar=STUDY_VARIABLE,
    show_envvar=True,
    help="postgresql://USER@HOST/DATABASE, or the `study` directory of a run on a shared disk.",
)
@click.option("--name", help="The study's name: the run's directory. Not needed for a single one.")
@click.option(
    "--files",
    type=click.Path(path_type=Path, file_okay=False),
    help="The run's `study` directory as this machine sees it, where it has another path here.",
)
@click.option("--trials", type=click.IntRange(min=1), help="Leave after so many trials.")
@click.option(
    "--ray",
    "ray_workers",
    type=click.IntRange(min=1),
    help="Run so many workers on the Ray cluster that this machine belongs to.",
)
@json_option
def worker_command(
    *,
    study: str,
    name: str | None,
    files: Path | None,
    trials: int | None,
    ray_workers: int | None,
    as_json: bool,
) -> None:
    """Work on a search until it is done.

    Begin it with `fieldloop train … --study URL`; start as many workers as you like, wherever the
    database and the run's directory can be reached. Rows and results are checked against the
    hashes that the study names.
    """
    from fieldloop_cloud.select.search.loop import Worked  # noqa: PLC0415 - optuna loads slowly
    from fieldloop_cloud.select.search.on_ray import run_on_ray  # noqa: PLC0415 - as above
    from fieldloop_cloud.select.search.worker import run_worker  # noqa: PLC0415 - as above

    if ray_workers is not None:
        worked = Worked(run_on_ray(study, workers=ray_workers, name=name, files=files))
    else:
        with progress_bar("worker") as progress:
            worked = run_worker(study, name=name, files=files, most=trials, progress=progress)
    summary = {"trials": worked.trial_count, "interrupted": worked.interrupted}

    def say(console: Console) -> None:
        ended = "interrupted after" if worked.interrupted else "the study is done; this worker ran"
        console.print(f"{ended} {worked.trial_count} trials")

    emit(summary, as_json=as_json, text=say)
