"""The local broker: who may say and hear what, its port, its life and its end."""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.support.brokers import DEVICES, Site, client, needs_mosquitto
from tests.support.homes import free_port
from tests.support.waiting import wait_until

from fieldloop.errors import ConfigError, EnvironmentFaultError, RefusedError
from fieldloop_cloud.fleet import mosquitto
from fieldloop_cloud.fleet.broker import Broker, EmbeddedBroker, MosquittoBroker, local_broker

KINDS = [pytest.param(MosquittoBroker, marks=needs_mosquitto, id="mosquitto"), EmbeddedBroker]


@pytest.fixture(params=KINDS)
def secured(request: pytest.FixtureRequest, tmp_path: Path, site: Site) -> Iterator[Broker]:
    """Each kind with TLS; only the first device is provisioned."""
    with request.param(tmp_path / "broker", tls=site.server, devices=DEVICES[:1]) as broker:
        yield broker


class Hearing:
    """Subscribes as a client and remembers what came and what was refused."""

    def __init__(self, broker: Broker, site: Site, name: str, *filters: str) -> None:
        self.errors: list[Exception] = []
        self.heard: list[tuple[str, bytes]] = []
        self.transport = client(broker, name, site=site, errors=self.errors)
        for topic_filter in filters:
            self.transport.subscribe(topic_filter, self._hear)

    def _hear(self, message) -> None:
        self.heard.append((message.topic, message.payload))
        message.ack()

    def __enter__(self):
        self.transport.connect()
        return self

    def __exit__(self, *_exc):
        self.transport.close()


@pytest.mark.parametrize(
    "topic_filter",
    [
        "fl/v1/+/up/#",
        "fl/v1/pump-2/up/tel",
        "fl/v1/pump-2/down/des",
        "fl/v1/#",
        "#",
        "$share/ing/fl/v1/+/up/#",
        "$CONTROL/dynamic-security/v1/response",
    ],
)
def test_a_device_hears_nothing_that_is_not_for_it(secured: Broker, site: Site, topic_filter: str):
    with (
        Hearing(secured, site, "svc.ingest", "fl/v1/+/up/#") as ingest,
        Hearing(secured, site, "pump-1", "fl/v1/pump-1/down/+", topic_filter) as device,
    ):
        wait_until(lambda: device.errors, what="the subscription to be refused")
        for number in range(4):
            ingest.transport.publish("fl/v1/pump-2/up/tel", b"%d" % number)
            ingest.transport.publish("fl/v1/pump-2/down/des", b"%d" % number)
        ingest.transport.publish("fl/v1/pump-1/down/cmd", b"last")
        wait_until(lambda: ("fl/v1/pump-1/down/cmd", b"last") in device.heard)
        wait_until(lambda: len(ingest.heard) == 4, what="all telemetry at the ingest")
    assert {topic for topic, _ in device.heard} == {"fl/v1/pump-1/down/cmd"}
    assert all(isinstance(error, RefusedError) for error in device.errors)


@pytest.mark.parametrize(
    "topic",
    [
        "fl/v1/pump-2/up/tel",
        "fl/v1/pump-1/down/ack",
        "fl/v1/pump-2/down/des",
        "fl/v1/pump-1/up/tel/more",
        "$CONTROL/dynamic-security/v1",
    ],
)
def test_a_device_speaks_only_for_itself(secured: Broker, site: Site, topic: str):
    with (
        Hearing(secured, site, "svc.ingest", "fl/v1/#") as ingest,
        Hearing(secured, site, "pump-1") as device,
    ):
        device.transport.publish(topic, b"spoofed")
        wait_until(lambda: device.transport._in_flight == 0, what="the broker to have seen it")
        ingest.transport.publish("fl/v1/pump-1/down/cmd", b"later")
        wait_until(lambda: ingest.heard)
    assert b"spoofed" not in [payload for _, payload in ingest.heard]


def _sent(device: Hearing, topic: str, payload: bytes) -> bool:
    # The embedded broker may close the connection of a client that oversteps.
    try:
        device.transport.publish(topic, payload)
    except Exception:  # noqa: BLE001 - not connected: try again
        return False
    return True


def test_a_device_cannot_take_over_anothers_session(secured: Broker, site: Site):
    """It shows its own certificate and the ingest's client id."""
    with Hearing(secured, site, "svc.ingest", "fl/v1/+/up/#") as ingest:
        thief_site = Site(site.directory)
        thief_site.clients["svc.ingest"] = site.clients["pump-1"]
        thief = Hearing(secured, thief_site, "svc.ingest", "fl/v1/+/up/#")
        if secured.kind == "amqtt":
            with pytest.raises(RefusedError, match="authorized"):
                thief.transport.connect()
        thief.transport.connect(timeout_s=0)  # mosquitto gives it the session of its own name
        with Hearing(secured, site, "pump-1") as device:
            for number in range(5):
                payload = b"%d" % number
                wait_until(lambda payload=payload: _sent(device, "fl/v1/pump-1/up/tel", payload))
            wait_until(lambda: len({payload for _, payload in ingest.heard}) == 5)
        thief.transport.close()
    assert thief.heard == []


