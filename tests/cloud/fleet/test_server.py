"""The server: everything at home, as one process and in threads."""

import hashlib
import os
import signal
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.brokers import needs_mosquitto
from tests.support.homes import enrol, make_home, server_process
from tests.support.senders import OutboxSender
from tests.support.waiting import wait_until

from fieldloop import topics, wire
from fieldloop.errors import EnvironmentFaultError, NotConnectedError
from fieldloop.mqtt import MqttSettings, MqttTransport, link
from fieldloop.state import DesiredState, Presence, ReportedState
from fieldloop.telemetry import Ack, Clock, TelemetryWindow
from fieldloop_cloud.fleet import mosquitto
from fieldloop_cloud.fleet.rollout import Rollout
from fieldloop_cloud.fleet.server import Server, _until_signal
from fieldloop_cloud.release.home import Home

CONTENT = bytes(range(256)) * 64
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CLOCK = Clock(mono_ms=1, wall_ms=2)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = make_home(tmp_path / "home")
    made.release_file(SHA256).write_bytes(CONTENT)
    return made


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    with Server(home) as running:
        yield running


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "RESUBSCRIBE_S", 0.2)


class Device:
    """A provisioned device that collects what it is told."""

    def __init__(self, home: Home, name: str) -> None:
        self.name = name
        self.heard: list[tuple[str, bytes]] = []
        broker = home.settings().broker
        tls = enrol(home, name).tls() if broker.tls else None
        self.transport = MqttTransport(
            MqttSettings(
                host=broker.host,
                port=broker.port,
                client_id=name,
                tls=tls,
                backoff_base_s=0.05,
                backoff_cap_s=0.3,
            )
        )
        self.transport.subscribe(topics.down(name, "des"), self._hear)
        self.transport.subscribe(topics.down(name, "ack"), self._hear)

    def _hear(self, message) -> None:
        self.heard.append((message.topic, message.payload))
        message.ack()

    def send(self, seq: int) -> None:
        window = TelemetryWindow(boot=1, seq=seq, model="m", start=CLOCK, end=CLOCK, sent=CLOCK)
        self.transport.publish(topics.up(self.name, "tel"), wire.encode(window))

    @property
    def desired(self) -> list[DesiredState]:
        return [
            wire.decode(DesiredState, payload)
            for topic, payload in self.heard
            if topic.endswith("/des")
        ]

    @property
    def acknowledged(self) -> list[Ack]:
        return [wire.decode(Ack, payload) for topic, payload in self.heard if "/ack" in topic]

    def __enter__(self):
        self.transport.connect()
        return self

    def __exit__(self, *_exc):
        self.transport.close()


# Release files


