"""Options that say how long and where to search."""

import click

from fieldloop_cloud.cli.output import DURATION, Command
from fieldloop_cloud.data.split import STRATEGIES

STUDY_VARIABLE = "FIELDLOOP_STUDY"


def search_options(command: Command) -> Command:
    """Add the options that say how long and where to search."""
    options = [
        click.option(
            "--split",
            "strategy",
            type=click.Choice(STRATEGIES),
            default="60-20-20",
            show_default=True,
            help="How the rows are divided: a validation part, cross-validation (80-20), or what "
            "suits their number.",
        ),
        click.option(
            "--trials",
            type=click.IntRange(min=0),
            help="Search for so many trials after the portfolio; the reproducible form.",
        ),
        click.option(
            "--search",
            "search_s",
            type=DURATION,
            help="Search until so much time has passed since the start.",
        ),
        click.option(
            "--max-trial",
            "max_trial_s",
            type=DURATION,
            help="Longest time for one trial, training and compiling.",
        ),
        click.option(
            "--floor",
            type=float,
            help="Lowest validation score that is acceptable; below it the command fails.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Processes that search at the same time on this machine.",
        ),
        click.option(
            "--study",
            envvar=STUDY_VARIABLE,
            show_envvar=True,
            help="Database for the search, postgresql://USER@HOST/DATABASE, so that workers on "
            "other machines can join it. A password is better given by the variable.",
        ),
        click.option(
            "--heartbeat",
            "heartbeat_s",
            type=click.IntRange(min=1),
            default=10,
            show_default=True,
            help="With --study: seconds between a trial's signs of life; a trial that misses six "
            "is repeated elsewhere.",
        ),
        click.option(
            "--allow-leakage",
            default="",
            metavar="REASON",
            help="Go on in spite of what the leakage check found; the reason stays in the run.",
        ),
        click.option("--resume", is_flag=True, help="Go on with the search in --out."),
    ]
    for option in reversed(options):
        command = option(command)
    return command
