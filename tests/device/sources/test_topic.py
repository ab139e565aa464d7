import json
import threading

import pytest
from tests.support.brokers import client
from tests.support.waiting import wait_until

from fieldloop.errors import ConfigError
from fieldloop.transport import Message
from fieldloop_device.sources import topic
from fieldloop_device.sources.topic import TopicSource, read_message, topic_settings


def read(payload):
    item = read_message(Message("t", payload))
    return item.id, item.raw, item.error


def test_what_a_message_may_be():
    assert read(b'{"id": "a", "x": [1, 2]}') == ("a", [1, 2], None)
    assert read(b"[1, 2]") == (None, [1, 2], None)
    assert read(b'{"current": 1}') == (None, {"current": 1}, None)
    assert read(b"\x89PNG...") == (None, b"\x89PNG...", None)


def test_answers_must_not_come_back_as_inputs():
    settings = topic_settings("localhost", 1883, client_id="x")
    with pytest.raises(ConfigError, match="come back as inputs"):
        TopicSource(settings, "plant/#", answers="plant/answers")


def test_a_flood_that_nothing_holds_back_is_counted(monkeypatch):
    monkeypatch.setattr(topic, "_WAITING", 2)
    source = TopicSource(topic_settings("localhost", 1, client_id="x"), "t")
    for number in range(5):
        source._take(Message("t", str(number).encode()))
    assert "3 messages came faster" in source._lost().error.what


def test_messages_are_answered_over_a_real_broker(mosquitto):
    settings = topic_settings("127.0.0.1", mosquitto.port, client_id="pump-1-source")
    source = TopicSource(settings, "raw/+", answers="answers")
    stop = threading.Event()

    def serve():
        for item in source.items(stop):
            item.answer = {"id": item.id, "label": "good" if item.raw == [1] else "bad"}

    server = threading.Thread(target=serve)
    server.start()
    heard = []
    asker = client(mosquitto, "asker")

    def hear(message):
        heard.append(json.loads(message.payload))
        message.ack()

    asker.subscribe("answers", hear)
    with asker:
        # Retained: whoever subscribes later hears them too.
        asker.publish("raw/a", b'{"id": "a", "x": [1]}', retain=True)
        asker.publish("raw/b", b"[2]", retain=True)
        wait_until(lambda: len(heard) == 2, what="the answers")
    stop.set()
    server.join()
    assert {answer["id"]: answer["label"] for answer in heard} == {"a": "good", None: "bad"}
