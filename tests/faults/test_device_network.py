"""What a network can do to a running device: swallow, lie, speak rubbish, or not be there."""

import socket
import subprocess
import sys
import threading
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.device.conftest import Bench
from tests.support.devices import WEIGHTS, Device, desired, make_bundle
from tests.support.file_server import serving
from tests.support.parts import missing
from tests.support.waiting import wait_until

from fieldloop import wire
from fieldloop.state import DesiredState, ShadowWish
from fieldloop.telemetry import Ack, TelemetryWindow
from fieldloop.topics import down
from fieldloop_device.agent import Agent

DEVICE = "pump-1"
EACH_SECOND = "[telemetry]\nwindow_s = 1\n"
WINDOWS = "[telemetry]\nwindow_s = 0.1\n"


@pytest.fixture
def swallower():
    """A broker's port behind which nobody ever answers; yields the port and who has called."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        callers = []
        thread = threading.Thread(target=_take_all, args=(server, callers), daemon=True)
        thread.start()
        yield server.getsockname()[1], callers
    for caller in callers:
        caller.close()


def _take_all(server, callers):
    while True:
        try:
            callers.append(server.accept()[0])
        except OSError:
            return


def test_a_broker_that_accepts_and_never_answers_stops_nothing(tmp_path, swallower):
    port, callers = swallower
    settings = f"[broker]\nhost = '127.0.0.1'\nport = {port}\ntls = false\n" + WINDOWS
    device = Device(tmp_path / "device", settings=settings)
    with Agent(device.path) as agent:
        wait_until(lambda: callers)
        for _ in range(5):
            assert agent.predict([1.0, 2.0]).label == "bad"
            count = agent.recorder.window_count
            wait_until(lambda before=count: agent.recorder.window_count > before)
        assert not agent.reporter.is_connected
        begin = time.monotonic()
    assert time.monotonic() - begin < 10
    with Agent(device.path) as agent:
        rows = [row.message() for row in agent.outbox.pending(limit=1_000)]
    assert sum(row.prediction_count for row in rows if isinstance(row, TelemetryWindow)) == 5


def test_what_a_broker_takes_and_nobody_stores_stays_in_the_outbox(tmp_path):
    made = Bench(tmp_path / "device", settings=EACH_SECOND)
    made.cloud.acknowledges = False  # the broker says PUBACK, home never hears of it
    agent = made.start()
    for _ in range(100):
        agent.predict([1.0, 2.0])
        made.clock.advance(60_000)
        made.talk()
    sent = {(item.boot, item.seq) for item in made.cloud.messages}
    kept = [row.message() for row in agent.outbox.pending(limit=10_000)]
    assert sent <= {(item.boot, item.seq) for item in kept}
    assert sum(item.prediction_count for item in kept if isinstance(item, TelemetryWindow)) == 100
    made.die()
    made.cloud.messages.clear()
    made.cloud.acknowledges = True
    agent = made.start()
    for _ in range(5):
        made.talk()
    assert agent.outbox.count == 0
    windows = [item for item in made.cloud.messages if isinstance(item, TelemetryWindow)]
    assert sum(item.prediction_count for item in windows) == 100
    made.die()


# Rubbish on every topic that a device listens to

CHANNELS = ("ack", "des")
SOUND = (
    wire.encode(Ack(boot=1, ranges=((1, 3),))),
    wire.encode(desired(make_bundle(2), "http://127.0.0.1:1/x.flb")),
    wire.encode(
        DesiredState(
            ver=3,
            sha256="0" * 64,
            size_bytes=10,
            url="file:///etc/passwd",
            shadow=ShadowWish(sha256="1" * 64, size_bytes=-5, url="http://127.0.0.1:1/"),
        )
    ),
)


@st.composite
def mutated(draw):
    """A sound payload with some bytes changed, cut or doubled."""
    payload = bytearray(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(payload) - 1, 0)))
        what = draw(st.sampled_from(["change", "cut", "double"]))
        if what == "cut":
            del payload[place : place + draw(st.integers(1, 8))]
        elif what == "double":
            payload[place:place] = payload[place : place + draw(st.integers(1, 8))]
        elif payload:
            payload[place] = draw(st.integers(0, 255))
    return bytes(payload)


numbers = st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3) | st.none()
documents = st.dictionaries(
    st.sampled_from(["v", "b", "r", "ver", "sha256", "size_bytes", "url", "shadow", "health"]),
    numbers | st.lists(st.lists(numbers, max_size=3), max_size=3),
).map(msgspec.json.encode)
payloads = st.binary(max_size=60) | documents | mutated()


@pytest.fixture(scope="module")
def living(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("rubbish") / "device", settings=EACH_SECOND)
    made.start()
    yield made
    made.die()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(channel=st.sampled_from(CHANNELS), payload=payloads)
def test_rubbish_from_home_ends_no_agent(living, channel, payload):
    agent, running = living.agent, living.agent.running_sha256
    unreadable = agent.status.unreadable_count
    before = agent.serving.answered_count
    living.cloud.transport.publish(down(DEVICE, channel), payload)
    assert agent.status.unreadable_count in {unreadable, unreadable + 1}
    agent._update()
    assert agent.predict([1.0, 2.0]).label == "bad"
    living.clock.advance(1_000)
    living.talk()
    assert agent.running_sha256 == running
    assert agent.serving.answered_count == before + 1
    windows = [item for item in living.cloud.messages if isinstance(item, TelemetryWindow)]
    assert windows[-1].prediction_count == 1
    living.cloud.messages.clear()


# Nothing there at all


def in_no_network(arguments):
    """Return the command that runs in a network namespace without any interface but a dead one."""
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    if probe.returncode:
        missing("a network namespace needs root and unshare")
    return ["unshare", "-n", *arguments]


def test_a_device_boots_and_predicts_without_network_clock_and_broker(tmp_path):
    settings = "[broker]\nhost = 'broker.invalid'\nport = 8883\ntls = false\n" + WINDOWS
    device = Device(tmp_path / "device", settings=settings)
    command = in_no_network([sys.executable, "-c", _OFFLINE, str(device.path)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers, is_synchronized, kept = msgspec.json.decode(done.stdout)
    assert answers == ["bad"] * 20
    assert is_synchronized is False
    assert kept == 20


_OFFLINE = """
import json, socket, sys
import fieldloop.clock
fieldloop.clock._is_synchronized = lambda: False  # a namespace shares the machine's clock
from fieldloop.telemetry import TelemetryWindow
from fieldloop_device import Agent
names = [name for _, name in socket.if_nameindex()]
assert set(names) <= {"lo"}, names
with Agent(sys.argv[1]) as agent:
    answers = [agent.predict([1.0, 2.0]).label for _ in range(20)]
    is_synchronized = agent._clock.read().synchronized
    agent.record(cut=True)
    rows = [row.message() for row in agent.outbox.pending(limit=1000)]
