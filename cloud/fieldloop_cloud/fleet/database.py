"""The store's SQLite file: its schema, how it is opened, and what its errors mean.

WAL with synchronous=FULL: once a transaction has returned, a power cut cannot take it back, which
is what an acknowledgement to a device promises.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from fieldloop.errors import EnvironmentFaultError

SCHEMA_VERSION = 1

_BUSY_TIMEOUT_S = 30.0

_SCHEMA = """
CREATE TABLE messages (          -- windows, events and samples: one numbering over all three
    id          INTEGER PRIMARY KEY,
    device      TEXT NOT NULL,
    boot        INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    stream      TEXT NOT NULL CHECK (stream IN ('tel', 'evt', 'smp')),
    model       TEXT NOT NULL,
    at_ms       INTEGER NOT NULL,    -- on our clock
    received_ms INTEGER NOT NULL,
    payload     BLOB NOT NULL,       -- as it came, with the device's own clocks
    UNIQUE (device, boot, seq)
) STRICT;
CREATE INDEX messages_by_time ON messages (stream, at_ms);

CREATE TABLE samples (
    device     TEXT NOT NULL,
    sample_id  TEXT NOT NULL,
    message_id INTEGER NOT NULL REFERENCES messages (id),
    PRIMARY KEY (device, sample_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE labels (
    device      TEXT NOT NULL,
    sample_id   TEXT NOT NULL,
    label       TEXT NOT NULL,       -- JSON, so that 1, true and "1" stay apart
    labelled_ms INTEGER NOT NULL,
    PRIMARY KEY (device, sample_id),
    FOREIGN KEY (device, sample_id) REFERENCES samples (device, sample_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    device      TEXT NOT NULL,
    topic       TEXT NOT NULL,
    payload     BLOB NOT NULL,
    size_bytes  INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    received_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE counters (
    device       TEXT PRIMARY KEY,
    duplicates   INTEGER NOT NULL DEFAULT 0,
    dead_letters INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE presence (
    device      TEXT PRIMARY KEY,
    boot        INTEGER NOT NULL,
    online      INTEGER NOT NULL,
    received_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE reported (
    device      TEXT PRIMARY KEY,
    boot        INTEGER NOT NULL,
    document    BLOB NOT NULL,
    received_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE desired (
    device   TEXT PRIMARY KEY,
    ver      INTEGER NOT NULL,
    document BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE rollouts (
    id       TEXT PRIMARY KEY,
    document TEXT NOT NULL           -- JSON, see `rollout`
) STRICT;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection with the settings that durability rests on; see `explained` for errors."""
    # Threads share the writer under the store's lock; transactions are begun by hand.
    db = sqlite3.connect(
        path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    return db


def prepare(path: Path) -> None:
    """Make the file and its schema if they are missing.

    Field samples may be private, so only the owner can read the file.

    Raises:
        EnvironmentFaultError: The place cannot be written, the file is no database, is damaged,
            or was written by a newer release.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise EnvironmentFaultError(
            f"the store cannot be opened: {error.strerror}",
            where=str(path),
            advice="Check the path, the disk's space and your permissions.",
        ) from error
    with explained(path), contextlib.closing(connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("BEGIN IMMEDIATE")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    if version > SCHEMA_VERSION:
        raise EnvironmentFaultError(
            f"the store has schema {version}, this release knows {SCHEMA_VERSION}",
            where=str(path),
            advice="Update fieldloop, or use another home.",
        )


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours.

    Raises:
        EnvironmentFaultError: The disk is full, the file is damaged, locked or not writable.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "")
        what, advice = next(
            (words for prefix, words in _EXPLANATIONS.items() if code.startswith(prefix)),
            ("the store failed", "See the words of SQLite above."),
        )
        raise EnvironmentFaultError(f"{what}: {error}", where=str(path), advice=advice) from error


_EXPLANATIONS = {
    "SQLITE_FULL": ("the disk is full", "Free space; nothing that was stored is lost."),
    "SQLITE_IOERR": ("the disk failed", "Check the disk and its space."),
    "SQLITE_READONLY": ("the store cannot be written", "Check the file's permissions."),
    "SQLITE_CANTOPEN": ("the store cannot be opened", "Check the path and its permissions."),
    "SQLITE_BUSY": ("another process holds the store", "End it, or try again."),
    "SQLITE_CORRUPT": ("the store is damaged", "Restore it from a backup, or move it away."),
    "SQLITE_NOTADB": (
        "this file is no fieldloop store",
        "Restore it from a backup, or move it away.",
    ),
}
