import pytest
from tests.support.devices import Device

from fieldloop import wire
from fieldloop.state import ReportedState
from fieldloop.telemetry import Ack, Event, FieldSample, TelemetryWindow
from fieldloop.testing.clock import FakeClock
from fieldloop.testing.transport import InMemoryBroker, InMemoryTransport
from fieldloop.topics import down, parse, up, up_filter
from fieldloop_device.agent import Agent

KINDS = {"tel": TelemetryWindow, "evt": Event, "smp": FieldSample}


class Cloud:
    """Home in memory: keeps what comes and, if it likes, acknowledges it."""

    def __init__(self, broker, *, acknowledges=True):
        self.broker = broker
        self.acknowledges = acknowledges
        self.messages = []
        self.reports = []
        self.presence = []
        self.transport = InMemoryTransport(broker, "cloud")
        self.transport.subscribe(up_filter(), self._hear)
        self.transport.connect()

    def _hear(self, message):
        address = parse(message.topic)
        message.ack()
        if address.channel == "rep":
            self.reports.append(wire.decode(ReportedState, message.payload))
        elif address.channel == "status":
            self.presence.append(message.payload)
        else:
            item = wire.decode(KINDS[address.channel], message.payload)
            self.messages.append(item)
            if self.acknowledges:
                self.acknowledge(item, address.device)

    def acknowledge(self, item, device="pump-1"):
        ack = Ack(boot=item.boot, ranges=((item.seq, item.seq),))
        self.transport.publish(down(device, "ack"), wire.encode(ack))

    def want(self, desired, device="pump-1"):
        self.transport.publish(down(device, "des"), wire.encode(desired), retain=True)

    def phases(self):
        """The reported phases in order, without repetitions."""
        phases = [report.phase for report in self.reports]
        return [
            phase for index, phase in enumerate(phases) if index == 0 or phases[index - 1] != phase
        ]

    def events(self, kind=None):
        return [
            item for item in self.messages if isinstance(item, Event) and kind in (None, item.kind)
        ]

    def last_report(self, device="pump-1"):
        return wire.decode(ReportedState, self.broker.retained(up(device, "rep")))


class Bench:
    """One device with a broker and a home in memory and a clock that stands still."""

    def __init__(self, path, **options):
        self.broker = InMemoryBroker()
        self.cloud = Cloud(self.broker)
        self.clock = FakeClock()
        self.device = Device(path, **options)
        self.agent = None

    def start(self, **options):
        self.agent = Agent(
            self.device.path,
            clock=self.clock,
            make_transport=lambda will: InMemoryTransport(self.broker, "pump-1", will=will),
            **options,
        )
        self.agent.start(threads=False)
        self.talk()
        return self.agent

    def die(self):
        """End the process without a word: only what is on disk survives."""
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.reporter.say_goodbye = lambda: None
            agent._stack.close()

    def talk(self):
        self.agent.record()
        while self.agent.pump():
            pass

    def run(self, *, predictions=3, steps=25):
        """Let the agent work until its update is at rest."""
        for _ in range(steps):
            self.agent.updater.step()
            for _ in range(predictions):
                self.agent.predict([1.0, 2.0])
            self.clock.advance(2_000)
            self.talk()


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(**options):
        made.append(Bench(tmp_path / f"device-{len(made)}", **options))
        return made[-1]

    yield make
    for item in made:
        item.die()
