"""The ingest: commit first, then acknowledge; nothing lost, nothing twice."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.waiting import wait_until

from fieldloop import topics, wire
from fieldloop.errors import EnvironmentFaultError
from fieldloop.state import Presence, ReportedState
from fieldloop.telemetry import Ack, Clock, Event, FieldSample, TelemetryWindow
from fieldloop.testing.transport import InMemoryBroker, InMemoryTransport
from fieldloop_cloud.fleet import ingest as ingest_module
from fieldloop_cloud.fleet.ingest import Ingest
from fieldloop_cloud.fleet.store import Store

NOW_MS = 1_800_000_000_000
CLOCK = Clock(mono_ms=60_000, wall_ms=NOW_MS)


def window(seq: int, *, boot: int = 1, count: int = 0) -> bytes:
    return wire.encode(
        TelemetryWindow(
            boot=boot,
            seq=seq,
            model="ab" * 8,
            start=CLOCK,
            end=CLOCK,
            sent=CLOCK,
            prediction_count=count,
        )
    )


class Home:
    """A broker, an ingest and a device that listens for acknowledgements."""

    def __init__(self, directory: Path) -> None:
        self.broker = InMemoryBroker()
        self.store = Store(directory / "store.sqlite")
        self.acks: list[Ack] = []
        self.device = InMemoryTransport(self.broker, "pump-1")
        self.device.subscribe(topics.down("pump-1", "ack"), self._hear)
        self.device.connect()
        self.transport = InMemoryTransport(self.broker, "svc.ingest")
        self.ingest = Ingest(self.store, self.transport, now_ms=lambda: NOW_MS)

    def _hear(self, message) -> None:
        self.acks.append(wire.decode(Ack, message.payload))
        message.ack()

    def start(self) -> None:
        self.ingest.start()
        self.transport.connect()

    def stop(self) -> None:
        self.transport.close()
        self.ingest.stop()

    def restart(self) -> None:
        """A new ingest process: what the old one had not acknowledged comes again."""
        self.ingest.stop()
        self.transport = InMemoryTransport(self.broker, "svc.ingest")
        self.ingest = Ingest(self.store, self.transport, now_ms=lambda: NOW_MS)
        self.start()

    def send(self, payload: bytes, channel="tel") -> None:
        self.device.publish(topics.up("pump-1", channel), payload)

    @property
    def acknowledged(self) -> list[tuple[int, int]]:
        return sorted(
            (ack.boot, number)
            for ack in self.acks
            for first, last in ack.ranges
            for number in range(first, last + 1)
        )

    @property
    def unacknowledged(self) -> int:
        """What the broker would send again."""
        return len(self.broker._sessions["svc.ingest"].unacknowledged)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    opened = Home(tmp_path)
    yield opened
    opened.stop()
    opened.store.close()


def test_all_streams_are_stored_and_acknowledged(home: Home):
    home.start()
    home.send(window(1, count=3))
    home.send(wire.encode(Event(boot=1, seq=2, at=CLOCK, kind="boot")), "evt")
    sample = FieldSample(boot=1, seq=3, at=CLOCK, model="m", sample_id="i", raw=[1.0])
    home.send(wire.encode(sample), "smp")
    wait_until(lambda: len(home.acknowledged) == 3)
    assert home.acknowledged == [(1, 1), (1, 2), (1, 3)]
    assert [item.window.prediction_count for item in home.store.windows()] == [3]
    assert [item.event.kind for item in home.store.events()] == ["boot"]
    assert [item.sample.sample_id for item in home.store.samples()] == ["i"]
    wait_until(lambda: home.unacknowledged == 0)


def test_a_batch_is_acknowledged_in_ranges_per_boot(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ingest_module, "MAX_BATCH_S", 0.5)
    home.start()
    for seq in (7, 2, 1, 3, 2):
        home.send(window(seq))
    home.send(window(1, boot=2))
    wait_until(lambda: len(home.acks) == 2)
    assert [(ack.boot, ack.ranges) for ack in home.acks] == [
        (1, ((1, 3), (7, 7))),
        (2, ((1, 1),)),
    ]


def test_a_duplicate_is_acknowledged_again_and_not_counted(home: Home):
    home.start()
    home.send(window(1, count=3))
    wait_until(lambda: home.acknowledged == [(1, 1)])
    home.send(window(1, count=3))
    wait_until(lambda: home.acknowledged == [(1, 1), (1, 1)])
    assert [item.window.prediction_count for item in home.store.windows()] == [3]
    assert home.store.counts()[0].duplicates == 1


def test_nothing_is_acknowledged_before_the_commit(home: Home, monkeypatch: pytest.MonkeyPatch):
    """The store holds the batch back; neither device nor broker may hear anything."""
    entered, go_on = threading.Event(), threading.Event()
    real = home.store.record_many

    def slow(batch):
        entered.set()
        assert go_on.wait(20)
        return real(batch)

    monkeypatch.setattr(home.store, "record_many", slow)
    home.start()
    home.send(window(1))
    assert entered.wait(20)
    assert home.acks == []
    assert home.unacknowledged == 1
    go_on.set()
    wait_until(lambda: home.acknowledged == [(1, 1)] and home.unacknowledged == 0)


def test_a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_space(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ingest_module, "RETRY_S", 0.01)
    pages = home.store._writer.execute("PRAGMA page_count").fetchone()[0]
    home.store._writer.execute(f"PRAGMA max_page_count = {pages}")
    home.start()
    for seq in range(1, 200):
        home.send(window(seq) + b" " * 500)
    wait_until(lambda: home.ingest.status.error is not None)
    assert isinstance(home.ingest.status.error, EnvironmentFaultError)
    assert home.acknowledged == [(1, seq) for seq in range(1, len(home.store.windows()) + 1)]
    home.store._writer.execute("PRAGMA max_page_count = 1000000")
    wait_until(lambda: len(home.acknowledged) == 199)
    assert home.ingest.status.error is None
    (counts,) = home.store.counts()
    assert (counts.windows, counts.duplicates, counts.missing) == (199, 0, 0)


def test_while_the_disk_is_full_the_ingest_can_be_stopped(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(home.store, "record_many", _full)
    home.start()
    home.send(window(1))
    wait_until(lambda: home.ingest.status.error is not None)
    home.stop()
    monkeypatch.undo()
    home.restart()
    wait_until(lambda: home.acknowledged == [(1, 1)])


def _full(_batch: object) -> list[str]:
    raise EnvironmentFaultError("the disk is full")


def test_a_batch_is_one_transaction(home: Home, monkeypatch: pytest.MonkeyPatch):
    """If its last part fails, its first part is not counted as a duplicate later."""
    monkeypatch.setattr(ingest_module, "RETRY_S", 0.01)
    failures = [1, 1, 1]
    real = home.store.put_presence

    def flaky(*arguments) -> bool:
        if failures:
            failures.pop()
            raise EnvironmentFaultError("the disk is full")
        return real(*arguments)

    monkeypatch.setattr(home.store, "put_presence", flaky)
    home.start()
    home.send(window(1))
    home.send(wire.encode(Presence(boot=1, online=True)), "status")
    wait_until(home.store.presence)
    wait_until(lambda: home.acknowledged == [(1, 1)])
    (counts,) = home.store.counts()
    assert (counts.windows, counts.duplicates) == (1, 0)


@pytest.mark.parametrize(
    ("payload", "acknowledged"),
    [
        (b"", []),
        (b"\xff\xfe", []),
        (b"[1, 2]", []),
        (b'{"b": 1, "q": 4, "h": 3}', [(1, 4)]),  # unreadable, but its number is known
        (b'{"v": 99, "b": 1, "q": 4}', [(1, 4)]),
        (b'{"b": 1, "q": 0, "h": "m"}', []),
        (b'{"b": 1, "q": 99999999999999999999999}', []),
        (b"[" * 100_000, []),
        (b" " * (wire.MAX_PAYLOAD_BYTES + 1), []),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_cannot_be_read_is_kept_and_does_not_come_again(
    home: Home, payload: bytes, acknowledged: list
):
    home.start()
    home.send(payload)
    home.send(window(1))
    wait_until(lambda: (1, 1) in home.acknowledged and home.unacknowledged == 0)
    (letter,) = home.store.dead_letters("pump-1")
    assert letter.size_bytes == len(payload)
    assert payload.startswith(letter.payload)
    assert letter.reason
    assert sorted(set(home.acknowledged) - {(1, 1)}) == acknowledged
    assert home.store.counts()[0].dead_letters == 1


def test_a_device_id_that_cannot_be_is_a_dead_letter(home: Home):
    home.start()
    home.device.publish("fl/v1/Pump 1/up/tel", window(1))
    home.device.publish("fl/v1/pump-1/up/nonsense/tel", window(1))
    wait_until(lambda: len(home.store.dead_letters()) == 2)
    assert home.store.windows() == []
    assert home.acks == []


def test_presence_and_reports_are_kept_and_stale_ones_ignored(home: Home):
    home.start()
    new = ReportedState(boot=3, running_sha256="a" * 64, phase="committed")
    home.send(wire.encode(Presence(boot=3, online=True)), "status")
    home.send(wire.encode(new), "rep")
    home.send(wire.encode(Presence(boot=2, online=False)), "status")
    home.send(wire.encode(ReportedState(boot=2)), "rep")
    home.send(window(1))
    wait_until(lambda: home.acknowledged == [(1, 1)])
    assert home.store.presence() == {"pump-1": Presence(boot=3, online=True)}
    assert home.store.reported() == {"pump-1": new}


def test_an_acknowledgement_that_cannot_be_sent_is_made_up_for(home: Home):
    """The line breaks between commit and acknowledgement."""
    real = home.store.record_many

    def record_and_break(batch):
        outcomes = real(batch)
        home.broker.drop("svc.ingest", reconnect=False)
        return outcomes

    home.store.record_many = record_and_break
    home.start()
    home.send(window(1))
    wait_until(lambda: not home.transport.is_connected)
    wait_until(home.store.windows)
    home.store.record_many = real
    home.restart()
    wait_until(lambda: home.acknowledged == [(1, 1)])
    assert home.unacknowledged == 0
    (counts,) = home.store.counts()
    assert (counts.windows, counts.duplicates) == (1, 1)


def test_stopping_stores_what_has_come(home: Home):
    home.start()
    for seq in range(1, 501):
        home.send(window(seq))
    home.ingest.stop()
    assert len(home.store.windows()) == 500
    assert home.acknowledged == [(1, seq) for seq in range(1, 501)]
