"""The entrance: which commands there are, and what an error looks like to a person.

Exit codes: 0 success, 1 an operation that failed, 2 wrong input, 130 interrupted. An error is one
paragraph on stderr; with `--json` it is an object on stdout as well.
"""

import contextlib
import importlib
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

import fieldloop_cloud
from fieldloop.errors import FieldloopError

COMMANDS: dict[str, str] = {
    "advise": "advise:advise_command",
    "train": "train:train_command",
    "pretrain": "pretrain:pretrain_command",
    "worker": "worker:worker_command",
    "compile": "compile:compile_command",
    "inspect": "inspect:inspect_command",
    "prune": "prune:prune_command",
    "distill": "distill:distill_command",
    "bundle": "release:bundle_command",
    "provision": "release:provision_command",
    "flash": "release:flash_command",
    "export": "export:export_command",
    "serve": "serve:serve_command",
    "rollout": "rollout:rollout_group",
    "fleet": "fleet:fleet_group",
    "label": "label:label_group",
    "retrain": "retrain:retrain_command",
    "doctor": "doctor:doctor_command",
    "demo": "demo:demo_command",
}
"""Command to `module:function`, in the order of the story."""

INTERRUPTED = 130
USAGE = 2


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the story."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(importlib.import_module(f"fieldloop_cloud.cli.{module}"), name)
        assert isinstance(found, click.Command)
        return found


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fieldloop_cloud.__version__, prog_name="fieldloop")
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
def fieldloop(*, debug: bool) -> None:
    """From data to a model in the field, and back.

    Train, compile to TFLite, sign, flash or roll out; watch the field, label, retrain. Every
    command takes --json; the fleet's home is ./fleet or --home.
    """
    del debug  # read from the arguments, as an error may come before they are parsed


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _spell_out_unknown_characters()
    as_json = "--json" in words
    try:
        # In standalone mode click would exit by itself, with its own words.
        code = fieldloop.main(words, prog_name="fieldloop", standalone_mode=False)
    except FieldloopError as error:
        _say(str(error), error.as_dict(), as_json=as_json)
        code = error.exit_code
    except click.ClickException as error:
        _say(*_usage(error), as_json=as_json)
        code = USAGE
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted", {"error": "Interrupted", "what": "interrupted"}, as_json=as_json)
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader has gone; Python would complain again when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback for users
        code = _unexpected(error, as_json=as_json, debug="--debug" in words)
    sys.exit(code if isinstance(code, int) else 0)


def _spell_out_unknown_characters() -> None:
    """Let a terminal or a pipe that is not UTF-8 get escapes instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _usage(error: click.ClickException) -> tuple[str, dict[str, str]]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "fieldloop"
    what = error.format_message().rstrip(".")
    advice = f"See `{path} --help`."
    fields = {"error": "UsageError", "what": what, "where": path, "advice": advice}
    return f"{what}. {advice}", fields


def _unexpected(error: Exception, *, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    what = f"internal error: {type(error).__name__}: {error}".splitlines()[0]
    advice = "This is a fault of fieldloop; run it again as `fieldloop --debug …` and report it."
    fields = {"error": "InternalError", "what": what, "where": "", "advice": advice}
    _say(f"{what}. {advice}", fields, as_json=as_json)
    return 1


def _say(text: str, fields: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(fields))
    click.echo(f"error: {' '.join(text.split())}", err=True)
