"""Messages that the cloud has not acknowledged, on disk.

SQLite in WAL mode with synchronous=FULL: what was committed survives a kill and a power cut. A
message gets its number inside the transaction that stores it, and it leaves only when the cloud
says that it is stored. Rules that keep counts honest:

- A message that may have been sent is never changed: the cloud could have stored it already.
  The high-water mark of what was handed to the network is on disk before the network gets it.
- When space runs out, the oldest telemetry windows that were never sent are merged by addition.
  Only what cannot be merged is dropped: field samples first, then events, windows last. Every
  drop is counted.
- When the disk refuses, messages wait in memory, merged and finally dropped in the same way.
- A database that is corrupt is put aside under another name, counted, and a new one begun.
"""

import contextlib
import dataclasses
import itertools
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from fieldloop import wire
from fieldloop.errors import DataError, EnvironmentFaultError
from fieldloop.telemetry import Ack, Event, FieldSample, Stream, TelemetryWindow
from fieldloop_device.backlog import Backlog
from fieldloop_device.windows import can_merge, merge

NumberedMessage = TelemetryWindow | Event | FieldSample

KINDS: dict[Stream, type[NumberedMessage]] = {
    "tel": TelemetryWindow,
    "evt": Event,
    "smp": FieldSample,
}

MAX_QUARANTINED = 2
_MERGE_AT_ONCE = 64
_DAY_MS = 86_400_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    boot INTEGER NOT NULL, seq INTEGER NOT NULL, stream TEXT NOT NULL, payload BLOB NOT NULL,
    PRIMARY KEY (boot, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A stored message."""

    boot: int
    seq: int
    stream: Stream
    payload: bytes

    @property
    def number(self) -> tuple[int, int]:
        """Boot and sequence number: the message's place in the device's history."""
        return self.boot, self.seq

    def message(self) -> NumberedMessage:
        """Return the message."""
        return wire.decode(KINDS[self.stream], self.payload)


class Outbox:
    """Unacknowledged messages of this device; threads may share it.

    Args:
        path: The database.
        max_bytes: Cap for the payloads.

    Attributes:
        quarantined_count: Databases that were found corrupt since the start.
        dropped_count: Messages that had to be dropped since the boot began.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._boot = 0
        self._next_seq = 1
        self._size_bytes = 0
        self._backlog = Backlog()
        self._dropped_rows = 0
        self.quarantined_count = 0
        self.fault = ""
        with self._lock:
            self._open()

    @property
    def dropped_count(self) -> int:
        """Messages that had to be dropped since the boot began."""
        return self._dropped_rows + self._backlog.dropped_count

    @property
    def last_boot(self) -> int:
        """Highest boot that stored a message here; 0 if none did."""
        with self._lock:
            return self._counter("boot") if self._connection else 0

    @property
    def count(self) -> int:
        """Messages on disk."""
        with self._lock:
            if self._connection is None:
                return 0
            return int(self._connection.execute("SELECT count(*) FROM message").fetchone()[0])

    @property
    def size_bytes(self) -> int:
        """Size of the payloads on disk."""
        return self._size_bytes

    def begin(self, boot: int) -> None:
        """Number what comes from now on as messages of this boot, from 1."""
        with self._lock:
            self._boot = boot
            self._next_seq = 1

    def append(self, messages: Sequence[NumberedMessage], *, wall_ms: int = 0) -> int:
        """Number and store messages, all in one commit.

        Args:
            messages: Without boot and number.
            wall_ms: The day's date for the sample budget.

        Returns:
            How many messages are on disk now that were not before; what the disk refused waits
            in memory and is tried again by the next call.
        """
        with self._lock:
            self._backlog.add(messages)
            stored = self._store_backlog(wall_ms) if self._backlog.messages else 0
            self._backlog.keep_to_limit()
            return stored

    def pending(self, *, after: tuple[int, int] = (0, 0), limit: int = 64) -> list[Row]:
        """Return the oldest unacknowledged messages behind a number, in order."""
        with self._lock:
            if not self._usable():
                return []
            try:
                rows = self._database.execute(
                    "SELECT boot, seq, stream, payload FROM message "
                    "WHERE (boot, seq) > (?, ?) ORDER BY boot, seq LIMIT ?",
                    (*after, limit),
                ).fetchall()
            except sqlite3.Error as error:
                self._suffer(error)
                return []
            return [Row(*row) for row in rows]

    def mark_sent(self, number: tuple[int, int]) -> bool:
        """Remember durably that messages up to this one may have left; call it before they do.

        Returns:
            False if it could not be written: then they must not be sent.
        """
        with self._lock:
            if not self._usable():
                return False
            if number <= self._sent_mark():
                return True
            try:
                with self._transaction() as connection:
                    self._set(connection, "sent_boot", number[0])
                    self._set(connection, "sent_seq", number[1])
            except sqlite3.Error as error:
                self._suffer(error)
                return False
            return True

    def acknowledge(self, ack: Ack) -> int:
        """Delete what the cloud has stored; returns how many messages that were."""
        with self._lock:
            if not self._usable():
                return 0
            deleted = 0
            try:
                with self._transaction() as connection:
                    for first, last in ack.ranges:
                        deleted += self._delete(
                            connection, "boot = ? AND seq BETWEEN ? AND ?", ack.boot, first, last
                        )
            except sqlite3.Error as error:
                self._size_bytes = 0  # counted again when the database is next opened or pruned
                self._suffer(error)
                return 0
            return deleted

    def samples_on(self, wall_ms: int) -> int:
        """Return how many field samples were stored on this day."""
        with self._lock:
            if not self._usable() or self._counter("sample_day") != wall_ms // _DAY_MS:
                return 0
            return self._counter("sample_count")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # Storing

    def _store_backlog(self, wall_ms: int) -> int:
        waiting = self._backlog.messages
        if not self._usable():
            return 0
        try:
            with self._transaction() as connection:
                rows = self._insert(connection, waiting, wall_ms)
        except sqlite3.Error as error:
            self._suffer(error)
            return 0
        self.fault = ""
        self._next_seq += len(rows)
        self._dropped_rows += len(waiting) - len(rows)
        self._size_bytes += sum(len(row.payload) for row in rows)
        self._backlog.clear()
        self._make_room()
        return len(rows)

    @property
    def _database(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._database
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _insert(
        self, connection: sqlite3.Connection, messages: Sequence[NumberedMessage], wall_ms: int
    ) -> list[Row]:
        # Read inside the transaction: a database that was restored from a backup may be ahead.
        found = connection.execute(
            "SELECT coalesce(max(seq), 0) FROM message WHERE boot = ?", (self._boot,)
        ).fetchone()[0]
        self._next_seq = max(self._next_seq, found + 1)
        rows: list[Row] = []
        for message in messages:
            row = self._numbered(message, self._next_seq + len(rows))
            if row is not None:
                rows.append(row)
        connection.executemany(
            "INSERT INTO message VALUES (?, ?, ?, ?)",
            [(row.boot, row.seq, row.stream, row.payload) for row in rows],
        )
        self._set(connection, "boot", self._boot)
        samples = sum(row.stream == "smp" for row in rows)
        if samples:
            day = wall_ms // _DAY_MS
            before = self._counter("sample_count") if self._counter("sample_day") == day else 0
            self._set(connection, "sample_day", day)
            self._set(connection, "sample_count", before + samples)
        return rows

    def _numbered(self, message: NumberedMessage, seq: int) -> Row | None:
        """Return the row of a message; None for one that no broker would take."""
        changes = {"boot": self._boot, "seq": seq}
        if isinstance(message, TelemetryWindow):
            changes["dropped_count"] = self.dropped_count
        try:
            payload = wire.encode(msgspec.structs.replace(message, **changes))
        except DataError:
            return None
        return Row(self._boot, seq, _stream(message), payload)

    def _delete(self, connection: sqlite3.Connection, condition: str, *values: int) -> int:
        freed = connection.execute(
            f"SELECT coalesce(sum(length(payload)), 0) FROM message WHERE {condition}",  # noqa: S608 - the condition is a constant of this module
            values,
        ).fetchone()[0]
        count = connection.execute(
            f"DELETE FROM message WHERE {condition}",  # noqa: S608 - the same
            values,
        ).rowcount
        self._size_bytes -= int(freed)
        return count

    def _counter(self, name: str) -> int:
        row = self._database.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    @staticmethod
    def _set(connection: sqlite3.Connection, name: str, value: int) -> None:
        connection.execute("INSERT OR REPLACE INTO counter VALUES (?, ?)", (name, value))

    def _sent_mark(self) -> tuple[int, int]:
        return self._counter("sent_boot"), self._counter("sent_seq")

    # Space

    def _make_room(self) -> None:
        """Bring the payloads under the cap: merge, then drop samples, events, windows."""
        try:
            while self._size_bytes > self._max_bytes:
                if not (self._merge_oldest() or self._drop_oldest()):
                    return
        except sqlite3.Error as error:
            self._suffer(error)

    def _merge_oldest(self) -> bool:
        rows = [
            Row(*row)
            for row in self._database.execute(
                "SELECT boot, seq, stream, payload FROM message "
                "WHERE stream = 'tel' AND (boot, seq) > (?, ?) ORDER BY boot, seq LIMIT ?",
                (*self._sent_mark(), _MERGE_AT_ONCE),
            )
        ]
        for earlier, later in itertools.pairwise(rows):
            first, second = earlier.message(), later.message()
            assert isinstance(first, TelemetryWindow)
            assert isinstance(second, TelemetryWindow)
            if not can_merge(first, second):
                continue
            payload = wire.encode(merge(first, second))
            with self._transaction() as connection:
                connection.execute("DELETE FROM message WHERE (boot, seq) = (?, ?)", earlier.number)
                connection.execute(
                    "UPDATE message SET payload = ? WHERE (boot, seq) = (?, ?)",
                    (payload, *later.number),
                )
            self._size_bytes += len(payload) - len(earlier.payload) - len(later.payload)
            return True
        return False

    def _drop_oldest(self) -> bool:
        for stream in ("smp", "evt", "tel"):
            row = self._database.execute(
                "SELECT boot, seq FROM message WHERE stream = ? ORDER BY boot, seq LIMIT 1",
                (stream,),
            ).fetchone()
            if row is not None:
                with self._transaction() as connection:
                    self._delete(connection, "boot = ? AND seq = ?", *row)
                self._dropped_rows += 1
                return True
        return False

    # Faults

    def _usable(self) -> bool:
        if self._connection is None:
            self._open()
        return self._connection is not None

    def _open(self) -> None:
        for _ in range(2):
            try:
                self._connect()
            except sqlite3.DatabaseError as error:
                self._suffer(error)
            if self._connection is not None:
                return

    def _connect(self) -> None:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=10.0
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            _check_soundness(connection)
            connection.executescript(_SCHEMA)
            size = connection.execute("SELECT coalesce(sum(length(payload)), 0) FROM message")
            self._size_bytes = int(size.fetchone()[0])
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _suffer(self, error: sqlite3.Error) -> None:
        """Remember a fault; put the database aside if it is corrupt and not merely unwritable."""
        self.fault = str(error)
        self.close()
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        ):
            self._quarantine()

    def _quarantine(self) -> None:
        kept = sorted(self._path.parent.glob(f"{self._path.name}.corrupt-*"))
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


def _check_soundness(connection: sqlite3.Connection) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _stream(message: NumberedMessage) -> Stream:
    for stream, kind in KINDS.items():
        if isinstance(message, kind):
            return stream
    raise DataError(
        f"a {type(message).__name__} is not a numbered message",
        advice="Send a window, an event or a sample.",
    )


def read_only_counts(path: Path) -> tuple[int, int]:
    """Return the number and size of stored messages without touching the database.

    Raises:
        EnvironmentFaultError: It cannot be read.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            row = connection.execute(
                "SELECT count(*), coalesce(sum(length(payload)), 0) FROM message"
            ).fetchone()
    except sqlite3.Error as error:
        raise EnvironmentFaultError(
            f"the outbox cannot be read: {error}",
            where=str(path),
            advice="It is put aside and begun anew when the agent starts.",
        ) from error
    return int(row[0]), int(row[1])
