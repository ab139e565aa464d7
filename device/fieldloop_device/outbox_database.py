"""The outbox's database: open, transactions, counters, and what to do when it is broken."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

MAX_QUARANTINED = 2
"""Corrupt databases that are kept for people to look at."""

SCHEMA_VERSION = 2
"""Written into the database; another one is put aside like a corrupt one, and counted."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    boot INTEGER NOT NULL, seq INTEGER NOT NULL, stream TEXT NOT NULL, payload BLOB NOT NULL,
    stored_ms INTEGER NOT NULL, -- wall clock, 0 unless it was synchronised
    PRIMARY KEY (boot, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version=2; -- last, so that a half-made database is made whole
"""


class OutboxDatabase:
    """A connection that is made again when it breaks; not thread-safe, its owner holds a lock.

    Args:
        path: The database.

    Attributes:
        fault: The last problem; empty after a transaction that went well.
        quarantined_count: Databases that were found corrupt and put aside since the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self.fault = ""
        self.quarantined_count = 0

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection; ask `open` first."""
        assert self._connection is not None
        return self._connection

    def open(self) -> bool:
        """Open the database if it is not open; False if that is impossible now."""
        # A second time after a corrupt one was put aside.
        for _ in range(2):
            if self._connection is None:
                try:
                    self._connection = self._connect()
                except sqlite3.DatabaseError as error:
                    self.suffer(error)
        return self._connection is not None

    def close(self) -> None:
        """Close the database; it may be opened again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; durable when it ends."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        self.fault = ""

    def counter(self, name: str) -> int:
        """Return a counter; 0 if it was never set."""
        row = self.connection.execute(
            "SELECT value FROM counter WHERE name = ?", (name,)
        ).fetchone()
        return int(row[0]) if row else 0

    def set_counter(self, name: str, value: int) -> None:
        """Set a counter, if it is not set so already; call it inside a transaction."""
        if self.counter(name) == value:
            return
        self.connection.execute("INSERT OR REPLACE INTO counter VALUES (?, ?)", (name, value))

    def totals(self) -> tuple[int, int]:
        """Return the number of messages and the size of their payloads."""
        return _totals(self.connection)

    def suffer(self, error: sqlite3.Error) -> None:
        """Remember a fault; put the database aside if it is corrupt and not merely unwritable."""
        self.fault = str(error)
        self.close()
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        ):
            self._quarantine()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=10.0
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            _check_soundness(connection)
            if _is_new(connection):
                connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _quarantine(self) -> None:
        kept = list(self._path.parent.glob(f"{self._path.name}.corrupt-*"))
        target = self._path.with_name(f"{self._path.name}.corrupt-{len(kept)}")
        try:
            if len(kept) >= MAX_QUARANTINED:
                self._path.unlink(missing_ok=True)
            else:
                self._path.replace(target)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as problem:
            self.fault = f"{self.fault}; it cannot be put aside: {problem.strerror}"
            return
        self.quarantined_count += 1


def read_totals(path: Path) -> tuple[int, int]:
    """Return number and size of the stored messages without writing to the database.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return _totals(connection)


def _totals(connection: sqlite3.Connection) -> tuple[int, int]:
    count, size_bytes = connection.execute(
        "SELECT count(*), coalesce(sum(length(payload)), 0) FROM message"
    ).fetchone()
    return int(count), int(size_bytes)


def _check_soundness(connection: sqlite3.Connection) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _is_new(connection: sqlite3.Connection) -> bool:
    """Say whether the tables must be made; a database of another release counts as corrupt."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return False
    columns = {row[1] for row in connection.execute("PRAGMA table_info(message)")}
    if version != 0 or (columns and "stored_ms" not in columns):
        raise sqlite3.DatabaseError(f"an outbox of version {version}, not {SCHEMA_VERSION}")
    return True
