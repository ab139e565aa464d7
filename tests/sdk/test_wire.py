"""JSON on the wire: small, forgiving towards the future, strict towards nonsense."""

import contextlib
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop import wire
from fieldloop.errors import DataError
from fieldloop.histogram import pack_counts
from fieldloop.state import DesiredState, HealthPolicy, Presence, ReportedState, SelfTestReceipt
from fieldloop.telemetry import (
    CONFIDENCE_EDGES,
    LATENCY_EDGES_MS,
    Ack,
    Clock,
    Event,
    FieldSample,
    TelemetryWindow,
)

counts = st.integers(0, 2**63 - 1)
clocks = st.builds(Clock, mono_ms=counts, wall_ms=counts, synchronized=st.booleans())
messages = st.one_of(
    st.builds(
        TelemetryWindow,
        boot=counts,
        seq=counts,
        model=st.text(max_size=16),
        start=clocks,
        end=clocks,
        sent=st.none() | clocks,
        prediction_count=counts,
        error_counts=st.dictionaries(st.text(max_size=20), counts, max_size=3),
        feature_counts=st.lists(st.lists(counts).map(tuple), max_size=3).map(tuple),
    ),
    st.builds(Event, boot=counts, seq=counts, at=clocks, kind=st.just("boot"), detail=st.text()),
    st.builds(Ack, boot=counts, ranges=st.lists(st.tuples(counts, counts)).map(tuple)),
    st.builds(Presence, boot=counts, online=st.booleans()),
    st.builds(
        FieldSample,
        boot=counts,
        seq=counts,
        at=clocks,
        model=st.text(),
        sample_id=st.text(),
        raw=st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.none()),
        predicted=st.none() | st.text() | st.integers(0, 9),
        confidence=st.none() | st.floats(0, 1),
    ),
)


@given(messages)
def test_what_is_sent_comes_back(message):
    assert wire.decode(type(message), wire.encode(message)) == message


@given(messages)
def test_unknown_fields_are_ignored(message):
    document = json.loads(wire.encode(message))
    document["from_the_future"] = {"deep": [1, 2.5, None, "x"]}
    assert wire.decode(type(message), json.dumps(document).encode()) == message


def realistic_window(seed, count):
    """A window of `count` predictions: 10 features x 10 bins, 3 classes."""
    rng = np.random.default_rng(seed)
    clock = Clock(mono_ms=86_400_000_123, wall_ms=1_795_000_000_123, synchronized=True)

    def packed(cells, spread):
        cell = np.clip(np.rint(rng.normal(cells / 2, spread, count)), 0, cells - 1).astype(int)
        return tuple(pack_counts(np.bincount(cell, minlength=cells).tolist()))

    shares = rng.multinomial(count, [0.5, 0.3, 0.2])
    confidences = [
        rng.multinomial(share, [0, 0, 0.01, 0.02, 0.03, 0.07, 0.12, 0.25, 0.5]) for share in shares
    ]
    assert len(confidences[0]) == len(CONFIDENCE_EDGES) + 1
    return TelemetryWindow(
        boot=117,
        seq=86_400,
        model="0123456789abcdef",
        start=clock,
        end=clock,
        sent=clock,
        prediction_count=count,
        rejected_count=3,
        error_counts={"SignatureError": 3},
        latency_counts=packed(len(LATENCY_EDGES_MS) + 1, 1.5),
        confidence_counts=tuple(tuple(pack_counts(row.tolist())) for row in confidences),
        feature_counts=tuple(packed(10, spread) for spread in np.linspace(0.7, 3.0, 10)),
        out_of_range_counts=(0, 0, 1, 0, 0, 0, 0, 2, 0, 0),
    )


@pytest.mark.parametrize("count", [30, 60, 120])
@pytest.mark.parametrize("seed", range(10))
def test_a_window_of_ten_features_and_three_classes_fits_600_bytes(seed, count):
    assert len(wire.encode(realistic_window(seed, count))) <= 600


@pytest.mark.parametrize("count", [10_000, 2**31])
def test_a_window_grows_only_with_the_digits_of_its_counts(count):
    window = realistic_window(0, 600)
    larger = msgspec.structs.replace(
        window,
        feature_counts=tuple(
            tuple(item * count if item > 0 else item for item in row)
            for row in window.feature_counts
        ),
    )
    digits = len(str(count))
    assert len(wire.encode(larger)) <= len(wire.encode(window)) + 100 * digits


