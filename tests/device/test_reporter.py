import itertools
import json

import pytest
from msgspec.structs import replace
from tests.device.conftest import Cloud

from fieldloop import wire
from fieldloop.state import ReportedState
from fieldloop.telemetry import Ack, Clock, TelemetryWindow
from fieldloop.testing.clock import FakeClock
from fieldloop.testing.transport import InMemoryBroker, InMemoryTransport
from fieldloop.topics import down, up
from fieldloop_device.outbox import Outbox
from fieldloop_device.reporter import ACK_TIMEOUT_MS, IN_FLIGHT_LIMIT, Reporter, death

NOW = Clock(mono_ms=1, wall_ms=1)
DEVICE = "pump-1"


def window(count=1):
    return TelemetryWindow(boot=0, seq=0, model="m", start=NOW, end=NOW, prediction_count=count)


class Setup:
    def __init__(self, path, *, acknowledges=True):
        self.broker = InMemoryBroker()
        self.cloud = Cloud(self.broker, acknowledges=acknowledges)
        self.clock = FakeClock()
        self.outbox = Outbox(path / "outbox.sqlite", max_bytes=1 << 24)
        self.outbox.begin(4)
        self.wishes = []
        self.connect()

    def connect(self):
        self.transport = InMemoryTransport(self.broker, DEVICE, will=death(DEVICE, 4))
        self.reporter = Reporter(
            DEVICE,
            4,
            outbox=self.outbox,
            transport=self.transport,
            clock=self.clock,
            on_desired=self.wishes.append,
        )
        self.transport.connect()

    def pump(self, times=50):
        return sum(self.reporter.pump() for _ in range(times))

    @property
    def numbers(self):
        return [item.seq for item in self.cloud.messages]


@pytest.fixture
def setup(tmp_path):
    made = []

    def make(**options):
        made.append(Setup(tmp_path, **options))
        return made[-1]

    yield make
    for item in made:
        item.outbox.close()


def test_messages_go_in_order_and_leave_when_they_are_acknowledged(setup):
    s = setup()
    s.outbox.append([window(n) for n in range(200)])
    s.pump()
    assert s.numbers == list(range(1, 201))
    assert [item.prediction_count for item in s.cloud.messages] == list(range(200))
    assert s.outbox.count == 0
    assert s.reporter.in_flight_count == 0


def test_without_acknowledgements_everything_stays_and_few_are_on_their_way(setup):
    s = setup(acknowledges=False)
    s.outbox.append([window()] * 200)
    s.pump()
    assert s.numbers == list(range(1, IN_FLIGHT_LIMIT + 1))
    assert s.outbox.count == 200
    s.cloud.acknowledge(replace(window(), boot=4, seq=1))
    s.pump()
    assert s.numbers == list(range(1, IN_FLIGHT_LIMIT + 2))


def test_the_moment_of_sending_is_stamped_not_stored(setup):
    s = setup()
    s.outbox.append([window()])
    s.clock.advance(12_345)
    s.pump()
    assert s.cloud.messages[0].sent == s.clock.read()
    assert s.cloud.messages[0].end == NOW


