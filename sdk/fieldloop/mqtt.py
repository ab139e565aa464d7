"""MQTT over paho-mqtt: the only module that knows the client library.

`MqttTransport` is a `transport.Transport`. It speaks MQTT 5, which lets 500 messages be on their
way unacknowledged and messages expire, and falls back to 3.1.1 where a broker knows no more. It
owns the reconnect loop, because a fleet that comes back after a power cut must not come back in
step: every wait is drawn from the whole interval ("full jitter", M. Brooker, Exponential Backoff
And Jitter, 2015).

Three habits of the library are kept from the user. It queues without bound (or drops the newest)
when the broker is away: here `publish` raises and at most `send_window` messages are in flight.
It calls a handler that raised again for ever: here that message is reported and acknowledged. And
an acknowledgement from before a reconnect could hit another message: here it does nothing.
"""

import contextlib
import dataclasses
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fieldloop.errors import ConfigError, NotConnectedError, RefusedError, TransportError
from fieldloop.transport import ErrorHandler, Handler, Message, Transport, Will, matches

__all__ = ["Message", "MqttSettings", "MqttTransport", "TlsSettings", "Transport", "Will"]

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
"""How long `connect` waits when it is not told."""

ANSWER_TIMEOUT_S = 5.0
"""How long the network and then the broker may take to answer a connection attempt."""

_REFUSALS = frozenset(
    {
        "Not authorized",
        "Bad user name or password",
        "Client identifier not valid",
        "Banned",
        "Bad authentication method",
    }
)
_UNSUPPORTED_VERSION = "Unsupported protocol version"
_DROPS_BEFORE_FALLBACK = 2
"""How often a broker may hang up on MQTT 5 before 3.1.1 is tried: once may be a restart."""


@dataclasses.dataclass(frozen=True, slots=True)
class TlsSettings:
    """Files of a TLS connection, PEM.

    Attributes:
        ca_file: The authority that the broker's certificate must come from.
        cert_file: Our own certificate; None where the broker asks for none.
        key_file: Its private key.
    """

    ca_file: Path
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a client context that takes TLS 1.2 or newer and checks the host name.

        Raises:
            ConfigError: A file is missing or not what it should be.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            where = error.filename or f"{self.ca_file}, {self.cert_file}, {self.key_file}"
            raise ConfigError(
                f"the TLS files cannot be used: {error}",
                where=str(where),
                advice="Provision the device again.",
            ) from error
        return context


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """Everything that describes one connection.

    Attributes:
        host: The broker's name or address; with TLS it must stand in its certificate.
        port: The broker's port.
        client_id: Names the session; one connection at a time.
        tls: None for a plain connection, which is for trying out on one machine.
        will: Said by the broker when the connection breaks.
        clean_start: Forget the session at each connection.
        session_expiry_s: How long the broker keeps messages for us while we are away.
        receive_maximum: Messages we take unacknowledged (MQTT 5).
        send_window: Messages we send unacknowledged before `publish` waits.
        keepalive_s: A silent broker is given up after one and a half of these.
        backoff_base_s: Upper end of the first reconnect delay; it doubles with each failure.
        backoff_cap_s: Upper end of all delays.
    """

    host: str
    port: int
    client_id: str
    tls: TlsSettings | None = None
    will: Will | None = None
    clean_start: bool = False
    session_expiry_s: int = 86_400
    receive_maximum: int = 500
    send_window: int = 200
    keepalive_s: int = 30
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0

    @property
    def address(self) -> str:
        """For messages to people."""
        return f"{self.host}:{self.port}"


