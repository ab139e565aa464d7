"""Runs the command line in this process, as the console script does."""

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

from fieldloop_cloud.cli import main


@dataclass(frozen=True)
class Done:
    """What a command left behind: its exit code and what it said."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        """The JSON document on stdout; there must be exactly one."""
        return json.loads(self.out)


def fieldloop(*words: object) -> Done:
    """Run `fieldloop` with these words."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    return Done(int(code or 0), out.getvalue(), err.getvalue())
