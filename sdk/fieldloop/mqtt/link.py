"""One paho client that speaks one protocol: makes a connection and serves it until it ends.

paho's callbacks come on the thread that serves; everything they say goes to a `LinkEvents`. Only
`publish`, `subscribe`, `acknowledge` and `hang_up` may be called from other threads.
"""

import logging
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fieldloop.errors import ConfigError, NotConnectedError, RefusedError, TransportError
from fieldloop.mqtt.settings import MqttSettings

logger = logging.getLogger(__name__)

Dialect = Literal["5", "3.1.1"]
"""The versions of MQTT that are spoken."""

ANSWER_TIMEOUT_S: Final = 5.0
"""How long the network and then the broker may take to answer a connection attempt."""

RESUBSCRIBE_S: Final = 5.0
"""How often a refused subscription is tried again: a device may be let in while it is connected."""

_REFUSALS: Final = frozenset(
    {
        "Not authorized",
        "Bad user name or password",
        "Client identifier not valid",
        "Banned",
        "Bad authentication method",
    }
)
_CHECK_LISTENER: Final = "Check that an MQTT broker listens there and whether it expects TLS."


class UnknownDialectError(NotConnectedError):
    """The broker does not know this version of MQTT, or looks as if it did not."""


class SilenceError(NotConnectedError):
    """The broker hung up before it answered: it restarts, or does not know the version."""


class LinkEvents(Protocol):
    """What a link tells."""

    def accepted(self, receive_maximum: int | None) -> Sequence[str]:
        """The broker took us and that many messages; return the filters to subscribe to."""

    def subscribed(self) -> None:
        """The broker has answered a subscription."""

    def received(self, message: MQTTMessage) -> None:
        """A message has come."""

    def confirmed(self) -> None:
        """The broker has taken one message of QoS 1."""

    def ended(self) -> None:
        """The connection is lost or closed."""

    def refused(self, error: RefusedError) -> None:
        """The broker refused a message or a subscription."""


