"""What every transport promises: the one in memory and the real one over real brokers."""

import pytest
from tests.support.brokers import DURABLE, Network
from tests.support.waiting import wait_until

from fieldloop.errors import ConfigError, NotConnectedError
from fieldloop.transport import Message, Will

INGEST = "svc.ingest"
TELEMETRY = "fl/v1/pump-1/up/tel"
STATUS = "fl/v1/pump-1/up/status"
DESIRED = "fl/v1/pump-1/down/des"
ALL_UP = "fl/v1/+/up/#"


class Inbox:
    """Collects messages and acknowledges them, or not."""

    def __init__(self, *, acknowledge: bool = True) -> None:
        self.acknowledge = acknowledge
        self.messages: list[Message] = []

    def __call__(self, message: Message) -> None:
        self.messages.append(message)
        if self.acknowledge:
            message.ack()

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


def test_a_message_reaches_the_subscriber_whole(network: Network):
    inbox, ingest, device = Inbox(), network.open(INGEST), network.open("pump-1")
    ingest.subscribe(ALL_UP, inbox)
    payload = bytes(range(256)) * 40
    with ingest, device:
        device.publish(TELEMETRY, payload)
        wait_until(lambda: inbox.messages)
    assert inbox.messages[0].topic == TELEMETRY
    assert inbox.messages[0].payload == payload
    assert not inbox.messages[0].retained


def test_messages_of_one_topic_keep_their_order(network: Network):
    inbox, ingest, device = Inbox(), network.open(INGEST), network.open("pump-1")
    ingest.subscribe(ALL_UP, inbox)
    sent = [b"%d" % number for number in range(300)]  # more than the send window
    with ingest, device:
        for payload in sent:
            device.publish(TELEMETRY, payload)
        wait_until(lambda: len(inbox.messages) >= len(sent))
    assert inbox.payloads == sent


def test_what_is_retained_waits_for_a_later_subscriber(network: Network):
    inbox, ingest, device = Inbox(), network.open(INGEST), network.open("pump-1")
    device.subscribe(DESIRED, inbox)
    with ingest:
        ingest.publish(DESIRED, b"old", retain=True)
        ingest.publish(DESIRED, b"new", retain=True)
    # Closing waits until the broker has them: only now is "later" true.
    with device:
        wait_until(lambda: inbox.messages)
    assert inbox.payloads == [b"new"]
    assert inbox.messages[0].retained


def test_an_empty_payload_takes_the_retained_message_away(network: Network):
    inbox, ingest, device = Inbox(), network.open(INGEST), network.open("pump-1")
    device.subscribe("fl/v1/pump-1/down/+", inbox)
    with ingest:
        ingest.publish(DESIRED, b"old", retain=True)
        ingest.publish(DESIRED, b"", retain=True)
    with device, network.open(INGEST) as again:
        again.publish("fl/v1/pump-1/down/cmd", b"last")
        wait_until(lambda: b"last" in inbox.payloads)
    assert b"old" not in inbox.payloads


def test_filters_take_what_they_match_and_nothing_else(network: Network):
    plus, exact = Inbox(), Inbox()
    ingest, one, two = network.open(INGEST), network.open("pump-1"), network.open("pump-2")
    ingest.subscribe("fl/v1/+/up/tel", plus)
    ingest.subscribe("fl/v1/pump-2/up/evt", exact)
    with ingest, one, two:
        one.publish(TELEMETRY, b"1")
        one.publish("fl/v1/pump-1/up/evt", b"not heard")
        two.publish("fl/v1/pump-2/up/tel", b"2")
        two.publish("fl/v1/pump-2/up/evt", b"3")
        wait_until(lambda: len(plus.messages) >= 2 and exact.messages)
    assert sorted(plus.payloads) == [b"1", b"2"]
    assert exact.payloads == [b"3"]


@pytest.mark.parametrize("network", DURABLE, indirect=True)
def test_what_was_not_acknowledged_comes_again_after_a_reconnect(network: Network):
    inbox, ingest = Inbox(acknowledge=False), network.open(INGEST)
    device = network.open("pump-1")
    ingest.subscribe(ALL_UP, inbox)
    with ingest, device:
        device.publish(TELEMETRY, b"kept")
        device.publish(TELEMETRY, b"acknowledged")
        wait_until(lambda: len(inbox.messages) == 2)
        inbox.messages[1].ack()
        before = list(inbox.messages)
        # On every broker the acknowledgement must have arrived before the line is cut.
        _round_trip(ingest, device)
        inbox.acknowledge = True
        network.drop(ingest)
        wait_until(lambda: inbox.payloads.count(b"kept") == 2)
        before[0].ack()  # of a connection that is gone: must do no harm
        device.publish(TELEMETRY, b"after")
        wait_until(lambda: b"after" in inbox.payloads)
    assert inbox.payloads.count(b"acknowledged") == 1


def _round_trip(ingest, device):
    answers = Inbox()
    device.subscribe("fl/v1/pump-1/down/cmd", answers)

    def asked() -> bool:
        ingest.publish("fl/v1/pump-1/down/cmd", b"ping")
        return bool(answers.messages)

    wait_until(asked)


