"""MQTT over paho-mqtt: the only place that knows the client library.

`MqttTransport` is a `transport.Transport`. It speaks MQTT 5, which lets 500 messages be on their
way unacknowledged and messages expire, and falls back to 3.1.1 where a broker knows no more.

Three habits of the library are kept from the user. It queues without bound (or drops the newest)
when the broker is away: here `publish` raises, and at most `send_window` messages are in flight.
It calls a handler that raised again for ever: here that message is reported and acknowledged. And
an acknowledgement from before a reconnect could hit another message: here it does nothing.
"""

from fieldloop.mqtt.client import MqttTransport
from fieldloop.mqtt.settings import MqttSettings, TlsSettings
from fieldloop.transport import Message, Transport, Will

__all__ = ["Message", "MqttSettings", "MqttTransport", "TlsSettings", "Transport", "Will"]
