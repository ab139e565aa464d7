"""What the device must not forget: boot counter, release floor, update job, denied hashes.

One document, stored twice: in `state.sqlite` (WAL, synchronous=FULL) and, sealed with a CRC, in
`state.copy`. Each version carries a number; at start the newest sound one counts, so a database
that was deleted or went rotten costs nothing, and above all lowers no floor.
"""

import contextlib
import sqlite3
from pathlib import Path

import msgspec

from fieldloop.device_root import DeviceRoot, Slot, seal, unseal, write_atomic
from fieldloop.errors import DataError, EnvironmentFaultError
from fieldloop.state import DesiredState, Phase, SelfTestReceipt

DENIED_LIMIT = 64
"""Hashes that are remembered as bad."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One update on its way.

    Attributes:
        desired: What the cloud wants.
        phase: Where it stands.
        slot: Where the new bundle lies; None until it is staged.
        previous: The slot to go back to.
        tries: Further starts of the agent that the trial may survive.
        attempts: Self-tests begun.
        rolling_back: The verdict is no; the pointer may not have followed yet.
        retry: A failure that may pass by itself, such as a network that was away.
        error: What went wrong; empty if nothing.
    """

    desired: DesiredState
    phase: Phase
    slot: Slot | None = None
    previous: Slot | None = None
    tries: int = 0
    attempts: int = 0
    rolling_back: bool = False
    retry: bool = False
    error: str = ""


class Records(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document.

    Attributes:
        revision: Grows with every change.
        boot: How often the agent has started.
        floor: Release counter of the newest committed bundle; older ones are refused.
        accepted_ver: Version of the newest desired state that was taken on.
        denied: Hashes of bundles that failed here, the newest last.
        job: The update in progress or the last one; None before the first.
        self_test: The last golden replay.
    """

    revision: int = 0
    boot: int = 0
    floor: int = 0
    accepted_ver: int = 0
    denied: tuple[str, ...] = ()
    job: Job | None = None
    self_test: SelfTestReceipt | None = None


def deny(records: Records, sha256: str) -> Records:
    """Return records that remember a hash as bad."""
    denied = (*(item for item in records.denied if item != sha256), sha256)[-DENIED_LIMIT:]
    return msgspec.structs.replace(records, denied=denied)


class RecordStore:
    """The two copies of the document.

    Args:
        root: The device's root.

    Attributes:
        records: The document as it is now.
        fault: Why the last change is not on disk; empty if it is.
    """

    def __init__(self, root: DeviceRoot) -> None:
        self._database = root.state
        self._copy = root.state_copy
        self.fault = ""
        found = [self._read_database(), _read_copy(self._copy)]
        self.records = max(
            (item for item in found if item is not None),
            key=lambda item: item.revision,
            default=Records(),
        )

    def put(self, records: Records) -> None:
        """Make a new version durable.

        Raises:
            EnvironmentFaultError: Neither copy could be written. The version counts in memory
                all the same; only what must not be forgotten should depend on this.
        """
        self.records = msgspec.structs.replace(records, revision=self.records.revision + 1)
        body = msgspec.json.encode(self.records)
        faults = []
        try:
            self._write_database(body)
        except sqlite3.Error as error:
            faults.append(str(error))
        try:
            write_atomic(self._copy, seal(body))
        except EnvironmentFaultError as error:
            faults.append(error.what)
        self.fault = "; ".join(faults)
        if len(faults) == 2:  # noqa: PLR2004 - both copies
            raise EnvironmentFaultError(
                f"the device's state cannot be stored: {self.fault}",
                where=str(self._database.parent),
                advice="Free disk space or check whether the root is mounted read-only.",
            )

    def put_if_possible(self, records: Records) -> None:
        """Like `put`, where going on matters more than remembering; `fault` says what failed."""
        with contextlib.suppress(EnvironmentFaultError):
            self.put(records)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._database, isolation_level=None, timeout=10.0)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS document "
                "(id INTEGER PRIMARY KEY CHECK (id = 1), body BLOB NOT NULL)"
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _write_database(self, body: bytes) -> None:
        statement = "INSERT OR REPLACE INTO document VALUES (1, ?)"
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.execute(statement, (body,))
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            # Rotten: its copy holds the truth, so it can be built anew.
            for suffix in ("", "-wal", "-shm"):
                self._database.with_name(self._database.name + suffix).unlink(missing_ok=True)
            with contextlib.closing(self._connect()) as connection:
                connection.execute(statement, (body,))

    def _read_database(self) -> Records | None:
        if not self._database.exists():
            return None
        try:
            with contextlib.closing(sqlite3.connect(self._database, timeout=10.0)) as connection:
                row = connection.execute("SELECT body FROM document").fetchone()
            return msgspec.json.decode(row[0], type=Records) if row else None
        except (sqlite3.Error, msgspec.DecodeError):
            return None


def _read_copy(path: Path) -> Records | None:
    try:
        return msgspec.json.decode(unseal(path.read_bytes()), type=Records)
    except (OSError, DataError, msgspec.DecodeError):
        return None
