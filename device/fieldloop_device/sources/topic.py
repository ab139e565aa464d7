"""A topic of a broker nearby: other programs publish inputs, and may hear the answers.

A message is acknowledged when its answer is out, so one that was published with QoS 1 is answered
at least once, over restarts of the agent too.
"""

import json
import queue
import threading
from collections.abc import Iterator

from fieldloop.errors import ConfigError, DataError, NotConnectedError
from fieldloop.mqtt import MqttSettings, MqttTransport
from fieldloop.transport import Message, Transport, matches
from fieldloop_device.sources.lines import parse_line
from fieldloop_device.sources.source import POLL_S, Item

_WAITING = 256
"""Messages that wait for the model; the broker is told to hold the others back."""


class TopicSource:
    """Messages of a topic: `{"id": "…", "x": …}`, any other JSON value, or the bytes of an image.

    Args:
        settings: The broker; its certificate and session are not those of the fleet's broker.
        topic: A topic or a filter with wildcards.
        answers: Where answers are published, as `fieldloop-device run` prints them; None nowhere.

    Raises:
        ConfigError: Answers would come back as inputs.
    """

    def __init__(self, settings: MqttSettings, topic: str, *, answers: str | None = None) -> None:
        if answers is not None and matches(topic, answers):
            raise ConfigError(
                "the answers would come back as inputs",
                where=f"topic {topic}",
                advice="Publish them on a topic that the filter does not match.",
            )
        self._settings = settings
        self._topic = topic
        self._answers = answers
        self._waiting: queue.Queue[Message] = queue.Queue(_WAITING)
        self._lost_count = 0

    def items(self, stop: threading.Event) -> Iterator[Item]:
        """Give one item a message; the connection comes back by itself."""
        transport = MqttTransport(self._settings)
        transport.subscribe(self._topic, self._take)
        try:
            # A broker that is not up yet is waited for; one that says no is an error.
            transport.connect(timeout_s=0)
            while not stop.is_set():
                try:
                    message = self._waiting.get(timeout=POLL_S)
                except queue.Empty:
                    continue
                item = read_message(message)
                yield item
                if self._answered(transport, item):
                    message.ack()
                if self._lost_count:
                    yield self._lost()
        finally:
            transport.close()

    def _take(self, message: Message) -> None:
        try:
            self._waiting.put_nowait(message)
        except queue.Full:  # only QoS 0 comes in spite of the receive maximum
            self._lost_count += 1
            message.ack()

    def _lost(self) -> Item:
        count, self._lost_count = self._lost_count, 0
        return Item(
            None,
            error=DataError(
                f"{count} messages came faster than they could be answered and were dropped",
                where=f"topic {self._topic}",
                advice="Publish with QoS 1, or less often.",
            ),
        )

    def _answered(self, transport: Transport, item: Item) -> bool:
        if self._answers is None or item.answer is None:
            return True
        try:
            transport.publish(self._answers, json.dumps(item.answer).encode())
        except NotConnectedError:
            return False  # the message comes again with the connection
        return True


def topic_settings(host: str, port: int, *, client_id: str) -> MqttSettings:
    """Return the connection to a broker on this machine or network, plain and unauthenticated."""
    return MqttSettings(
        host=host, port=port, client_id=client_id, receive_maximum=_WAITING, session_expiry_s=3600
    )


def read_message(message: Message) -> Item:
    """Read one message: JSON where it is JSON, otherwise bytes."""
    payload = message.payload
    if payload.lstrip()[:1] == b"{" and (item := parse_line(payload)).error is None:
        return item
    try:
        return Item(None, json.loads(payload))
    except (ValueError, RecursionError):
        return Item(None, payload)
