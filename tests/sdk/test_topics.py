"""The topic grammar: nothing that is not one of ours gets through."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop import topics
from fieldloop.errors import ConfigError, DataError

devices = st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)
UP = ["tel", "evt", "smp", "rep", "status"]
DOWN = ["des", "ack"]


@given(devices, st.sampled_from(UP))
def test_up_topics_come_apart_again(device, channel):
    assert topics.parse(topics.up(device, channel)) == (device, "up", channel)


@given(devices, st.sampled_from(DOWN))
def test_down_topics_come_apart_again(device, channel):
    assert topics.parse(topics.down(device, channel)) == (device, "down", channel)


def test_topics_are_spelled_as_the_brokers_rules_expect():
    assert topics.up("pi-17", "tel") == "fl/v1/pi-17/up/tel"
    assert topics.down("pi-17", "ack") == "fl/v1/pi-17/down/ack"
    assert topics.up_filter("smp") == "fl/v1/+/up/smp"
    assert topics.up_filter() == "fl/v1/+/up/#"
    assert topics.down_filter("pi-17") == "fl/v1/pi-17/down/+"


@pytest.mark.parametrize(
    "device", ["", "+", "#", "a/b", "a+", "A", "ä", "a b", "a" * 65, "a\n", "a\0", "\u0661"]
)
def test_ids_that_could_speak_for_others_are_refused(device):
    for make in (
        lambda: topics.up(device, "tel"),
        lambda: topics.down(device, "des"),
        lambda: topics.down_filter(device),
        lambda: topics.checked_device_id(device),
    ):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(DataError):
        topics.parse(f"fl/v1/{device}/up/tel")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fl/v1/pi/up",
        "fl/v1/pi/up/tel/more",
        "fl/v2/pi/up/tel",
        "xl/v1/pi/up/tel",
        "fl/v1/pi/sideways/tel",
        "fl/v1/pi/up/des",
        "fl/v1/pi/down/tel",
        "fl/v1/pi/up/",
        "$SYS/broker/uptime",
        "/fl/v1/pi/up/tel",
    ],
)
def test_other_topics_are_refused(topic):
    with pytest.raises(DataError):
        topics.parse(topic)


@pytest.mark.parametrize(
    "make",
    [
        lambda: topics.up("pi", "des"),
        lambda: topics.down("pi", "tel"),
        lambda: topics.up_filter("ack"),
        lambda: topics.up("pi", "tel/#"),
    ],
)
def test_channels_belong_to_a_direction(make):
    with pytest.raises(ConfigError):
        make()


@given(st.text(max_size=80))
def test_no_text_raises_anything_else(text):
    with contextlib.suppress(DataError):
        topics.parse(text)