def test_a_device_that_is_not_provisioned_can_do_nothing_until_it_is(secured: Broker, site: Site):
    with Hearing(secured, site, "svc.ingest", "fl/v1/+/up/#") as ingest:
        stranger = Hearing(secured, site, "pump-2")
        stranger.transport.connect(timeout_s=0)
        _sent(stranger, "fl/v1/pump-2/up/tel", b"early")
        secured.admit("pump-2", ingest.transport)

        def heard_it() -> bool:
            _sent(stranger, "fl/v1/pump-2/up/tel", b"admitted")
            return ("fl/v1/pump-2/up/tel", b"admitted") in ingest.heard

        wait_until(heard_it)
        stranger.transport.close()
    assert (("fl/v1/pump-2/up/tel", b"early")) not in ingest.heard
    secured.stop()
    secured.start()
    with (
        Hearing(secured, site, "svc.ingest", "fl/v1/+/up/#") as ingest,
        Hearing(secured, site, "pump-2") as device,
    ):
        device.transport.publish("fl/v1/pump-2/up/tel", b"again")
        wait_until(lambda: ("fl/v1/pump-2/up/tel", b"again") in ingest.heard)


@needs_mosquitto
def test_mosquitto_keeps_sessions_and_retained_messages_over_a_restart(tmp_path: Path, site: Site):
    with MosquittoBroker(tmp_path / "broker", tls=site.server, devices=DEVICES) as broker:
        with Hearing(broker, site, "pump-1", "fl/v1/pump-1/down/+"):
            pass
        with Hearing(broker, site, "svc.ingest") as ingest:
            ingest.transport.publish("fl/v1/pump-1/down/cmd", b"while away")
            ingest.transport.publish("fl/v1/pump-1/down/des", b"kept", retain=True)
            wait_until(lambda: ingest.transport._in_flight == 0)
        port = broker.port
        broker.stop()
        assert not broker.is_running
        broker.start()
        assert broker.port == port
        with Hearing(broker, site, "pump-1", "fl/v1/pump-1/down/+") as device:
            wait_until(lambda: len({payload for _, payload in device.heard}) == 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_taken_port_is_told(kind: type[Broker], tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        broker = kind(tmp_path / "broker", port=port)
        with pytest.raises(EnvironmentFaultError, match=str(port)) as caught:
            broker.start()
    assert "port" in caught.value.advice
    assert not broker.is_running


@needs_mosquitto
def test_a_broker_that_does_not_start_shows_its_last_words(tmp_path: Path, site: Site):
    broken = Site(tmp_path / "site")
    broken.server.key.write_text("no key")
    broker = MosquittoBroker(tmp_path / "broker", tls=broken.server)
    with pytest.raises(EnvironmentFaultError, match="does not start") as caught:
        broker.start()
    assert "SSL" in caught.value.what
    assert str(broker.log_file) == caught.value.where


def test_a_plain_broker_is_for_this_machine_only(tmp_path: Path):
    with pytest.raises(ConfigError, match="TLS"):
        EmbeddedBroker(tmp_path, host="0.0.0.0")


@pytest.mark.parametrize("device", ["a/b", "+", "#", "Pump"])
def test_an_id_that_could_widen_a_role_is_refused(tmp_path: Path, device: str):
    with pytest.raises(ConfigError):
        MosquittoBroker(tmp_path, devices=[device])


def test_without_mosquitto_the_embedded_broker_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if MosquittoBroker.is_available():
        assert local_broker(tmp_path).kind == "mosquitto"
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)
    assert local_broker(tmp_path).kind == "amqtt"
    with pytest.raises(EnvironmentFaultError, match="not installed"):
        MosquittoBroker(tmp_path).start()


@needs_mosquitto
def test_without_its_plugin_mosquitto_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mosquitto, "_security_plugin", lambda: None)
    assert local_broker(tmp_path).kind == "amqtt"


PARENT = """
import sys, threading
from pathlib import Path
from fieldloop_cloud.fleet import broker
started = getattr(broker, sys.argv[1])(Path(sys.argv[2]), port=int(sys.argv[3]))
# From a thread that ends: the broker must not end with it.
thread = threading.Thread(target=started.start)
thread.start()
thread.join()
print(started._process.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_the_broker_ends_with_its_parent_however_that_ends(kind: type[Broker], tmp_path: Path):
    port = free_port()
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, kind.__name__, str(tmp_path / "broker"), str(port)],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    broker = psutil.Process(int(parent.stdout.readline()))
    family = [broker, *broker.children(recursive=True)]
    with socket.create_connection(("127.0.0.1", port)):
        pass
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(functools.partial(_are_gone, family))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def _are_gone(family: list[psutil.Process]) -> bool:
    """Say whether all have ended, be it that nobody has collected their exit codes yet."""
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_stop_and_kill_leave_no_process(kind: type[Broker], tmp_path: Path):
    broker = kind(tmp_path / "broker")
    for end in (broker.stop, broker.kill):
        broker.start()
        assert broker._process is not None
        leader = psutil.Process(broker._process.pid)
        family = [leader, *leader.children(recursive=True)]
        end()
        wait_until(functools.partial(_are_gone, family))
        assert not broker.is_running
        assert not broker.has_died
        end()


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_that_died_is_noticed_and_can_be_started_again(kind: type[Broker], tmp_path: Path):
    with kind(tmp_path / "broker") as broker:
        assert broker._process is not None
        os.kill(broker._process.pid, signal.SIGKILL)
        wait_until(lambda: broker.has_died)
        broker.start()
        assert not broker.has_died
        with client(broker, "pump-1") as device:
            assert device.is_connected