class MqttTransport:
    """A connection to a real broker.

    Handlers run on the connection's own thread, one at a time, so they must not wait. Threads may
    share a transport.

    Args:
        settings: Where and how.
        on_error: Told of handlers that raised, refused subscriptions and refused messages.
    """

    def __init__(self, settings: MqttSettings, *, on_error: ErrorHandler | None = None) -> None:
        self._settings = settings
        self._on_error = on_error
        self._tls = settings.tls.context() if settings.tls is not None else None
        self._handlers: dict[str, list[Handler]] = {}
        self._listeners: list[Callable[[bool], None]] = []
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        # Guards everything below. Never held while paho is called: its callbacks come with its
        # own locks held and want this one.
        self._changed = threading.Condition()
        self._connected = False
        self._ready = False  # connected, and the broker has confirmed the subscriptions
        self._in_flight = 0
        self._send_window = settings.send_window
        self._generation = 0
        self._failure: TransportError | None = None
        # Only the connection's thread touches these.
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._protocol_proven = False
        self._drops = 0
        self._last_log = ""
        self._problem: TransportError | None = None
        self._client = self._new_client()

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be reached at this moment."""
        return self._connected

    @property
    def protocol(self) -> str:
        """The protocol spoken: `5` or `3.1.1`."""
        return "5" if self._protocol == MQTTProtocolVersion.MQTTv5 else "3.1.1"

    def connect(self, *, timeout_s: float | None = None) -> None:
        """Start, and wait for the first connection; see `Transport.connect`.

        Raises:
            RefusedError: The broker said no: credentials, certificate or authorisation.
            NotConnectedError: No connection in time; trying goes on until `close`.
        """
        if self._thread is None:
            self._closing.clear()
            self._failure = None
            self._thread = threading.Thread(
                target=self._run, name=f"mqtt-{self._settings.client_id}", daemon=True
            )
            self._thread.start()
        wait_s = CONNECT_TIMEOUT_S if timeout_s is None else timeout_s
        if wait_s == 0:
            return
        with self._changed:
            self._changed.wait_for(
                lambda: self._ready or isinstance(self._failure, RefusedError), wait_s
            )
            connected, failure = self._ready, self._failure
        if connected:
            return
        if isinstance(failure, RefusedError):
            self.close()
            raise failure
        raise failure or NotConnectedError(
            f"no answer from the broker within {wait_s:g} s",
            where=self._settings.address,
            advice="Check the address and that the broker runs.",
        )

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Hear what matches, now and after every reconnect; see `Transport.subscribe`."""
        with self._changed:
            self._handlers = {
                **self._handlers,
                topic_filter: [*self._handlers.get(topic_filter, []), handler],
            }
            connected = self._connected
        if connected:
            self._client.subscribe(topic_filter, qos=1)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """Hand a message to the connection; see `Transport.publish`.

        With `send_window` messages unacknowledged it waits for the broker, up to `keepalive_s`;
        in a handler it cannot wait and raises at once.

        Raises:
            NotConnectedError: Not connected, or the broker does not keep up; try again later.
            ConfigError: A topic or qos that cannot be.
        """
        if qos not in {0, 1} or not topic:
            raise ConfigError(
                f"this cannot be published: qos {qos} on '{topic}'",
                advice="Use qos 0 or 1 and a topic.",
            )
        self._reserve(qos)
        try:
            rc = self._client.publish(
                topic, payload, qos=qos, retain=retain, properties=self._expiry(expiry_s)
            ).rc
        except ValueError as error:
            self._release(qos)
            raise ConfigError(
                f"this cannot be published: {error}",
                where=topic,
                advice="Use a topic without wildcards.",
            ) from error
        if rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE or (
            qos == 0 and rc != MQTTErrorCode.MQTT_ERR_SUCCESS
        ):
            self._release(qos)
            raise self._not_connected()
        # Any other code: paho has the message in flight and sends it again after the reconnect.

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Call back with True after each connection and False after each loss."""
        self._listeners.append(callback)

    def close(self) -> None:
        """Say goodbye (the Will is not published) and stop; may be called again."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._client.disconnect()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            RefusedError: The broker said no.
            NotConnectedError: No connection in time; nothing goes on in the background.
        """
        try:
            self.connect()
        except TransportError:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    # Sending

    def _reserve(self, qos: int) -> None:
        """Take a place in the send window, waiting for one if there is none."""
        with self._changed:
            if qos == 1 and threading.current_thread() is not self._thread:
                self._changed.wait_for(
                    lambda: not self._connected or self._in_flight < self._send_window,
                    self._settings.keepalive_s,
                )
            if not self._connected or (qos == 1 and self._in_flight >= self._send_window):
                raise self._not_connected()
            self._in_flight += qos

    def _release(self, places: int) -> None:
        with self._changed:
            self._in_flight -= places
            self._changed.notify_all()

    def _expiry(self, expiry_s: int | None) -> Properties | None:
        if expiry_s is None:
            return None
        if self._protocol != MQTTProtocolVersion.MQTTv5:
            logger.warning("the broker speaks MQTT 3.1.1: messages do not expire")
            return None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = expiry_s
        return properties

    def _not_connected(self) -> NotConnectedError:
        what = "the broker does not keep up" if self._connected else "not connected to the broker"
        return NotConnectedError(
            what, where=self._settings.address, advice="Keep the message and try again later."
        )

    # The connection's thread

    def _run(self) -> None:
        """Connect, stay connected, and come back, until closed or refused at the start."""
        failures = 0
        while not self._closing.is_set():
            failure = self._stay_connected()
            failures = 0 if failure is None else failures + 1
            if failure is not None:
                logger.info("%s", failure)
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
            cap_s = self._settings.backoff_cap_s
            limit_s = (
                cap_s
                if isinstance(failure, RefusedError)
                else min(cap_s, self._settings.backoff_base_s * 2.0 ** min(failures, 30))
            )
            self._closing.wait(random.uniform(0.0, limit_s))  # noqa: S311 - jitter, no secret

    def _stay_connected(self) -> TransportError | None:
        """Make one connection and serve it until it ends; return why there was none."""
        settings, client = self._settings, self._client
        generation = self._generation
        self._last_log, self._problem = "", None
        client.on_log = self._note_log
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        try:
            if self._protocol == MQTTProtocolVersion.MQTTv5:
                client.connect(
                    settings.host,
                    settings.port,
                    settings.keepalive_s,
                    clean_start=settings.clean_start,
                    properties=self._session_properties(),
                )
            else:
                client.connect(settings.host, settings.port, settings.keepalive_s)
            while client.loop(timeout=1.0) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                if self._closing.is_set():
                    client.disconnect()
                if self._generation == generation and time.monotonic() > deadline:
                    self._problem = self._unanswered()
                    break
        except (OSError, ValueError) as error:  # ssl's errors are among them
            self._problem = self._explain(error)
        self._lost()
        if self._generation != generation:
            return None
        return self._problem or self._dropped()

    def _explain(self, error: Exception) -> TransportError:
        address = self._settings.address
        if isinstance(error, ssl.SSLError | ssl.CertificateError):
            return RefusedError(
                f"the TLS handshake failed: {error}",
                where=address,
                advice="Provision again, or check that both certificates come from this site's CA "
                "and that the broker's names this host.",
            )
        return NotConnectedError(
            f"the broker cannot be reached: {error}",
            where=address,
            advice="Check the address and that the broker runs.",
        )

    def _unanswered(self) -> TransportError:
        """The broker keeps silent, as some do that take MQTT 5 for a damaged 3.1.1."""
        if not self._protocol_proven:
            self._switch_protocol()
        return NotConnectedError(
            f"the broker did not answer within {ANSWER_TIMEOUT_S:g} s",
            where=self._settings.address,
            advice="Check that an MQTT broker listens there and whether it expects TLS.",
        )

    def _dropped(self) -> TransportError:
        """The broker hung up before it answered: find out what that means."""
        address = self._settings.address
        if self._tls is not None and "alert" in self._last_log.lower():
            return RefusedError(
                f"the broker does not accept our certificate: {self._last_log}",
                where=address,
                advice="Provision this device again.",
            )
        self._drops += 1
        if self._drops >= _DROPS_BEFORE_FALLBACK and not self._protocol_proven:
            self._drops = 0
            self._switch_protocol()
        return NotConnectedError(
            "the broker hung up before it answered",
            where=address,
            advice="Check that an MQTT broker listens there and whether it expects TLS.",
        )

    def _switch_protocol(self) -> None:
        """Try the other protocol; what is in flight is dropped, its senders have outboxes."""
        old = self._client
        is_5 = self._protocol == MQTTProtocolVersion.MQTTv5
        self._protocol = MQTTProtocolVersion.MQTTv311 if is_5 else MQTTProtocolVersion.MQTTv5
        self._client = self._new_client()
        self._release(len(old.drop_out_messages()))

    def _lost(self) -> None:
        with self._changed:
            was_connected, self._connected, self._ready = self._connected, False, False
            self._changed.notify_all()
        if was_connected:
            self._tell(connected=False)

    # paho's callbacks, all on the connection's thread

    def _new_client(self) -> Client:
        settings = self._settings
        options: dict[str, Any] = {}
        if self._protocol != MQTTProtocolVersion.MQTTv5:
            options["clean_session"] = settings.clean_start
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=self._protocol,
            manual_ack=True,
            reconnect_on_failure=False,
            **options,
        )
        client.max_inflight_messages_set(settings.send_window)
        client.connect_timeout = ANSWER_TIMEOUT_S
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if settings.will is not None:
            will = settings.will
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        client.on_connect = self._handle_connack
        client.on_disconnect = self._handle_disconnect
        client.on_message = self._handle_message
        client.on_publish = self._handle_puback
        client.on_subscribe = self._handle_suback
        # With this set, paho leaves all writing to our thread instead of racing with it.
        client.on_socket_register_write = lambda *_: None
        return client

    def _session_properties(self) -> Properties:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = self._settings.receive_maximum
        properties.SessionExpiryInterval = self._settings.session_expiry_s
        return properties

    def _handle_connack(
        self,
        client: Client,
        _: Any,
        _flags: ConnectFlags | dict[str, Any],
        reason: ReasonCode,
        granted: Properties | None,
    ) -> None:
        client.on_log = None
        if reason.is_failure:
            self._refused(str(reason))
            return
        self._protocol_proven, self._drops = True, 0
        filters = [(topic_filter, 1) for topic_filter in self._handlers]
        if filters:
            client.subscribe(filters)
        with self._changed:
            self._generation += 1
            server_window = getattr(granted, "ReceiveMaximum", self._settings.send_window)
            self._send_window = min(self._settings.send_window, server_window)
            self._connected, self._ready = True, not filters
            self._changed.notify_all()
        logger.info("connected to %s (MQTT %s)", self._settings.address, self.protocol)
        self._tell(connected=True)

    def _refused(self, reason: str) -> None:
        address = self._settings.address
        if reason == _UNSUPPORTED_VERSION:
            self._problem = NotConnectedError(
                f"the broker does not speak MQTT {self.protocol}",
                where=address,
                advice="Use a broker that speaks MQTT 5 or 3.1.1.",
            )
            self._switch_protocol()
        elif reason in _REFUSALS:
            self._problem = RefusedError(
                f"the broker refused the connection: {reason.lower()}",
                where=address,
                advice="Check the device's certificate and that the broker knows the device.",
            )
        else:
            self._problem = NotConnectedError(
                f"the broker refused the connection: {reason.lower()}",
                where=address,
                advice="Try again later.",
            )

    def _handle_disconnect(
        self, _client: Client, _: Any, _flags: DisconnectFlags, reason: ReasonCode, _p: Any
    ) -> None:
        logger.info("connection to %s ended: %s", self._settings.address, reason)
        self._lost()

    def _handle_message(self, client: Client, _: Any, received: MQTTMessage) -> None:
        generation = self._generation

        def acknowledge() -> None:
            if self._connected and self._generation == generation and received.qos:
                client.ack(received.mid, received.qos)

        message: Message | None = None
        try:
            message = Message(
                received.topic,
                bytes(received.payload),
                retained=bool(received.retain),
                acknowledge=acknowledge,
            )
            heard = [
                handler
                for topic_filter, handlers in self._handlers.items()
                if matches(topic_filter, message.topic)
                for handler in handlers
            ]
            for handler in heard:
                handler(message)
            if not heard:
                message.ack()
                logger.warning("nobody hears %s; the message was dropped", message.topic)
        except Exception as error:  # whatever a handler does, the loop goes on
            logger.exception("a handler failed; the message is acknowledged and dropped")
            acknowledge() if message is None else message.ack()
            self._report(error)

    def _handle_puback(
        self, _client: Client, _: Any, _mid: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        self._release(1)
        if reason.is_failure:
            self._report(
                RefusedError(
                    f"the broker refused a message: {str(reason).lower()}",
                    where=self._settings.address,
                    advice="Check what this client is allowed to publish.",
                )
            )

    def _handle_suback(
        self, _client: Client, _: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties
    ) -> None:
        with self._changed:
            self._ready = True
            self._changed.notify_all()
        for reason in reasons:
            if reason.is_failure:
                self._report(
                    RefusedError(
                        f"the broker refused a subscription: {str(reason).lower()}",
                        where=self._settings.address,
                        advice="Check what this client is allowed to read.",
                    )
                )

    def _note_log(self, _client: Client, _: Any, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._last_log = text

    def _tell(self, *, connected: bool) -> None:
        for listener in self._listeners:
            try:
                listener(connected)
            except Exception as error:
                logger.exception("a connection listener failed")
                self._report(error)

    def _report(self, error: Exception) -> None:
        if self._on_error is not None:
            with contextlib.suppress(Exception):
                self._on_error(error)
        else:
            logger.error("%s", error)