@pytest.mark.parametrize(
    "message",
    [
        DesiredState(ver=3, sha256="a" * 64, size_bytes=9, url="http://x/y", health=HealthPolicy()),
        ReportedState(
            boot=1,
            self_test=SelfTestReceipt(
                sha256="b" * 64, max_deviation=0.0, p95_latency_ms=0.1, golden_count=32
            ),
        ),
    ],
)
def test_states_survive_too(message):
    assert wire.decode(type(message), wire.encode(message)) == message


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[1]",
        b'"text"',
        b"{",
        b'{"b": 1}',
        b'{"b": "1", "r": []}',
        b'{"b": 1.5, "r": []}',
        b'{"b": 1, "r": [[1]]}',
        b'{"b": 1, "r": [[1, 2, 3]]}',
        b'{"b": NaN, "r": []}',
        b'{"b": 1e300, "r": []}',
        b'{"b": 1, "r": [], "x": ' + b"[" * 20_000,
        b'{"b": 1, "r": [], "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"b": 1, "r": []} trailing',
    ],
    ids=range(16),
)
def test_nonsense_is_refused(payload):
    with pytest.raises(DataError) as caught:
        wire.decode(Ack, payload)
    assert caught.value.advice


@given(st.binary(max_size=200))
def test_no_payload_raises_anything_else(payload):
    for kind in (Ack, TelemetryWindow, FieldSample):
        with contextlib.suppress(DataError):
            wire.decode(kind, payload)


@pytest.mark.parametrize("key", [b"v", b"version"])
def test_a_newer_version_is_refused_with_advice_even_if_its_shape_changed(key):
    with pytest.raises(DataError, match=r"version 9.*Update"):
        wire.decode(Ack, b'{"%s": 9, "boot_uuid": "x"}' % key)
    with pytest.raises(DataError, match=r"version 9.*Update"):
        wire.decode(Presence, b'{"version": 9, "boot": 1, "online": true}')


def test_integers_beyond_64_bits_are_refused_wherever_they_hide():
    largest = 2**63 - 1
    assert wire.decode(Ack, b'{"b": %d, "r": []}' % largest).boot == largest
    for payload in (
        b'{"b": %d, "r": []}' % (largest + 1),
        b'{"b": 1, "r": [[1, %d]]}' % (largest + 1),
        b'{"b": %d, "r": []}' % -(2**64),
    ):
        with pytest.raises(DataError, match="64 bits"):
            wire.decode(Ack, payload)
    # A float with many digits is not an integer.
    assert wire.decode(Ack, b'{"b": 1, "r": [], "x": 0.12345678901234567890123}').boot == 1


def test_sizes_are_checked_before_parsing():
    with pytest.raises(DataError, match="larger"):
        wire.decode(Ack, b" " * (wire.MAX_PAYLOAD_BYTES + 1))
    with pytest.raises(DataError, match="elements"):
        wire.decode(Ack, b'{"b":1,"r":[' + b"[1,2]," * 100_000 + b"[1,2]]}")


def test_what_cannot_be_sent_is_refused():
    clock = Clock(mono_ms=0, wall_ms=0)
    sample = FieldSample(boot=1, seq=1, at=clock, model="", sample_id="", raw=[object()])
    with pytest.raises(DataError):
        wire.encode(sample)
    with pytest.raises(DataError, match="larger"):
        wire.encode(msgspec.structs.replace(sample, raw=["x" * wire.MAX_PAYLOAD_BYTES]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_say_is_refused_by_the_sender(bad):
    clock = Clock(mono_ms=0, wall_ms=0)
    sample = FieldSample(boot=1, seq=1, at=clock, model="", sample_id="", raw=[bad, None, "null"])
    # A missing value in the raw row is null on the wire: that is what it means.
    assert wire.decode(FieldSample, wire.encode(sample)).raw == [None, None, "null"]
    with pytest.raises(DataError, match="NaN"):
        wire.encode(msgspec.structs.replace(sample, inclusion_probability=bad))