class Link:
    """See the module.

    Args:
        settings: Where and how.
        tls: The TLS context; None for a plain connection.
        dialect: Which version of MQTT to speak.
        events: Whom to tell.
    """

    def __init__(
        self,
        settings: MqttSettings,
        tls: ssl.SSLContext | None,
        dialect: Dialect,
        events: LinkEvents,
    ) -> None:
        self.dialect = dialect
        self._settings = settings
        self._has_tls = tls is not None
        self._events = events
        self._was_accepted = False
        self._problem: TransportError | None = None
        self._last_log = ""
        self._asking = threading.Lock()
        self._asked: dict[int, Sequence[str]] = {}
        self._denied: dict[str, float] = {}
        self._client = self._new_client(tls)

    # Any thread

    def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, expiry_s: int | None
    ) -> bool:
        """Hand a message to paho; say whether it took it (of QoS 1: sent now or later).

        Raises:
            ConfigError: The topic cannot be published to.
        """
        properties: Properties | None = None
        if expiry_s is not None and self.dialect == "5":
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
        elif expiry_s is not None:
            logger.warning("the broker speaks MQTT 3.1.1: this message does not expire")
        try:
            rc = self._client.publish(
                topic, payload, qos=qos, retain=retain, properties=properties
            ).rc
        except ValueError as error:
            raise ConfigError(
                f"this cannot be published: {error}",
                where=topic,
                advice="Use a topic without wildcards and a smaller payload.",
            ) from error
        if qos:
            # With any other code paho has it in flight and sends it after the reconnect.
            return rc != MQTTErrorCode.MQTT_ERR_QUEUE_SIZE
        return rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def subscribe(self, topic_filters: Sequence[str]) -> None:
        """Ask for messages; `subscribed` follows, and `refused` if the broker says no."""
        if topic_filters:
            wanted = [(topic_filter, 1) for topic_filter in topic_filters]
            with self._asking:  # the answer may be here before the number is noted
                _, number = self._client.subscribe(wanted)
                if number is not None:
                    self._asked[number] = topic_filters

    def acknowledge(self, message: MQTTMessage) -> None:
        """Tell the broker that a message need not come again."""
        self._client.ack(message.mid, message.qos)

    def hang_up(self) -> None:
        """Say goodbye."""
        self._client.disconnect()

    def release(self) -> None:
        """Close the sockets, after `serve` has ended for good.

        The library closes those that wake its loop only when it is collected, which a reference
        cycle delays and the interpreter then warns about.
        """
        self._client._reset_sockets()  # noqa: SLF001 - there is no public way

    def drop_in_flight(self) -> int:
        """Forget what the broker has not confirmed; return how many messages that were."""
        return len(self._client.drop_out_messages())

    # The serving thread

    def serve(self, closing: threading.Event) -> None:
        """Connect and serve until the connection ends or `closing` is set.

        Raises:
            RefusedError: The broker does not want us.
            NotConnectedError: It cannot be reached, or did not answer. A connection that was
                accepted ends without an error.
        """
        self._was_accepted, self._problem, self._last_log = False, None, ""
        self._asked, self._denied = {}, {}
        self._client.on_log = self._note_log
        try:
            self._connect()
            answer_by = time.monotonic() + ANSWER_TIMEOUT_S
            while self._client.loop(timeout=1.0) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                if closing.is_set():
                    self._client.disconnect()
                if not self._was_accepted and time.monotonic() > answer_by:
                    raise self._unanswered()
                self._ask_again()
        except ssl.SSLError as error:
            raise RefusedError(
                f"the TLS handshake failed: {error}",
                where=self._settings.address,
                advice="Provision again, or check that both certificates come from this site's CA "
                "and that the broker's names this host.",
            ) from error
        except (OSError, ValueError) as error:
            raise NotConnectedError(
                f"the broker cannot be reached: {error}",
                where=self._settings.address,
                advice="Check the address and that the broker runs.",
            ) from error
        finally:
            self._events.ended()
        if not self._was_accepted and not closing.is_set():
            raise self._reason()

    def _connect(self) -> None:
        settings = self._settings
        if self.dialect != "5":
            self._client.connect(settings.host, settings.port, settings.keepalive_s)
            return
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = settings.receive_maximum
        properties.SessionExpiryInterval = settings.session_expiry_s
        self._client.connect(
            settings.host,
            settings.port,
            settings.keepalive_s,
            clean_start=settings.clean_start,
            properties=properties,
        )

    def _ask_again(self) -> None:
        now = time.monotonic()
        due = [name for name, at in self._denied.items() if now - at >= RESUBSCRIBE_S]
        for topic_filter in due:
            self._denied[topic_filter] = now
        self.subscribe(due)

    def _reason(self) -> TransportError:
        return self._dropped() if self._problem is None else self._problem

    def _unanswered(self) -> TransportError:
        # amqtt, for one, takes MQTT 5 for a damaged 3.1.1 and waits for the rest.
        return UnknownDialectError(
            f"the broker did not answer within {ANSWER_TIMEOUT_S:g} s",
            where=self._settings.address,
            advice=_CHECK_LISTENER,
        )

    def _dropped(self) -> TransportError:
        # With TLS 1.3 a broker's "no" to our certificate comes after the handshake.
        if self._has_tls and "alert" in self._last_log.lower():
            return RefusedError(
                f"the broker does not accept our certificate: {self._last_log}",
                where=self._settings.address,
                advice="Provision this device again.",
            )
        return SilenceError(
            "the broker hung up before it answered",
            where=self._settings.address,
            advice=_CHECK_LISTENER,
        )

    def _new_client(self, tls: ssl.SSLContext | None) -> Client:
        settings = self._settings
        is_5 = self.dialect == "5"
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            clean_session=None if is_5 else settings.clean_start,
            protocol=MQTTProtocolVersion.MQTTv5 if is_5 else MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(settings.send_window)
        client.connect_timeout = ANSWER_TIMEOUT_S
        if tls is not None:
            client.tls_set_context(tls)
        if settings.will is not None:
            will = settings.will
            client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        client.on_connect = self._on_connack
        client.on_disconnect = lambda *_: self._events.ended()
        client.on_message = lambda _client, _data, message: self._events.received(message)
        client.on_publish = self._on_puback
        client.on_subscribe = self._on_suback
        # With this set, paho leaves all writing to our thread instead of racing with it.
        client.on_socket_register_write = lambda *_: None
        return client

    def _on_connack(
        self, client: Client, _data: Any, _flags: Any, reason: ReasonCode, granted: Any
    ) -> None:
        client.on_log = None  # from here on it would only cost
        if reason.is_failure:
            self._problem = self._refusal(str(reason))
            return
        self._was_accepted = True
        self.subscribe(self._events.accepted(getattr(granted, "ReceiveMaximum", None)))

    def _refusal(self, reason: str) -> TransportError:
        address = self._settings.address
        if reason == "Unsupported protocol version":
            return UnknownDialectError(
                f"the broker does not speak MQTT {self.dialect}",
                where=address,
                advice="Use a broker that speaks MQTT 5 or 3.1.1.",
            )
        what = f"the broker refused the connection: {reason.lower()}"
        if reason in _REFUSALS:
            advice = "Check the device's certificate and that the broker knows the device."
            return RefusedError(what, where=address, advice=advice)
        return NotConnectedError(what, where=address, advice="Try again later.")

    def _on_puback(
        self, _client: Client, _data: Any, _mid: int, reason: ReasonCode, _properties: Any
    ) -> None:
        self._events.confirmed()
        self._tell_refusal("message", reason, "Check what this client is allowed to publish.")

    def _on_suback(
        self, _client: Client, _data: Any, number: int, reasons: list[ReasonCode], _p: Any
    ) -> None:
        self._events.subscribed()
        with self._asking:
            asked = self._asked.pop(number, ())
        for topic_filter, reason in zip(asked, reasons, strict=False):
            if not reason.is_failure:
                self._denied.pop(topic_filter, None)
            elif topic_filter not in self._denied:  # told once a connection
                self._denied[topic_filter] = time.monotonic()
                self._tell_refusal(
                    f"subscription to {topic_filter}", reason, "Check what this client may read."
                )

    def _tell_refusal(self, what: str, reason: ReasonCode, advice: str) -> None:
        if reason.is_failure:
            words = f"the broker refused a {what}: {str(reason).lower()}"
            self._events.refused(RefusedError(words, where=self._settings.address, advice=advice))

    def _note_log(self, _client: Client, _data: Any, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._last_log = text
