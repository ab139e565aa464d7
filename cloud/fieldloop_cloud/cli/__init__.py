"""The `fieldloop` command: thin commands over the library, one module a group.

Nothing of a command's module is imported before that command is used, so `fieldloop --help` is
quick. `main` is the only place where errors become words and exit codes.
"""

from fieldloop_cloud.cli.app import main

__all__ = ["main"]
