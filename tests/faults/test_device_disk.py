"""A really full and a really read-only file system under a running agent."""

import os
import subprocess

import pytest
from tests.device.conftest import Cloud
from tests.support.device_process import DeviceProcess
from tests.support.devices import WEIGHTS, Device, desired, make_bundle, sha256_hex
from tests.support.file_server import serving

from fieldloop.state import HealthPolicy
from fieldloop.telemetry import TelemetryWindow
from fieldloop.testing.clock import FakeClock
from fieldloop.testing.transport import InMemoryBroker, InMemoryTransport
from fieldloop_device.agent import Agent

SIZE = 1 << 20
NEW = make_bundle(2, weights=-WEIGHTS)


def mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A file system of one mebibyte."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)):
        pytest.skip("mounting a small file system needs root")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk):
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


class Site:
    def __init__(self, disk):
        self.device = Device(disk / "device", settings="[telemetry]\nwindow_s = 1\n")
        self.broker = InMemoryBroker()
        self.cloud = Cloud(self.broker)
        self.clock = FakeClock()

    def start(self):
        self.agent = Agent(
            self.device.path,
            clock=self.clock,
            make_transport=lambda will: InMemoryTransport(self.broker, "pump-1", will=will),
        )
        return self.agent.start(threads=False)

    def live(self, rounds):
        for _ in range(rounds):
            assert self.agent.predict([1.0, 2.0]).label in {"good", "bad"}
            self.clock.advance(1_000)
            self.agent.updater.step()
            self.agent.record()
            while self.agent.pump():
                pass

    def counted(self):
        return sum(
            item.prediction_count
            for item in self.cloud.messages
            if isinstance(item, TelemetryWindow)
        )


@pytest.fixture
def site(disk):
    made = Site(disk)
    yield made
    made.agent._stack.close()


def test_a_full_disk_stops_no_prediction_and_loses_no_count(site, disk):
    site.start()
    site.live(5)
    filler = fill(disk)
    site.live(200)
    assert site.agent.status.fault
    filler.unlink()
    site.live(5)
    assert site.agent.status.fault == ""
    assert site.counted() == 210
    assert site.agent.outbox.dropped_count == 0
    assert site.agent.outbox.quarantined_count == 0


def test_a_device_starts_on_a_full_disk(site, disk):
    site.start()
    site.live(2)
    site.agent._stack.close()
    filler = fill(disk)
    assert site.start().boot == 2
    site.live(20)
    filler.unlink()
    site.live(3)
    site.agent._stack.close()
    assert site.start().boot == 3
    numbers = [(item.boot, item.seq) for item in site.cloud.messages]
    assert len(numbers) == len(set(numbers))


def test_an_update_on_a_full_disk_waits_and_leaves_nothing_half_written(site, disk):
    site.start()
    filler = fill(disk)
    with serving(NEW) as server:
        policy = HealthPolicy(min_predictions=2, min_duration_ms=0)
        site.cloud.want(desired(NEW, server.url, health=policy))
        site.live(20)
        assert site.agent.running_sha256 == site.device.sha256
        assert not list(site.device.root.slots.glob("*.part"))
        filler.unlink()
        site.clock.advance(60_000)
        site.broker.drop("pump-1")  # after many failures the wish must come again
        site.live(60)
    assert site.agent.running_sha256 == sha256_hex(NEW)
    assert site.agent.store.records.job.phase == "committed"


def test_a_read_only_disk_stops_no_prediction(disk):
    device = Device(disk / "device", settings="[telemetry]\nwindow_s = 0.05\n")
    with DeviceProcess(device.path) as process:
        process.ask([1.0, 2.0])
        # Lazily bound to another view, because open files forbid a remount of this one.
        assert mount("--bind", str(disk), str(disk))
        assert mount("-o", "remount,ro,bind", str(disk))
        for _ in range(20):
            assert process.ask([1.0, 2.0])["label"] == "bad"
        assert process.stop() == 0
    with DeviceProcess(device.path) as process:
        for _ in range(20):
            assert process.ask([1.0, 2.0])["label"] == "bad"
        assert process.stop() == 0
    assert "Traceback" not in process.errors
    subprocess.run(["umount", "-l", str(disk)], check=True)
