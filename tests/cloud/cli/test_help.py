"""Every command explains itself, and the README names it."""

from pathlib import Path

import click
import pytest
from tests.support.commands import fieldloop

from fieldloop_cloud.cli.app import fieldloop as group

README = Path(__file__).parents[3] / "README.md"


def _commands(command, path=("fieldloop",)):
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                yield from _commands(command.get_command(ctx, name), (*path, name))
    else:
        yield path, command


COMMANDS = dict(_commands(group))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_says_what_it_does_and_what_its_options_mean(path):
    command = COMMANDS[path]
    assert len(command.get_short_help_str()) > 20
    options = [item for item in command.params if isinstance(item, click.Option)]
    assert "--json" in {name for option in options for name in option.opts}
    silent = [option.name for option in options if not option.help and option.name != "precision"]
    assert silent == []
    done = fieldloop(*path[1:], "--help")
    assert done.code == 0
    assert "Usage: fieldloop" in done.out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_readme_names_every_command(path):
    assert " ".join(path[:2]) in README.read_text(encoding="utf-8")


def test_the_version_is_told():
    done = fieldloop("--version")
    assert done.code == 0
    assert done.out.startswith("fieldloop, version 0.")


def test_no_command_at_all_shows_the_help():
    done = fieldloop()
    assert "Commands:" in done.out + done.err