def test_a_release_is_served_whole_and_in_parts(server: Server):
    url = f"{server.http.url}/releases/{SHA256}.flb"
    whole = httpx.get(url)
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert whole.headers["accept-ranges"] == "bytes"
    rest = httpx.get(url, headers={"Range": "bytes=1000-"})
    assert (rest.status_code, rest.content) == (206, CONTENT[1000:])
    assert rest.headers["content-range"] == f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}"
    same = httpx.get(url, headers={"Range": "bytes=10-", "If-Range": whole.headers["etag"]})
    assert (same.status_code, same.content) == (206, CONTENT[10:])
    changed = httpx.get(url, headers={"Range": "bytes=10-", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, CONTENT)
    beyond = httpx.get(url, headers={"Range": f"bytes={len(CONTENT)}-"})
    assert beyond.status_code == 416


@pytest.mark.parametrize(
    "path",
    [
        "/releases/" + "0" * 64 + ".flb",
        "/releases/" + SHA256.upper() + ".flb",
        "/releases/" + SHA256,
        "/releases/" + SHA256 + ".flb.part",
        "/releases/",
        "/releases/../fleet.toml",
        "/releases/..%2ffleet.toml",
        "/releases/%2e%2e/fleet.toml",
        "/releases/..%2fkeys%2frelease.pem.flb",
        "/releases/" + "a" * 63 + "%0a.flb",
        "/store.sqlite",
        "/",
    ],
)
def test_nothing_else_is_served(server: Server, home: Home, path: str):
    (home.releases / SHA256.upper()).with_suffix(".flb").write_bytes(b"secret")
    host = urllib.parse.urlparse(server.http.url)
    with socket.create_connection((host.hostname, host.port)) as raw:  # no client tidies the path
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404"), answer[:80]


# The way of a message, in and out


def test_a_provisioned_device_is_heard_and_acknowledged(home: Home):
    device = Device(home, "pump-1")
    with Server(home) as server, device:
        device.send(1)
        wait_until(lambda: device.acknowledged)
        assert server.store.counts()[0].windows == 1
        assert server.health()["ok"] is True


def test_a_device_that_is_provisioned_while_the_server_runs_is_let_in(server: Server, home: Home):
    """It may well connect before the server has noticed it, and must be heard all the same."""
    with Device(home, "pump-1") as device:

        def heard() -> bool:
            device.send(1)
            return bool(device.acknowledged)

        wait_until(heard)


def test_a_desired_state_is_published_and_kept_for_the_device(server: Server, home: Home):
    wish = DesiredState(ver=1, sha256=SHA256, size_bytes=len(CONTENT), url="http://home/x")
    newer = DesiredState(ver=2, sha256=SHA256, size_bytes=len(CONTENT), url="http://home/y")
    device = Device(home, "pump-1")
    server.store.put_desired("pump-1", wish)
    with device:
        wait_until(lambda: device.desired == [wish])
        server.store.put_desired("pump-1", newer)
        wait_until(lambda: newer in device.desired)


def test_a_rollout_that_was_started_is_carried_on(server: Server, home: Home):
    class Bundle:
        sha256 = SHA256
        size_bytes = len(CONTENT)

    Rollout(server.store).start(Bundle(), ["pump-1"], url=home.release_url(SHA256))
    with Device(home, "pump-1") as device:
        wait_until(lambda: device.desired)
        report = ReportedState(
            boot=1, desired_ver=device.desired[0].ver, running_sha256=SHA256, phase="committed"
        )
        device.transport.publish(topics.up("pump-1", "rep"), wire.encode(report), retain=True)
        wait_until(lambda: Rollout(server.store).status().stage == "done")
    assert httpx.get(device.desired[0].url).content == CONTENT


def test_after_the_broker_was_away_nothing_is_missing(server: Server, home: Home):
    wish = DesiredState(ver=1, sha256=SHA256, size_bytes=1, url="http://home/x")
    server.store.put_desired("pump-1", wish)
    device = Device(home, "pump-1")
    sender = OutboxSender("pump-1", device.transport)
    with device:
        wait_until(lambda: device.desired)
        for end in (server.broker.stop, server.broker.kill):
            sender.add(count=1)
            sender.pump()
            end()
            wait_until(lambda: not device.transport.is_connected)
            wait_until(lambda: httpx.get(f"{server.http.url}/healthz").status_code == 503)
            sender.add(count=1)
            server.broker.start()
            wait_until(lambda: device.transport.is_connected and server.health()["ok"])

        def drained() -> bool:
            sender.pump()
            return not sender.pending_count

        wait_until(drained)
    (counts,) = server.store.counts()
    assert (counts.windows, counts.missing) == (4, 0)


def test_a_broker_that_dies_is_started_again(server: Server, home: Home):
    os.kill(server.broker._process.pid, signal.SIGKILL)
    wait_until(lambda: server.broker.has_died)
    wait_until(lambda: server.broker.is_running and server.health()["ok"])


def test_it_works_on_the_embedded_broker_too(home: Home, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mosquitto, "_program", lambda: None)
    wish = DesiredState(ver=1, sha256=SHA256, size_bytes=1, url="http://home/x")
    device = Device(home, "pump-1")
    sender = OutboxSender("pump-1", device.transport)
    with Server(home) as server:
        assert server.health()["broker"] == "amqtt"
        with device:
            sender.add(count=1)
            sender.pump()
            server.broker.stop()
            wait_until(lambda: not device.transport.is_connected)
            server.store.put_desired("pump-1", wish)
            sender.add(count=1)
            server.broker.start()

            def drained() -> bool:
                sender.pump()
                return not sender.pending_count

            wait_until(drained)
            wait_until(lambda: device.desired)
        (counts,) = server.store.counts()
        assert (counts.windows, counts.missing) == (2, 0)


def test_a_plain_broker_is_allowed_on_this_machine(tmp_path: Path):
    home = make_home(tmp_path / "home", tls=False)
    with Server(home):
        assert not (home.ca / "ca.pem").exists(), "without TLS no certificates are made"
        with Device(home, "pump-1") as device:
            device.send(1)
            wait_until(lambda: device.acknowledged)


def test_what_a_device_says_of_itself_is_kept(server: Server, home: Home):
    with Device(home, "pump-1") as device:

        def heard() -> bool:
            presence = wire.encode(Presence(boot=3, online=True))
            device.transport.publish(topics.up("pump-1", "status"), presence, retain=True)
            return server.store.presence() == {"pump-1": Presence(boot=3, online=True)}

        wait_until(heard)


# Starting and ending


@pytest.mark.parametrize("taken", ["broker", "http"])
def test_a_taken_port_is_told_and_nothing_stays_behind(home: Home, taken: str):
    settings = home.settings()
    ports = {"broker": settings.broker.port, "http": settings.http.port}
    with socket.create_server(("127.0.0.1", ports.pop(taken))):
        server = Server(home)
        with pytest.raises(EnvironmentFaultError, match="listen") as caught:
            server.start()
        assert "port" in caught.value.advice
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"http", "ingest", "caretaker", "mqtt-svc.ingest"}
    with socket.create_server(("127.0.0.1", *ports.values())):
        pass  # the other port is free again


