"""What commands share: common options, results as JSON or as tables, progress on stderr."""

import contextlib
import dataclasses
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fieldloop.errors import ConfigError, FieldloopError
from fieldloop_cloud.release.home import DEFAULT_HOME, Home

Command = TypeVar("Command", bound=Callable[..., Any])

HOME_VARIABLE = "FIELDLOOP_HOME"

PIPE_WIDTH = 160

MAX_SEED = 2**32 - 1

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Write the result as JSON.")(
        command
    )


def seed_option(text: str) -> Callable[[Command], Command]:
    """Add `--seed` in the range that every library takes."""
    return click.option(
        "--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help=text
    )


def home_option(command: Command) -> Command:
    """Add `--home`, given to the command as a `Home`."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path),
        default=DEFAULT_HOME,
        envvar=HOME_VARIABLE,
        show_default=True,
        show_envvar=True,
        callback=lambda _ctx, _option, value: Home(value),
        help="The fleet's home directory.",
    )(command)


class Duration(click.ParamType[float]):
    """Seconds, or a number with s, m, h or d: `90`, `10m`, `1.5h`."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = _DURATION.fullmatch(str(value).strip())
        if found is None or float(found[1]) <= 0:
            self.fail(f"'{value}' is no time; write 90, 10m or 1.5h", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


DURATION = Duration()


def plain(value: Any) -> Any:
    """Turn results into what JSON can say."""
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.to_builtins(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return value


def emit(result: Any, *, as_json: bool, text: Callable[[Console], None]) -> None:
    """Write a command's result to stdout: JSON, or what `text` prints."""
    if as_json:
        click.echo(json.dumps(plain(result), allow_nan=False))
    else:
        # In a pipe there is no width to fit into; tables must not be folded to 80 columns.
        width = None if sys.stdout.isatty() else PIPE_WIDTH
        text(Console(highlight=False, soft_wrap=True, width=width))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Build a table; numbers are aligned to the right, None is shown as a dash."""
    made = Table(title=Text(title), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows) and bool(rows)
        made.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_shown(cell)) for cell in row))  # a str would be read as markup
    return made


def _shown(cell: Any) -> str:
    if cell is None or cell == "":
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return str(cell)


@contextlib.contextmanager
def progress_bar(
    title: str, *, told: frozenset[str] = frozenset()
) -> Iterator[Callable[[str, float, str], None]]:
    """Show a bar on stderr; yields a function of (stage, fraction, sentence).

    Without a terminal every new stage is one line, so that logs stay readable. Of the stages in
    `told` every sentence is a line of its own and stays.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _StageLines(console, title, told)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)

        def report(stage: str, fraction: float, text: str) -> None:
            if stage in told:
                bar.console.print(f"{bar.tasks[0].elapsed:5.0f} s  {text}", markup=False)
            # A task that reaches its total stops its clock, and another stage may follow.
            bar.update(
                task, completed=min(fraction, 0.999), description=f"{title} · {stage}: {text[:60]}"
            )

        yield report


class _StageLines:
    """Prints each stage once, and all that is told."""

    def __init__(self, console: Console, title: str, told: frozenset[str]) -> None:
        self._console = console
        self._title = title
        self._told = told
        self._stage = ""
        self._start = time.monotonic()

    def __call__(self, stage: str, fraction: float, text: str) -> None:
        del fraction
        if stage != self._stage or stage in self._told:
            self._stage = stage
            taken = time.monotonic() - self._start
            self._console.print(f"{self._title} · {stage}: {text} ({taken:.0f} s)", markup=False)


def note(text: str) -> None:
    """Say something to a person, on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def vacant(path: Path, *, force: bool) -> Path:
    """Return a path to write to.

    Raises:
        ConfigError: Something is there and `force` is not given.
    """
    if path.is_dir():
        raise ConfigError("the output is a directory", where=str(path), advice="Name a file.")
    if path.exists() and not force:
        raise ConfigError(
            "the output exists already",
            where=str(path),
            advice="Name another file, or overwrite with --force.",
        )
    return path


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name the file in errors about its content that do not say where."""
    try:
        yield
    except FieldloopError as error:
        error.where = error.where or str(file)
        raise
