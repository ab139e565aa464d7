"""kill -9 of a real device process: what it had stored arrives once, its update ends well."""

import contextlib
import os
import queue
import random
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.brokers import needs_mosquitto
from tests.support.device_process import DeviceProcess
from tests.support.devices import WEIGHTS, Device, desired, make_bundle, sha256_hex
from tests.support.file_server import serving
from tests.support.waiting import wait_until

from fieldloop import wire
from fieldloop.mqtt import MqttSettings, MqttTransport
from fieldloop.state import HealthPolicy, ReportedState
from fieldloop.topics import down, parse, up_filter
from fieldloop_cloud.fleet.broker import MosquittoBroker
from fieldloop_cloud.fleet.ingest import Ingest
from fieldloop_cloud.fleet.store import Store

NEW = make_bundle(2, weights=-WEIGHTS)
WINDOW_S = 0.1
KILLS = int(os.environ.get("FIELDLOOP_KILLS", "12"))
"""How many lives the battery takes; a thousand need about half an hour."""
LONGEST_LIFE_S = 2.5
DEVICE = "pump-1"

pytestmark = [pytest.mark.slow, needs_mosquitto]


@dataclass
class Home:
    """A real broker, a real ingest with its store, and what the devices report."""

    port: int
    store: Store
    transport: MqttTransport
    ingest: Ingest
    reports: list[ReportedState] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def hear(self, message):
        message.ack()
        if parse(message.topic).channel == "rep":
            with self.changed:
                self.reports.append(wire.decode(ReportedState, message.payload))
                self.changed.notify_all()

    def wait_for_phase(self, *phases, timeout_s=60.0):
        with self.changed:
            reached = self.changed.wait_for(
                lambda: self.reports and self.reports[-1].phase in phases, timeout_s
            )
        assert reached, f"reported: {[report.phase for report in self.reports]}"
        return self.reports[-1]

    def want(self, wish):
        self.transport.publish(down(DEVICE, "des"), wire.encode(wish), retain=True)


@pytest.fixture
def home(tmp_path):
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(MosquittoBroker(tmp_path / "broker"))
        transports = [
            MqttTransport(
                MqttSettings(host="127.0.0.1", port=broker.port, client_id=name, clean_start=True)
            )
            for name in ("ingest", "watch")
        ]
        store = stack.enter_context(Store(tmp_path / "store.sqlite"))
        ingest = stack.enter_context(Ingest(store, transports[0]))
        made = Home(broker.port, store, transports[1], ingest)
        made.transport.subscribe(up_filter("rep"), made.hear)
        for transport in transports:
            stack.enter_context(transport)
        yield made


def make_device(path: Path, port: int) -> Device:
    settings = (
        f"[broker]\nhost = '127.0.0.1'\nport = {port}\ntls = false\n"
        f"[telemetry]\nwindow_s = {WINDOW_S}\n"
    )
    return Device(path, settings=settings)


def stored_numbers(device: Device) -> set[tuple[int, int]]:
    """What the outbox holds right now, read as after a power cut."""
    with (
        contextlib.closing(sqlite3.connect(device.root.outbox)) as connection,
        contextlib.suppress(sqlite3.OperationalError),  # killed before its first table
    ):
        return set(connection.execute("SELECT boot, seq FROM message"))
    return set()


@pytest.mark.timeout(300 + 5 * KILLS)
def test_random_kills_lose_no_stored_message_and_count_none_twice(tmp_path, home):
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    device = make_device(tmp_path / "device", home.port)
    stored: set[tuple[int, int]] = set()
    answered = 0
    with serving(NEW) as server:
        home.want(desired(NEW, server.url, health=HealthPolicy(min_predictions=20)))
        for _ in range(KILLS):
            with DeviceProcess(device.path) as process:
                _feed(process, until=time.monotonic() + chance.uniform(0.0, LONGEST_LIFE_S))
                process.kill()
                answered += process.answered_count
            stored |= stored_numbers(device)
        with DeviceProcess(device.path) as process:
            process.ask([1.0, 2.0])
            wait_until(lambda: _is_at_rest(home, process), what=f"the update, seed {seed}")
            assert process.stop() == 0
            answered += process.answered_count
    stored |= stored_numbers(device)

    def arrived():
        windows = {(item.window.boot, item.window.seq) for item in home.store.windows(DEVICE)}
        events = {(item.event.boot, item.event.seq) for item in home.store.events(DEVICE)}
        samples = {(item.sample.boot, item.sample.seq) for item in home.store.samples()}
        return windows | events | samples

    if stored - arrived():  # what the last stop could not wait for is sent by the next start
        with DeviceProcess(device.path) as process:
            wait_until(lambda: not stored - arrived(), what=f"the rest, seed {seed}")
            process.stop()
    assert stored, "the kills must have hit a filled outbox"
    (counts,) = home.store.counts()
    assert (counts.missing, counts.dead_letters) == (0, 0), f"seed {seed}"
    counted = sum(item.window.prediction_count for item in home.store.windows(DEVICE))
    assert counted <= answered + KILLS, f"seed {seed}: counted twice"
    assert counted > answered / 2, f"seed {seed}: only what was in memory may be missing"


def _feed(process: DeviceProcess, *, until: float) -> None:
    """Keep a device busy; the end may come at any moment of its start or of its work."""
    with contextlib.suppress(queue.Empty):
        while (left_s := until - time.monotonic()) > 0:
            process.ask([1.0, 2.0], timeout_s=left_s)
            time.sleep(0.001)


def _is_at_rest(home, process) -> bool:
    process.ask([1.0, 2.0])
    report = home.reports[-1] if home.reports else None
    return report is not None and report.phase in {"committed", "rolled-back"}


@pytest.mark.parametrize(
    "phase", ["downloading", "verified", "staged", "self-test", "trial", "committed"]
)
def test_a_kill_in_any_phase_of_an_update_ends_with_the_new_model(tmp_path, home, phase):
    device = make_device(tmp_path / "device", home.port)
    # Slow enough to be caught while it downloads.
    with serving(NEW, chunk_bytes=512, pause_s=0.02) as server:
        with DeviceProcess(device.path) as process:
            process.ask([1.0, 2.0])
            home.want(desired(NEW, server.url, health=HealthPolicy(min_predictions=5)))
            if phase == "committed":
                wait_until(lambda: _is_at_rest(home, process))
            else:
                home.wait_for_phase(phase)
            process.kill()
        with DeviceProcess(device.path) as process:
            wait_until(lambda: _is_at_rest(home, process), timeout_s=60)
            answer = process.ask([1.0, 2.0])
            assert process.stop() == 0
    assert (answer["model"], answer["label"]) == (sha256_hex(NEW), "good")
    assert home.reports[-1].running_sha256 == sha256_hex(NEW)
    assert "Traceback" not in process.errors
