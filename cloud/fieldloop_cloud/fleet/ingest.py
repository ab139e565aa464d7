"""From MQTT into the store, and only then the acknowledgement.

Messages are taken as they come, stored in batches of one transaction each, and after the commit
acknowledged twice: to the device on `down/ack`, which lets it empty its outbox, and to the broker.
If this process dies before the commit the broker sends everything again; if it dies after it, the
device does, and the store knows what it has. So an acknowledgement may be lost and a message may
come twice, but nothing is lost and nothing counts twice.

What cannot be read becomes a dead letter and is acknowledged to the broker, or it would come back
for ever. If its number can be read it is acknowledged to the device too: a device cannot mend a
message, it would only send it again, and the dead letter keeps it.

While the store cannot be written (a full disk) nothing is acknowledged; the batch is kept and
tried again, and the broker holds back more than its window of unacknowledged messages.
"""

import contextlib
import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Annotated, Final, Self, cast

import msgspec

from fieldloop import topics, wire
from fieldloop.errors import DataError, EnvironmentFaultError, NotConnectedError
from fieldloop.state import Presence, ReportedState
from fieldloop.telemetry import Ack, Stream
from fieldloop.transport import Message, Transport
from fieldloop_cloud.fleet.recording import KINDS
from fieldloop_cloud.fleet.records import Incoming
from fieldloop_cloud.fleet.store import Store

logger = logging.getLogger(__name__)

MAX_BATCH: Final = 200
"""Messages in one transaction, at most."""

MAX_BATCH_S: Final = 0.05
"""How long the first message of a batch waits for others, at most."""

RETRY_S: Final = 1.0
"""How long to wait before a store that failed is tried again."""


@dataclass(slots=True)
class IngestStatus:
    """How the ingest is doing; read it at any time.

    Attributes:
        received: Messages taken from the broker.
        committed: Messages of all kinds whose transaction has committed.
        error: Why the store cannot be written at the moment; None if it can.
    """

    received: int = 0
    committed: int = 0
    error: EnvironmentFaultError | None = None


_INT64_MAX = 2**63 - 1


class _Number(msgspec.Struct):
    """Reads the number of a message that is otherwise unreadable."""

    b: Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]
    q: Annotated[int, msgspec.Meta(ge=1, le=_INT64_MAX)]


@dataclass(slots=True)
class _Batch:
    """Messages of one transaction, by what is to be done with them."""

    messages: list[Message] = field(default_factory=list)
    numbered: list[Incoming] = field(default_factory=list)
    states: list[tuple[str, Presence | ReportedState, int]] = field(default_factory=list)
    unreadable: list[tuple[Message, str, int]] = field(default_factory=list)
    acknowledge: dict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(list))


