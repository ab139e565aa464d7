"""Where log lines go: to a person's terminal, or to systemd's journal with their priority.

The journal reads a priority in front of a line, `<4>` for a warning (sd-daemon(3)); it knows time,
unit and process itself. A line break would begin a new entry, so each further line gets the
priority too.
"""

import logging
import os
from typing import TextIO

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG_PRIORITY = 7


class JournalFormatter(logging.Formatter):
    """Puts the syslog priority in front of every line.

    Example:
        >>> record = logging.LogRecord("agent", logging.WARNING, "", 0, "disk full", None, None)
        >>> JournalFormatter().format(record)
        '<4>agent: disk full'
    """

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as the journal reads it."""
        priority = next(
            (number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY
        )
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def is_journal(stream: TextIO) -> bool:
    """Say whether a stream ends in the journal: systemd names its device and inode."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


def set_up_logs(stream: TextIO, *, verbose: bool) -> None:
    """Send the log to a stream in the form that its reader wants.

    Args:
        stream: Standard error.
        verbose: Whether to log what the agent does, not only what is wrong.
    """
    handler = logging.StreamHandler(stream)
    if is_journal(stream):
        handler.setFormatter(JournalFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])
