"""Messages that the cloud has not acknowledged, on disk.

SQLite in WAL mode with synchronous=FULL: what was committed survives a kill and a power cut. A
message gets its number inside the transaction that stores it, and it leaves only when the cloud
says that it is stored. Rules that keep counts honest:

- A message that may have been sent is never changed: the cloud could have stored it already.
  The high-water mark of what was handed to the network is on disk before the network gets it.
- When space runs out, the oldest telemetry windows that were never sent are merged by addition.
  Only what cannot be merged is dropped: field samples first, then events, windows last. Every
  drop is counted, in the transaction that drops; a count that no window has told yet is told by
  the next boot.
- A message that is older than the cap is dropped, but only when it was stored and is judged under
  a synchronised clock: a wrong clock never drops anything.
- When the disk refuses, messages wait in memory, merged and finally dropped in the same way.
- A database that is corrupt is put aside under another name, counted, and a new one begun.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from fieldloop import wire
from fieldloop.errors import DataError
from fieldloop.telemetry import Ack, Clock, Stream, TelemetryWindow
from fieldloop_device import outbox_room as room
from fieldloop_device.backlog import Backlog
from fieldloop_device.outbox_database import OutboxDatabase
from fieldloop_device.stored_messages import NumberedMessage, Row, stream_of

ResultT = TypeVar("ResultT")

_DAY_MS = 86_400_000
_NO_TIME = Clock(mono_ms=0, wall_ms=0)


class Outbox:
    """Unacknowledged messages of this device; threads may share it.

    Args:
        path: The database.
        max_bytes: Cap for the payloads.
        max_age_ms: Older messages are dropped by `expire`; None keeps them for ever.
    """

    def __init__(self, path: Path, *, max_bytes: int, max_age_ms: int | None = None) -> None:
        self._database = OutboxDatabase(path)
        self._max_bytes = max_bytes
        self._max_age_ms = max_age_ms
        self._lock = threading.RLock()
        self._boot = 0
        self._next_seq = 1
        self._size_bytes = 0
        self._backlog = Backlog()
        self._dropped_rows = 0
        self._is_counted = False
        with self._lock:
            self._open()

    @property
    def dropped_count(self) -> int:
        """Messages dropped since the boot began, and before it if no window has told yet."""
        return self._dropped_rows + self._backlog.dropped_count

    @property
    def quarantined_count(self) -> int:
        """Databases that were found corrupt since the start."""
        return self._database.quarantined_count

    @property
    def fault(self) -> str:
        """Why messages cannot be stored now; empty if they can."""
        return self._database.fault

    @property
    def last_boot(self) -> int:
        """Highest boot that stored a message here; 0 if none did."""
        with self._lock:
            return self._read(lambda database: database.counter("boot"), 0)

    @property
    def count(self) -> int:
        """Messages on disk."""
        with self._lock:
            return self._read(lambda database: database.totals()[0], 0)

    @property
    def size_bytes(self) -> int:
        """Size of the payloads on disk."""
        return self._size_bytes

    def begin(self, boot: int) -> None:
        """Number what comes from now on as messages of this boot, from 1."""
        with self._lock:
            self._boot = boot
            self._next_seq = 1
            self._dropped_rows = self._read(
                lambda database: database.counter("dropped") - database.counter("dropped_told"), 0
            )

    def append(self, messages: Sequence[NumberedMessage], *, now: Clock = _NO_TIME) -> int:
        """Number and store messages, all in one commit.

        Args:
            messages: Without boot and number.
            now: Their age is counted from here, if the clock is synchronised; also the day of the
                sample budget.

        Returns:
            How many messages are on disk now that were not before; what the disk refused waits
            in memory and is tried again by the next call.
        """
        with self._lock:
            self._backlog.add(messages)
            stored = self._store_backlog(now) if self._backlog.messages else 0
            self._backlog.keep_to_limit()
            return stored

    def expire(self, now: Clock) -> int:
        """Drop messages beyond the age cap; returns how many that were.

        Only ages between two synchronised readings are known.
        """
        if self._max_age_ms is None or not now.synchronized:
            return 0
        with self._lock:
            if not self._open():
                return 0
            try:
                count, freed = room.drop_older(self._database, now.wall_ms - self._max_age_ms)
            except sqlite3.Error as error:
                self._suffer(error)
                return 0
            self._dropped_rows += count
            self._size_bytes -= freed
            return count

    def pending(self, *, after: tuple[int, int] = (0, 0), limit: int = 64) -> list[Row]:
        """Return the oldest unacknowledged messages behind a number, in order."""
        query = (
            "SELECT boot, seq, stream, payload FROM message "
            "WHERE (boot, seq) > (?, ?) ORDER BY boot, seq LIMIT ?"
        )
        found: list[tuple[int, int, Stream, bytes]] = []
        with self._lock:
            rows = self._read(
                lambda database: database.connection.execute(query, (*after, limit)).fetchall(),
                found,
            )
        return [Row(*row) for row in rows]

    def mark_sent(self, number: tuple[int, int]) -> bool:
        """Remember durably that messages up to this one may have left; call it before they do.

        Returns:
            False if it could not be written: then they must not be sent.
        """
        with self._lock:
            if not self._open():
                return False
            if number <= room.sent_mark(self._database):
                return True
            try:
                with self._database.transaction():
                    self._database.set_counter("sent_boot", number[0])
                    self._database.set_counter("sent_seq", number[1])
            except sqlite3.Error as error:
                self._suffer(error)
                return False
            return True

    def acknowledge(self, ack: Ack) -> int:
        """Delete what the cloud has stored; returns how many messages that were."""
        with self._lock:
            if not self._open():
                return 0
            deleted = freed = 0
            try:
                with self._database.transaction():
                    for numbers in ack.ranges:
                        count, size = room.delete(
                            self._database, "boot = ? AND seq BETWEEN ? AND ?", ack.boot, *numbers
                        )
                        deleted, freed = deleted + count, freed + size
            except sqlite3.Error as error:
                self._suffer(error)
                return 0
            self._size_bytes -= freed
            return deleted

    def samples_on(self, wall_ms: int) -> int:
        """Return how many field samples were stored on this day."""
        with self._lock:
            day, count = self._read(
                lambda database: (database.counter("sample_day"), database.counter("sample_count")),
                (0, 0),
            )
        return count if day == wall_ms // _DAY_MS else 0

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()
            self._is_counted = False

    def _open(self) -> bool:
        """Make the database usable if that is possible, and know its size."""
        is_open = self._database.open()
        if is_open and not self._is_counted:
            self._size_bytes = self._read(lambda database: database.totals()[1], 0)
            self._is_counted = True
        return is_open

    def _read(self, query: Callable[[OutboxDatabase], ResultT], default: ResultT) -> ResultT:
        """Ask the database; a fault costs the answer, never the caller."""
        if not self._database.open():
            return default
        try:
            return query(self._database)
        except sqlite3.Error as error:
            self._suffer(error)
            return default

    def _suffer(self, error: sqlite3.Error) -> None:
        self._is_counted = False
        self._database.suffer(error)

    # Storing

    def _store_backlog(self, now: Clock) -> int:
        waiting = self._backlog.messages
        if not self._open():
            return 0
        try:
            with self._database.transaction() as connection:
                rows = self._insert(connection, waiting, now)
        except sqlite3.Error as error:
            self._suffer(error)
            return 0
        self._next_seq += len(rows)
        self._dropped_rows += len(waiting) - len(rows)
        self._size_bytes += sum(len(row.payload) for row in rows)
        self._backlog.clear()
        self._make_room()
        return len(rows)

    def _insert(
        self, connection: sqlite3.Connection, messages: Sequence[NumberedMessage], now: Clock
    ) -> list[Row]:
        # Read inside the transaction: a database that was restored from a backup may be ahead.
        found = connection.execute(
            "SELECT coalesce(max(seq), 0) FROM message WHERE boot = ?", (self._boot,)
        ).fetchone()[0]
        self._next_seq = max(self._next_seq, found + 1)
        stored_ms = now.wall_ms if now.synchronized else 0
        rows: list[Row] = []
        for message in messages:
            row = self._numbered(message, self._next_seq + len(rows))
            if row is not None:
                rows.append(row)
        connection.executemany(
            "INSERT INTO message VALUES (?, ?, ?, ?, ?)",
            [(row.boot, row.seq, row.stream, row.payload, stored_ms) for row in rows],
        )
        self._count_stored(rows, len(messages) - len(rows), now)
        return rows

    def _count_stored(self, rows: Sequence[Row], refused_count: int, now: Clock) -> None:
        """Keep the counters; one that is right already is not written, to spare the flash."""
        self._database.set_counter("boot", self._boot)
        if any(row.stream == "tel" for row in rows):
            self._database.set_counter("dropped_told", self._database.counter("dropped"))
        self._database.set_counter("dropped", self._database.counter("dropped") + refused_count)
        samples = sum(row.stream == "smp" for row in rows)
        if samples:
            day = now.wall_ms // _DAY_MS
            is_today = self._database.counter("sample_day") == day
            before = self._database.counter("sample_count") if is_today else 0
            self._database.set_counter("sample_day", day)
            self._database.set_counter("sample_count", before + samples)

    def _numbered(self, message: NumberedMessage, seq: int) -> Row | None:
        """Return the row of a message; None for one that no broker would take."""
        changes = {"boot": self._boot, "seq": seq}
        if isinstance(message, TelemetryWindow):
            changes["dropped_count"] = self.dropped_count
        try:
            payload = wire.encode(msgspec.structs.replace(message, **changes))
        except DataError:
            return None
        return Row(self._boot, seq, stream_of(message), payload)

    def _make_room(self) -> None:
        """Bring the payloads under the cap: merge, then drop samples, events, windows."""
        try:
            while self._size_bytes > self._max_bytes:
                freed = room.merge_oldest(self._database)
                if freed is None:
                    freed = room.drop_oldest(self._database)
                    self._dropped_rows += freed is not None
                if freed is None:
                    return
                self._size_bytes -= freed
        except sqlite3.Error as error:
            self._suffer(error)