class Ingest:
    """Reads `fl/v1/+/up/#` into a store; see the module.

    Subscribe by `start` before the transport is connected, so that nothing arrives unheard.

    Args:
        store: Where to.
        transport: Where from; connected and closed by the caller.
        now_ms: Our clock, milliseconds since 1970 UTC.
    """

    def __init__(
        self,
        store: Store,
        transport: Transport,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.status = IngestStatus()
        self._store = store
        self._transport = transport
        self._now_ms = now_ms
        self._queue: queue.SimpleQueue[tuple[Message, int] | None] = queue.SimpleQueue()
        self._enough = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Subscribe and start to store."""
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._thread.start()
        self._transport.subscribe(topics.up_filter(), self._take)

    def stop(self) -> None:
        """Store what has come and stop; may be called again.

        What the store does not take now stays unacknowledged and comes again.
        """
        self._stopping.set()
        self._queue.put(None)
        self._enough.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _take(self, message: Message) -> None:
        """Take one message from the transport's thread."""
        self.status.received += 1
        self._queue.put((message, self._now_ms()))
        if self._queue.qsize() >= MAX_BATCH:
            self._enough.set()

    def _run(self) -> None:
        ended = False
        while not ended:
            taken, ended = self._collect()
            if taken:
                self._commit(_sorted_out(taken))

    def _collect(self) -> tuple[list[tuple[Message, int]], bool]:
        """Wait for a batch; also say whether it is the last."""
        item = self._queue.get()
        if self._queue.qsize() < MAX_BATCH - 1:
            # One sleep, not a wake-up for each message: that would cost more than storing it.
            self._enough.wait(MAX_BATCH_S)
        self._enough.clear()
        taken: list[tuple[Message, int]] = []
        while item is not None:
            taken.append(item)
            if len(taken) == MAX_BATCH or self._queue.empty():
                return taken, False
            item = self._queue.get()
        return taken, True

    def _commit(self, batch: _Batch) -> None:
        """Store a batch, trying for as long as it takes, then acknowledge it."""
        while not self._written(batch):
            if self._stopping.wait(RETRY_S):
                return
        self.status.committed += len(batch.messages)
        # The device first: if we die between the two, the broker repeats the message and the
        # device is told again; the other way round it would wait for its own timeout.
        self._acknowledge(batch)
        for message in batch.messages:
            message.ack()

    def _written(self, batch: _Batch) -> bool:
        """Try to store a batch in one transaction; say whether it is stored."""
        try:
            with self._store.transaction():
                if batch.numbered:
                    self._store.record_many(batch.numbered)
                for device, state, received_ms in batch.states:
                    if isinstance(state, Presence):
                        self._store.put_presence(device, state, received_ms)
                    else:
                        self._store.put_reported(device, state, received_ms)
                for message, reason, received_ms in batch.unreadable:
                    self._store.dead_letter(message.topic, message.payload, reason, received_ms)
        except EnvironmentFaultError as error:
            if self.status.error is None:
                logger.error("nothing is stored or acknowledged: %s", error)  # noqa: TRY400
            self.status.error = error
            return False
        if self.status.error is not None:
            logger.warning("the store can be written again")
            self.status.error = None
        return True

    def _acknowledge(self, batch: _Batch) -> None:
        """Tell the devices what is stored; if that fails they send it again."""
        for (device, boot), numbers in batch.acknowledge.items():
            ack = Ack(boot=boot, ranges=_ranges(numbers))
            with contextlib.suppress(NotConnectedError):
                self._transport.publish(topics.down(device, "ack"), wire.encode(ack))


def _sorted_out(taken: Iterable[tuple[Message, int]]) -> _Batch:
    """Read messages and say what is to be done with each."""
    batch = _Batch()
    for message, received_ms in taken:
        batch.messages.append(message)
        try:
            _read(message, received_ms, batch)
        except DataError as error:
            logger.warning("%s: %s", message.topic, error)
            batch.unreadable.append((message, str(error), received_ms))
            _acknowledge_unreadable(message, batch)
    return batch


def _read(message: Message, received_ms: int, batch: _Batch) -> None:
    address = topics.parse(message.topic)
    device, channel = address.device, address.channel
    if channel in KINDS:
        stream = cast("Stream", channel)
        numbered = wire.decode(KINDS[stream], message.payload)
        if numbered.boot < 0 or numbered.seq < 1:
            raise DataError(f"boot {numbered.boot} and seq {numbered.seq} cannot be")
        batch.numbered.append(
            Incoming(
                device=device,
                stream=stream,
                message=numbered,
                payload=message.payload,
                received_ms=received_ms,
            )
        )
        batch.acknowledge[device, numbered.boot].append(numbered.seq)
    elif channel in {"status", "rep"} and not message.payload:
        pass  # somebody has cleared what was retained
    elif channel == "status":
        batch.states.append((device, wire.decode(Presence, message.payload), received_ms))
    elif channel == "rep":
        batch.states.append((device, wire.decode(ReportedState, message.payload), received_ms))
    else:
        raise DataError(f"this release reads nothing on '{channel}'")


def _acknowledge_unreadable(message: Message, batch: _Batch) -> None:
    """Let a device forget a message that it cannot mend, if we can tell which it is."""
    with contextlib.suppress(DataError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        address = topics.parse(message.topic)
        if address.channel in KINDS and len(message.payload) <= wire.MAX_PAYLOAD_BYTES:
            number = msgspec.json.decode(message.payload, type=_Number)
            batch.acknowledge[address.device, number.b].append(number.q)


def _ranges(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Join numbers into inclusive ranges.

    Example:
        >>> _ranges([3, 1, 2, 7])
        ((1, 3), (7, 7))
    """
    ranges: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return tuple(ranges)