def test_what_is_not_acknowledged_in_time_goes_out_again_with_growing_patience(setup):
    s = setup(acknowledges=False)
    s.outbox.append([window()] * 2)
    times = []
    for _ in range(100):
        before = len(s.numbers)
        s.pump(2)
        if len(s.numbers) > before:
            times.append(s.clock.mono_ms)
        s.clock.advance(ACK_TIMEOUT_MS // 4)
    assert s.numbers[:4] == [1, 2, 1, 2]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 3 * gaps[0]
    s.cloud.acknowledges = True
    s.clock.advance(400_000)
    s.pump()
    assert s.outbox.count == 0


def test_only_what_is_missing_is_sent_again(setup):
    s = setup(acknowledges=False)
    s.outbox.append([window()] * 5)
    s.pump()
    s.transport_messages = list(s.numbers)
    s.cloud.transport.publish(
        down(DEVICE, "ack"), wire.encode(Ack(boot=4, ranges=((1, 2), (4, 5))))
    )
    s.clock.advance(ACK_TIMEOUT_MS * 3)
    s.pump()
    assert s.numbers[5:] == [3]


def test_a_new_connection_starts_over_at_the_oldest(setup):
    s = setup(acknowledges=False)
    s.outbox.append([window()] * 3)
    s.pump()
    s.broker.stop()
    assert s.pump() == 0
    s.outbox.append([window()])
    s.cloud.acknowledges = True
    s.broker.start()
    s.pump()
    assert s.numbers[3:] == [1, 2, 3, 4]
    assert s.outbox.count == 0


def test_old_boots_go_first(setup):
    s = setup()
    s.broker.stop()
    s.outbox.append([window(1)])
    s.outbox.begin(5)
    s.outbox.append([window(2)])
    s.broker.start()
    s.pump()
    assert [(m.boot, m.seq) for m in s.cloud.messages] == [(4, 1), (5, 1)]


def test_acknowledgements_of_rubbish_and_of_other_boots_delete_nothing(setup):
    s = setup(acknowledges=False)
    s.outbox.append([window()])
    s.pump()
    for payload in (b"rubbish", wire.encode(Ack(boot=3, ranges=((1, 9),)))):
        s.cloud.transport.publish(down(DEVICE, "ack"), payload)
    assert s.outbox.count == 1
    s.cloud.transport.publish(down(DEVICE, "des"), b"rubbish")
    s.cloud.transport.publish(down(DEVICE, "des"), b"", retain=True)
    assert s.wishes == []


def test_what_could_not_be_marked_is_not_sent(setup, monkeypatch):
    s = setup()
    s.outbox.append([window()])
    monkeypatch.setattr(s.outbox, "mark_sent", lambda _number: False)
    s.pump()
    assert s.numbers == []


def presence(s):
    document = json.loads(s.broker.retained(up(DEVICE, "status")))
    return document["boot"], document["online"]


def test_birth_and_death_name_the_same_boot(setup):
    s = setup()
    s.pump()
    assert presence(s) == (4, True)
    s.broker.drop(DEVICE, reconnect=False)
    assert presence(s) == (4, False)


def test_a_reconnect_is_a_birth_again_and_a_goodbye_is_a_death(setup):
    s = setup()
    s.pump()
    s.broker.drop(DEVICE)
    s.pump()
    assert presence(s) == (4, True)
    s.reporter.say_goodbye()
    s.transport.close()
    assert presence(s) == (4, False)


def test_the_reported_state_is_retained_and_repeated_at_every_connection(setup):
    s = setup()
    s.reporter.report(ReportedState(boot=4, phase="trial"))
    s.pump()
    s.reporter.report(ReportedState(boot=4, phase="committed"))
    s.pump()
    assert [report.phase for report in s.cloud.reports] == ["trial", "committed"]
    assert s.cloud.last_report().phase == "committed"
    s.broker.stop()
    s.reporter.report(ReportedState(boot=4, phase="rolled-back"))
    s.pump()
    s.broker.start()
    s.pump()
    assert [report.phase for report in s.cloud.reports][-1] == "rolled-back"


def test_a_broker_that_takes_and_drops_loses_nothing(setup, monkeypatch):
    s = setup()
    s.outbox.append([window()] * 100)
    publish = s.transport.publish
    count = 0

    def lossy(topic, payload, **options):
        nonlocal count
        count += 1
        if topic.endswith("/tel") and count % 3:
            return
        publish(topic, payload, **options)

    monkeypatch.setattr(s.transport, "publish", lossy)
    for _ in range(60):
        s.pump(3)
        s.clock.advance(ACK_TIMEOUT_MS * 2)
    assert sorted(set(s.numbers)) == list(range(1, 101))
    assert s.outbox.count == 0
