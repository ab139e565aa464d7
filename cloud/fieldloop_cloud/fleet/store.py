"""Everything that devices said, once.

A message is stored at most once: (device, boot, seq) is unique over windows, events and samples,
and storing it again changes nothing. What `record` and `record_many` have returned for is on the
disk, so it may be acknowledged.

The methods are the interface; SQL is behind them, so that another database can take over. All
methods may be called from any thread and, as the file locks itself, from several processes.
"""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fieldloop import topics, wire
from fieldloop.errors import DataError
from fieldloop.signature import Category
from fieldloop.state import DesiredState, Presence, ReportedState
from fieldloop.telemetry import Event, FieldSample, Stream, TelemetryWindow
from fieldloop_cloud.fleet import database
from fieldloop_cloud.fleet.counts import FieldWindow
from fieldloop_cloud.fleet.recording import bury, record_all
from fieldloop_cloud.fleet.records import (
    DeadLetter,
    DeviceCounts,
    Incoming,
    Numbered,
    Outcome,
    StoredEvent,
    StoredSample,
)


class Store:
    """The fleet's memory in one SQLite file; see the module.

    Args:
        path: The file; made if it is missing.

    Raises:
        EnvironmentFaultError: It cannot be opened, is damaged or of a newer release. All methods
            raise it when the disk is full or fails; the transaction is then undone.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        database.prepare(self.path)
        self._lock = threading.RLock()
        with database.explained(self.path):
            self._writer = database.connect(self.path)

    def close(self) -> None:
        """Close the file; may be called again."""
        with self._lock:
            self._writer.close()

    def __enter__(self) -> Self:
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    # Numbered messages

    def record(
        self, device: str, stream: Stream, message: Numbered, received_ms: int | None = None
    ) -> Outcome:
        """Store one message durably.

        Raises:
            DataError: A number that cannot be.
        """
        incoming = Incoming(
            device=device,
            stream=stream,
            message=message,
            payload=wire.encode(message),
            received_ms=_now_ms() if received_ms is None else received_ms,
        )
        return self.record_many([incoming])[0]

    def record_many(self, batch: Sequence[Incoming]) -> list[Outcome]:
        """Store messages in one transaction; all are on the disk when it returns, or none.

        Returns:
            What became of each, in order.

        Raises:
            DataError: A number that cannot be; nothing is stored.
        """
        with self._write() as db:
            return record_all(db, batch)

    def windows(
        self,
        device: str | None = None,
        model: str | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
    ) -> list[FieldWindow]:
        """Return telemetry windows in the order of their time.

        Args:
            device: Only of this device.
            model: Only counted under this model (16 hex digits, or a whole SHA-256).
            since_ms: Only from this time on, milliseconds since 1970 UTC.
            until_ms: Only before this time.
        """
        return [
            FieldWindow(device=name, at_ms=at_ms, window=wire.decode(TelemetryWindow, payload))
            for name, at_ms, payload in self._messages("tel", device, model, since_ms, until_ms)
        ]

    def last_windows(self) -> dict[str, TelemetryWindow]:
        """Return each device's last telemetry window."""
        rows = self._read(
            """
            SELECT device, payload, max(at_ms) FROM messages WHERE stream = 'tel' GROUP BY device
            """,
            {},
        )
        return {name: wire.decode(TelemetryWindow, payload) for name, payload, _ in rows}

    def shadowed_windows(self, since_ms: int | None = None) -> list[FieldWindow]:
        """Return the windows in which a challenger was compared, in the order of their time."""
        rows = self._read(
            """
            SELECT device, at_ms, payload FROM messages
            WHERE stream = 'tel' AND (:since IS NULL OR at_ms >= :since)
              AND instr(payload, :shadow)
            ORDER BY at_ms, device, boot, seq
            """,
            {"since": since_ms, "shadow": b'"sh":{'},
        )
        return [
            FieldWindow(device=name, at_ms=at_ms, window=wire.decode(TelemetryWindow, payload))
            for name, at_ms, payload in rows
        ]

    def events(self, device: str | None = None, since_ms: int | None = None) -> list[StoredEvent]:
        """Return events in the order of their time."""
        return [
            StoredEvent(device=name, at_ms=at_ms, event=wire.decode(Event, payload))
            for name, at_ms, payload in self._messages("evt", device, None, since_ms, None)
        ]

    def samples(
        self,
        labelled: bool | None = None,  # noqa: FBT001 - reads well by its name
        device: str | None = None,
        since_ms: int | None = None,
    ) -> list[StoredSample]:
        """Return field samples in the order of their time.

        Args:
            labelled: Only those with (True) or without (False) a label.
            device: Only of this device.
            since_ms: Only from this time on.
        """
        rows = self._read(
            """
            SELECT m.device, m.at_ms, m.payload, l.label FROM samples s
            JOIN messages m ON m.id = s.message_id
            LEFT JOIN labels l ON l.device = s.device AND l.sample_id = s.sample_id
            WHERE (:device IS NULL OR m.device = :device)
              AND (:since IS NULL OR m.at_ms >= :since)
              AND (:labelled IS NULL OR (l.label IS NOT NULL) = :labelled)
            ORDER BY m.at_ms, m.device, m.boot, m.seq
            """,
            {"device": device, "since": since_ms, "labelled": labelled},
        )
        return [
            StoredSample(
                device=name,
                at_ms=at_ms,
                sample=wire.decode(FieldSample, payload),
                label=None if label is None else json.loads(label),
            )
            for name, at_ms, payload, label in rows
        ]

    def add_labels(self, labels: Sequence[tuple[str, str, Category]]) -> None:
        """Store labels for (device, sample_id); a new label replaces an old one.

        Raises:
            DataError: There is no such sample; nothing is stored.
        """
        with self._write() as db:
            for device, sample_id, label in labels:
                row = (device, sample_id, json.dumps(label), _now_ms())
                try:
                    db.execute(_UPSERT_LABEL, row)
                except sqlite3.IntegrityError as error:
                    raise DataError(
                        f"there is no sample '{sample_id}' of device '{device}'",
                        where=str(self.path),
                        advice="Export the samples again and label those; nothing was stored.",
                    ) from error

    # What cannot be stored where it belongs

    def dead_letter(
        self, topic: str, payload: bytes, reason: str, received_ms: int | None = None
    ) -> None:
        """Keep a message that could not be read, and count it."""
        at = _now_ms() if received_ms is None else received_ms
        with self._write() as db:
            bury(db, topic, payload, reason, at)

    def dead_letters(self, device: str | None = None) -> list[DeadLetter]:
        """Return the kept dead letters, oldest first."""
        rows = self._read(
            """
            SELECT topic, device, payload, size_bytes, reason, received_ms FROM dead_letters
            WHERE :device IS NULL OR device = :device ORDER BY id
            """,
            {"device": device},
        )
        names = ("topic", "device", "payload", "size_bytes", "reason", "received_ms")
        return [DeadLetter(**dict(zip(names, row, strict=True))) for row in rows]

    def counts(self) -> list[DeviceCounts]:
        """Return the counts of every device heard of, by its name."""
        rows = self._read(_COUNTS, {})
        names = ("device", "windows", "events", "samples", "duplicates", "dead_letters", "missing")
        return [DeviceCounts(**dict(zip(names, row, strict=True))) for row in rows]

    # States

    def put_presence(self, device: str, presence: Presence, received_ms: int | None = None) -> bool:
        """Note birth or death; return False for one of an older boot, which is ignored."""
        at = _now_ms() if received_ms is None else received_ms
        row = (device, presence.boot, presence.online, at)
        with self._write() as db:
            return db.execute(_UPSERT_PRESENCE, row).rowcount > 0

    def presence(self) -> dict[str, Presence]:
        """Return who is online, by device."""
        rows = self._read("SELECT device, boot, online FROM presence ORDER BY device", {})
        return {name: Presence(boot=boot, online=bool(online)) for name, boot, online in rows}

    def put_reported(
        self, device: str, state: ReportedState, received_ms: int | None = None
    ) -> bool:
        """Note what a device says it runs; return False for an older boot, which is ignored."""
        at = _now_ms() if received_ms is None else received_ms
        row = (device, state.boot, wire.encode(state), at)
        with self._write() as db:
            return db.execute(_UPSERT_REPORTED, row).rowcount > 0

    def reported(self) -> dict[str, ReportedState]:
        """Return what every device last said it runs."""
        rows = self._read("SELECT device, document FROM reported ORDER BY device", {})
        return {name: wire.decode(ReportedState, document) for name, document in rows}

    def put_desired(self, device: str, state: DesiredState) -> None:
        """Set what a device should run; the server publishes it.

        Raises:
            DataError: Its `ver` is not above the present one, so the device would refuse it.
        """
        topics.checked_device_id(device)
        with self._write() as db:
            row = (device, state.ver, wire.encode(state))
            if db.execute(_UPSERT_DESIRED, row).rowcount == 0:
                raise DataError(
                    f"version {state.ver} of the desired state is not above the present one",
                    where=f"device {device}",
                    advice="Use the next version; devices refuse an old one.",
                )

    def desired(self) -> dict[str, DesiredState]:
        """Return what every device should run."""
        rows = self._read("SELECT device, document FROM desired ORDER BY device", {})
        return {name: wire.decode(DesiredState, document) for name, document in rows}

    def put_rollout(self, rollout_id: str, document: Mapping[str, Any]) -> None:
        """Keep a rollout's state, a JSON document, under its id."""
        with self._write() as db:
            db.execute(
                "INSERT INTO rollouts VALUES (?, ?) "
                "ON CONFLICT (id) DO UPDATE SET document = excluded.document",
                (rollout_id, json.dumps(dict(document))),
            )

    def rollouts(self) -> dict[str, dict[str, Any]]:
        """Return all rollouts' documents by id, in the order of their first storing."""
        rows = self._read("SELECT id, document FROM rollouts ORDER BY rowid", {})
        return {rollout_id: json.loads(document) for rollout_id, document in rows}

    # Access

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make one transaction of all calls inside: all are on the disk at its end, or none."""
        with self._write():
            yield

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, or a part of the one that this thread has begun."""
        with self._lock, database.explained(self.path):
            if self._writer.in_transaction:
                yield self._writer
                return
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                self._writer.rollback()  # nothing to do if a full disk has undone it already
                raise

    def _read(self, sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Query on a connection of its own, so that a long read never holds up the ingest."""
        with (
            database.explained(self.path),
            contextlib.closing(database.connect(self.path)) as db,
        ):
            return db.execute(sql, parameters).fetchall()

    def _messages(
        self,
        stream: Stream,
        device: str | None,
        model: str | None,
        since_ms: int | None,
        until_ms: int | None,
    ) -> list[tuple[Any, ...]]:
        return self._read(
            """
            SELECT device, at_ms, payload FROM messages
            WHERE stream = :stream
              AND (:device IS NULL OR device = :device)
              AND (:model IS NULL OR model = substr(:model, 1, 16))
              AND (:since IS NULL OR at_ms >= :since)
              AND (:until IS NULL OR at_ms < :until)
            ORDER BY at_ms, device, boot, seq
            """,
            {
                "stream": stream,
                "device": device,
                "model": model,
                "since": since_ms,
                "until": until_ms,
            },
        )


_UPSERT_LABEL = """
INSERT INTO labels (device, sample_id, label, labelled_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (device, sample_id) DO UPDATE
SET label = excluded.label, labelled_ms = excluded.labelled_ms
"""
_UPSERT_PRESENCE = """
INSERT INTO presence (device, boot, online, received_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (device) DO UPDATE
SET boot = excluded.boot, online = excluded.online, received_ms = excluded.received_ms
WHERE excluded.boot >= presence.boot
"""
_UPSERT_REPORTED = """
INSERT INTO reported (device, boot, document, received_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (device) DO UPDATE
SET boot = excluded.boot, document = excluded.document, received_ms = excluded.received_ms
WHERE excluded.boot >= reported.boot
"""
_UPSERT_DESIRED = """
INSERT INTO desired (device, ver, document) VALUES (?, ?, ?)
ON CONFLICT (device) DO UPDATE SET ver = excluded.ver, document = excluded.document
WHERE excluded.ver > desired.ver
"""
_COUNTS = """
WITH per_boot AS (
    SELECT device, boot, max(seq) - count(*) AS missing,
           sum(stream = 'tel') AS windows, sum(stream = 'evt') AS events,
           sum(stream = 'smp') AS samples
    FROM messages GROUP BY device, boot
), stored AS (
    SELECT device, sum(windows) AS windows, sum(events) AS events, sum(samples) AS samples,
           sum(missing) AS missing
    FROM per_boot GROUP BY device
), names AS (
    SELECT device FROM stored UNION SELECT device FROM counters UNION SELECT device FROM presence
)
SELECT names.device, coalesce(windows, 0), coalesce(events, 0), coalesce(samples, 0),
       coalesce(duplicates, 0), coalesce(dead_letters, 0), coalesce(missing, 0)
FROM names LEFT JOIN stored USING (device) LEFT JOIN counters USING (device)
WHERE names.device != '' ORDER BY names.device
"""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
