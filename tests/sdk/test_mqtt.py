"""What only the real MQTT transport does: TLS, refusals, the fallback, the send window."""

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.brokers import Site, needs_mosquitto
from tests.support.brokers import client as client_of
from tests.support.waiting import wait_until

from fieldloop.errors import ConfigError, NotConnectedError, RefusedError
from fieldloop.mqtt import MqttSettings, MqttTransport, TlsSettings, client, link
from fieldloop_cloud.fleet.broker import Broker, MosquittoBroker
from fieldloop_cloud.release.certificates import CertificateAuthority

TELEMETRY = "fl/v1/pump-1/up/tel"


def test_mosquitto_is_spoken_to_in_mqtt_5(mosquitto: Broker):
    with client_of(mosquitto, "pump-1") as device:
        assert device.dialect == "5"


def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(embedded: Broker):
    with client_of(embedded, "pump-1") as device:
        assert device.dialect == "3.1.1"


def test_500_messages_may_be_unacknowledged(mosquitto: Broker):
    """MQTT 3.1.1 on mosquitto stalls at 20."""
    heard = []
    ingest, device = client_of(mosquitto, "svc.ingest"), client_of(mosquitto, "pump-1")
    ingest.subscribe("fl/v1/+/up/#", heard.append)
    with ingest, device:
        for number in range(510):
            device.publish(TELEMETRY, b"%d" % number)
        wait_until(lambda: len(heard) == 500)
        for message in heard[:10]:
            message.ack()
        wait_until(lambda: len(heard) == 510)


def test_a_message_expires_on_the_broker(mosquitto: Broker):
    heard = []
    device, home = client_of(mosquitto, "pump-1"), client_of(mosquitto, "svc.ingest")
    device.subscribe("fl/v1/pump-1/down/cmd", lambda message: heard.append(message.payload))
    with home:
        with device:
            pass
        home.publish("fl/v1/pump-1/down/cmd", b"short-lived", expiry_s=1)
        home.publish("fl/v1/pump-1/down/cmd", b"lasting", expiry_s=600)
        threading.Event().wait(2.1)  # mosquitto counts whole seconds
        with device:
            wait_until(lambda: b"lasting" in heard)
    assert heard == [b"lasting"]


def test_without_mqtt_5_an_expiry_is_not_silently_dropped(
    embedded: Broker, caplog: pytest.LogCaptureFixture
):
    with client_of(embedded, "svc.ingest") as home, caplog.at_level(logging.WARNING):
        home.publish("fl/v1/pump-1/down/cmd", b"x", expiry_s=1)
    assert "does not expire" in caplog.text


# TLS


def test_a_device_with_its_certificate_gets_in(mosquitto_tls: Broker, site: Site):
    with client_of(mosquitto_tls, "pump-1", site=site) as device:
        assert device.is_connected


def test_a_broker_of_another_site_is_not_believed(
    mosquitto_tls: Broker, site: Site, tmp_path: Path
):
    stranger = CertificateAuthority(tmp_path / "ca").issue_device(tmp_path, "pump-1")
    error = _refusal(mosquitto_tls, stranger.tls())
    assert "TLS handshake" in error.what
    assert error.advice


def test_a_certificate_of_another_site_is_refused(
    mosquitto_tls: Broker, site: Site, tmp_path: Path
):
    stranger = CertificateAuthority(tmp_path / "ca").issue_device(tmp_path, "pump-1")
    tls = TlsSettings(site.authority.certificate_file, stranger.certificate, stranger.key)
    assert "certificate" in _refusal(mosquitto_tls, tls).what


def test_a_client_without_a_certificate_is_refused(mosquitto_tls: Broker, site: Site):
    tls = TlsSettings(site.authority.certificate_file)
    assert "certificate" in _refusal(mosquitto_tls, tls).what