kept = sum(row.prediction_count for row in rows if isinstance(row, TelemetryWindow))
print(json.dumps([answers, is_synchronized, kept]))
"""


def test_stopping_does_not_wait_for_a_download_that_stands_still(tmp_path):
    bundle = make_bundle(2, weights=-WEIGHTS)
    sleeping = threading.Event()
    with serving(bundle, chunk_bytes=64) as server:
        begun = threading.Event()
        server.on_chunk = lambda: (begun.set(), sleeping.wait(30))
        agent = Agent(Device(tmp_path / "device").path).start()
        agent._hear_desired(desired(bundle, server.url))
        assert begun.wait(30)
        begin = time.monotonic()
        agent.stop()
        took_s = time.monotonic() - begin
        sleeping.set()
    assert took_s < 10  # the download's own patience is 15 s
    assert agent.store.records.job.phase == "downloading"


@pytest.mark.parametrize("channel", CHANNELS)
def test_what_cannot_be_read_is_counted(tmp_path, channel):
    made = Bench(tmp_path / "device")
    agent = made.start()
    for payload in (b"{", b"[]", b'{"b": "x"}', b"\xff"):
        made.cloud.transport.publish(down(DEVICE, channel), payload)
    assert agent.status.unreadable_count == 4
    made.die()