@pytest.mark.parametrize("network", DURABLE, indirect=True)
def test_messages_for_a_client_that_is_away_wait_for_it(network: Network):
    inbox, ingest, device = Inbox(), network.open(INGEST), network.open("pump-1")
    ingest.subscribe(ALL_UP, inbox)
    ingest.connect()
    device.connect()
    ingest.close()
    for number in range(50):
        device.publish(TELEMETRY, b"%d" % number)
    _published(device)
    ingest.connect()
    wait_until(lambda: len(inbox.messages) >= 50)
    assert inbox.payloads == [b"%d" % number for number in range(50)]


def _published(device):
    """Wait until the broker has taken everything that this client has sent."""
    if hasattr(device, "_in_flight"):
        wait_until(lambda: device._in_flight == 0)


def test_the_will_is_said_after_a_break_and_not_after_a_goodbye(network: Network):
    inbox, ingest = Inbox(), network.open(INGEST)
    ingest.subscribe(STATUS, inbox)
    device = network.open("pump-1", will=Will(STATUS, b"dead"))
    with ingest:
        with device:
            network.drop(device)
            wait_until(lambda: b"dead" in inbox.payloads, what="the Will")
            device.publish(STATUS, b"goodbye", retain=True)
            wait_until(lambda: b"goodbye" in inbox.payloads)
        other = network.open("pump-2")
        with other:  # had the Will come again, it would have come before this
            _round_trip_up(ingest, other)
    assert inbox.payloads.count(b"dead") == 1


def _round_trip_up(ingest, device):
    heard = Inbox()
    ingest.subscribe("fl/v1/pump-2/up/evt", heard)

    def asked() -> bool:
        device.publish("fl/v1/pump-2/up/evt", b"ping")
        return bool(heard.messages)

    wait_until(asked)


def test_a_handler_that_raises_is_reported_once_and_the_next_message_comes(network: Network):
    heard: list[bytes] = []

    def handler(message: Message) -> None:
        heard.append(message.payload)
        if message.payload == b"bad":
            raise ValueError("cannot read this")
        message.ack()

    ingest, device = network.open(INGEST), network.open("pump-1")
    ingest.subscribe(ALL_UP, handler)
    with ingest, device:
        device.publish(TELEMETRY, b"bad")
        device.publish(TELEMETRY, b"good")
        wait_until(lambda: b"good" in heard)
        _round_trip(ingest, device)
        network.drop(ingest)
        device.publish(TELEMETRY, b"later")
        wait_until(lambda: b"later" in heard)
    assert heard.count(b"bad") == 1
    assert [str(error) for error in network.errors] == ["cannot read this"]


def test_publishing_without_a_connection_raises(network: Network):
    device = network.open("pump-1")
    with pytest.raises(NotConnectedError):
        device.publish(TELEMETRY, b"1")
    device.connect()
    assert device.is_connected
    network.stop()
    wait_until(lambda: not device.is_connected)
    with pytest.raises(NotConnectedError):
        device.publish(TELEMETRY, b"2")
    device.close()
    with pytest.raises(NotConnectedError):
        device.publish(TELEMETRY, b"3")


def test_after_the_broker_comes_back_everything_goes_on(network: Network):
    inbox, changes = Inbox(), []
    ingest, device = network.open(INGEST), network.open("pump-1")
    ingest.subscribe(ALL_UP, inbox)
    ingest.on_connection(changes.append)
    with ingest, device:
        device.publish(TELEMETRY, b"before")
        wait_until(lambda: inbox.messages)
        if network.is_durable:
            ingest.publish(DESIRED, b"wish", retain=True)
            _round_trip(ingest, device)
        network.stop()
        wait_until(lambda: not ingest.is_connected and not device.is_connected)
        wishes = Inbox()
        device.subscribe(DESIRED, wishes)
        network.start()
        wait_until(lambda: ingest.is_connected and device.is_connected)
        wait_until(lambda: _sent(device, b"after"))
        wait_until(lambda: b"after" in inbox.payloads, what="the subscription to be back")
        if network.is_durable:
            wait_until(lambda: b"wish" in wishes.payloads, what="the retained message")
    assert changes[:3] == [True, False, True]


def _sent(device, payload: bytes) -> bool:
    try:
        device.publish(TELEMETRY, payload)
    except NotConnectedError:
        return False
    return True


def test_a_stopped_broker_is_not_waited_for_when_told_so(network: Network):
    network.stop()
    device = network.open("pump-1")
    device.connect(timeout_s=0)
    assert not device.is_connected
    network.start()
    wait_until(lambda: device.is_connected)


def test_a_broker_that_cannot_be_reached_is_tried_in_the_background(network: Network):
    network.stop()
    device = network.open("pump-1")
    with pytest.raises(NotConnectedError):
        device.connect(timeout_s=0.2)
    network.start()
    wait_until(lambda: device.is_connected)


@pytest.mark.parametrize("topic", ["fl/v1/+/up/tel", "fl/v1/#", ""])
def test_a_topic_that_cannot_be_is_refused(network: Network, topic: str):
    with network.open("pump-1") as device, pytest.raises(ConfigError):
        device.publish(topic, b"x")


def test_two_connections_of_one_id_do_not_both_stay(network: Network):
    first, second = network.open("pump-1"), network.open("pump-1")
    first.connect()
    lost = []
    first.on_connection(lost.append)
    with second:
        wait_until(lambda: False in lost, what="the take-over")
        first.close()
        wait_until(lambda: second.is_connected)