@needs_mosquitto
def test_a_host_that_is_not_in_the_certificate_is_refused(tmp_path: Path):
    authority = CertificateAuthority(tmp_path / "ca")
    server = authority.issue_server(tmp_path, ["broker.example"])
    with MosquittoBroker(tmp_path / "broker", tls=server, devices=["pump-1"]) as broker:
        error = _refusal(broker, authority.issue_device(tmp_path, "pump-1").tls())
    assert "handshake" in error.what


def _refusal(broker: Broker, tls: TlsSettings) -> RefusedError:
    settings = MqttSettings(host="127.0.0.1", port=broker.port, client_id="pump-1", tls=tls)
    device = MqttTransport(settings)
    with pytest.raises(RefusedError) as caught:
        device.connect()
    assert not _thread_lives("mqtt-pump-1"), "a refused client must not go on trying"
    return caught.value


def _thread_lives(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


@pytest.mark.parametrize("missing", ["ca", "certificate", "key"])
def test_missing_tls_files_are_named(site: Site, tmp_path: Path, missing: str):
    files = site.clients["pump-1"]
    paths = {"ca": files.ca, "certificate": files.certificate, "key": files.key}
    paths[missing] = tmp_path / "not-there.pem"
    tls = TlsSettings(paths["ca"], paths["certificate"], paths["key"])
    with pytest.raises(ConfigError, match=r"not-there\.pem"):
        MqttTransport(MqttSettings(host="h", port=1, client_id="pump-1", tls=tls))


# Brokers that misbehave


@contextlib.contextmanager
def _listener(answer: bytes | None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers every CONNECT so: with bytes, by hanging up (b""), or never (None)."""
    heard: list[bytes] = []
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    heard.append(connection.recv(4096))
                    held.append(connection)
                    if answer is not None:
                        connection.sendall(answer)
                        connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in held:
        connection.close()


def _quick(port: int) -> MqttTransport:
    settings = MqttSettings(
        host="127.0.0.1", port=port, client_id="pump-1", backoff_base_s=0.01, backoff_cap_s=0.02
    )
    return MqttTransport(settings)


def _level(connect: bytes) -> int:
    return connect[8]  # after the type, one length byte and "MQTT" with its length


@pytest.mark.parametrize(
    ("code", "words"),
    [(0x86, "bad user name"), (0x87, "not authorized"), (0x8A, "banned"), (0x85, "identifier")],
)
def test_a_refusal_is_told_apart_and_ends_trying(code: int, words: str):
    with _listener(bytes([0x20, 3, 0, code, 0])) as (port, heard):
        with pytest.raises(RefusedError, match=words) as caught:
            _quick(port).connect()
        assert len(heard) == 1
    assert caught.value.exit_code == 1
    assert str(port) in caught.value.where


def test_a_busy_broker_is_no_refusal():
    with (
        _listener(bytes([0x20, 3, 0, 0x89, 0])) as (port, heard),
        contextlib.closing(_quick(port)) as device,
    ):
        with pytest.raises(NotConnectedError, match="busy"):
            device.connect(timeout_s=0.3)
        wait_until(lambda: len(heard) > 3)


def test_a_broker_that_keeps_hanging_up_is_tried_with_3_1_1():
    with _listener(b"") as (port, heard), contextlib.closing(_quick(port)) as device:
        with pytest.raises(NotConnectedError, match="hung up"):
            device.connect(timeout_s=0.2)
        wait_until(lambda: {_level(connect) for connect in heard if connect} == {4, 5})
    levels = [_level(connect) for connect in heard if connect]
    assert levels[:3] == [5, 5, 4]


def test_a_broker_that_never_answers_is_tried_with_3_1_1(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link, "ANSWER_TIMEOUT_S", 0.1)
    with _listener(None) as (port, heard), contextlib.closing(_quick(port)) as device:
        with pytest.raises(NotConnectedError):
            device.connect(timeout_s=0.2)
        wait_until(lambda: [_level(connect) for connect in heard[:2]] == [5, 4])


def test_nobody_there_is_said_with_the_address():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with contextlib.closing(_quick(port)) as device:
        with pytest.raises(NotConnectedError, match=str(port)) as caught:
            device.connect(timeout_s=0.3)
        assert caught.value.advice


def test_one_broken_connection_does_not_give_up_mqtt_5(mosquitto: Broker):
    with client_of(mosquitto, "pump-1") as device:
        for _ in range(4):
            mosquitto.kill()
            wait_until(lambda: not device.is_connected)
            mosquitto.start()
            wait_until(lambda: device.is_connected)
        assert device.dialect == "5"


# Sending


def test_a_broker_that_does_not_keep_up_stops_the_sender():
    """It takes the connection and confirms nothing."""
    settings = {"send_window": 5, "keepalive_s": 1}
    accepted = bytes([0x20, 3, 0, 0, 0])
    with socket.create_server(("127.0.0.1", 0)) as server:
        device = MqttTransport(
            MqttSettings(
                host="127.0.0.1", port=server.getsockname()[1], client_id="pump-1", **settings
            )
        )
        device.connect(timeout_s=0)
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(accepted)
            wait_until(lambda: device.is_connected)
            for _ in range(5):
                device.publish(TELEMETRY, b"x")
            with pytest.raises(NotConnectedError):
                device.publish(TELEMETRY, b"one too many")
            device.close()


def test_what_was_in_flight_when_the_line_broke_arrives_after_it(mosquitto: Broker):
    heard: list[bytes] = []

    def hear(message) -> None:
        heard.append(message.payload)
        message.ack()

    ingest, device = client_of(mosquitto, "svc.ingest"), client_of(mosquitto, "pump-1")
    ingest.subscribe("fl/v1/+/up/#", hear)
    sent: list[bytes] = []
    with ingest, device:
        for number in range(400):
            if number == 200:
                connection = device._link._client.socket()
                assert isinstance(connection, socket.socket)
                connection.shutdown(socket.SHUT_RDWR)
            try:
                device.publish(TELEMETRY, b"%d" % number)
            except NotConnectedError:
                wait_until(lambda: device.is_connected)
                continue
            sent.append(b"%d" % number)
        wait_until(lambda: set(sent) <= set(heard), what="all that publish() took")
    assert len(sent) >= 200


def test_no_more_is_in_flight_than_the_broker_allows():
    with socket.create_server(("127.0.0.1", 0)) as server:
        device = _quick(server.getsockname()[1])
        device.connect(timeout_s=0)
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(bytes([0x20, 6, 0, 0, 3, 0x21, 0, 7]))  # ReceiveMaximum 7
            wait_until(lambda: device.is_connected)
            assert device._send_window == 7
            device.close()


def test_qos_2_is_not_offered(mosquitto: Broker):
    with client_of(mosquitto, "pump-1") as device, pytest.raises(ConfigError, match="qos"):
        device.publish(TELEMETRY, b"x", qos=2)


def test_the_delay_before_a_reconnect_is_jittered_and_capped():
    settings = MqttSettings(
        host="h", port=1, client_id="pump-1", backoff_base_s=1.0, backoff_cap_s=10.0
    )
    device = MqttTransport(settings)
    nothing = NotConnectedError("nobody there")
    early = [device._delay_s(nothing, 1) for _ in range(200)]
    late = [device._delay_s(nothing, 50) for _ in range(200)]
    assert all(0 <= delay <= 2 for delay in early)
    assert all(0 <= delay <= 10 for delay in late)
    assert min(late) < 2, "full jitter draws from the whole interval"
    assert max(late) > 5
    assert max(device._delay_s(RefusedError("no"), 1) for _ in range(200)) > 2


def test_a_client_that_failed_to_connect_leaves_no_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(NotConnectedError), _quick(1):
        pytest.fail("it cannot have connected")
    assert not _thread_lives("mqtt-pump-1")