def test_an_external_broker_that_is_not_there_is_told(tmp_path: Path):
    home = make_home(tmp_path / "home", external=True, tls=False)
    server = Server(home)
    server.transport.connect, connect = None, server.transport.connect
    server.transport.connect = lambda: connect(timeout_s=0.2)
    with pytest.raises(NotConnectedError, match=str(home.settings().broker.port)):
        server.start()


def test_it_can_be_started_again_on_what_it_left(home: Home):
    device = Device(home, "pump-1")
    for seq in (1, 2):
        with Server(home), device:
            device.send(seq)
            wait_until(lambda seq=seq: len(device.acknowledged) == seq)
    with Server(home) as server:
        assert server.store.counts()[0].windows == 2


@needs_mosquitto
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_cleanly(home: Home, number: signal.Signals):
    with server_process(home) as server:
        server.wait_ready()
        assert httpx.get(f"http://127.0.0.1:{home.settings().http.port}/healthz").json()["ok"]
        assert server.process is not None
        server.process.send_signal(number)
        assert server._reap() == 0
    broker = home.settings().broker
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((broker.host, broker.port))
    assert "Traceback" not in (home.path / "server.log").read_text()


def test_a_killed_server_takes_its_broker_along_and_loses_nothing(home: Home):
    device = Device(home, "pump-1")
    sender = OutboxSender("pump-1", device.transport)
    with server_process(home) as server:
        server.wait_ready()
        device.transport.connect()
        for _ in range(50):
            sender.add(count=1)
        sender.pump()
        server.kill()
        wait_until(lambda: not device.transport.is_connected)
        server.start()
        server.wait_ready()

        def drained() -> bool:
            sender.pump()
            return not sender.pending_count

        wait_until(drained)
        device.transport.close()
        assert server.terminate() == 0
    with Server(home) as again:
        (counts,) = again.store.counts()
    assert (counts.windows, counts.missing) == (50, 0)


def test_a_signal_ends_the_wait_wherever_it_comes():
    """A signal within the wait's own lock must not wait for that lock."""
    with _until_signal() as ended:
        for _ in range(200):
            timer = threading.Timer(0.0005, os.kill, (os.getpid(), signal.SIGTERM))
            timer.start()
            assert ended.get(timeout=10) == signal.SIGTERM
            timer.join()
