from bisect import bisect_right

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.devices import dense_profile, dense_signature

from fieldloop import wire
from fieldloop.codec import Prediction
from fieldloop.histogram import Bins, unpack_counts
from fieldloop.profile import MonitoredQuantity, ReferenceProfile, monitored
from fieldloop.signature import FeatureSpec, ImageSpec, one_target
from fieldloop.telemetry import (
    CONFIDENCE_EDGES,
    LATENCY_EDGES_MS,
    Clock,
    Resources,
    TelemetryWindow,
)
from fieldloop_device.counting import BinCounter
from fieldloop_device.monitor import Monitor

WIRED = Clock(mono_ms=123_456_789, wall_ms=1_790_000_000_000, synchronized=True)
NOW = Clock(mono_ms=0, wall_ms=0)
LATER = Clock(mono_ms=1000, wall_ms=1000)


def monitor(**options):
    return Monitor(dense_signature(), dense_profile(), sha256="ab" * 32, now=NOW, **options)


def answer(label="good", confidence=0.97, latency_ms=0.02):
    return Prediction(label=label, confidence=confidence, outputs={}, latency_ms=latency_ms)


def rows(*values):
    return np.asarray(values, dtype=np.float32)


def test_nothing_happened_means_no_window():
    assert monitor().cut(LATER) is None


@given(
    st.lists(
        st.tuples(
            st.floats(-10, 10, width=32),
            st.floats(-10, 10, width=32) | st.just(float("nan")),
            st.floats(0.2, 1.0),
            st.floats(0.0001, 9000.0),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_a_window_counts_what_a_plain_loop_counts(stream):
    watch = monitor()
    for a, b, confidence, latency in stream:
        watch.record(rows([a, b]), [answer("bad", confidence, latency)])
    window = watch.cut(LATER)
    edges = dense_profile().quantities[0].bins.edges
    for column in range(2):
        expected = [0] * 4
        for item in stream:
            if item[column] == item[column]:
                expected[bisect_right(edges, item[column])] += 1
        assert unpack_counts(window.feature_counts[column], cell_count=4) == expected
    missing = sum(item[1] != item[1] for item in stream)
    assert (window.missing_counts or (0, 0)) == (0, missing)
    outside = tuple(sum(abs(item[c]) > 5 for item in stream) for c in range(2))
    assert (window.out_of_range_counts or (0, 0)) == outside
    latency = [0] * (len(LATENCY_EDGES_MS) + 1)
    confidence = [0] * (len(CONFIDENCE_EDGES) + 1)
    for item in stream:
        latency[bisect_right(LATENCY_EDGES_MS, item[3])] += 1
        confidence[bisect_right(CONFIDENCE_EDGES, item[2])] += 1
    assert unpack_counts(window.latency_counts, cell_count=len(latency)) == latency
    assert unpack_counts(window.confidence_counts[1], cell_count=len(confidence)) == confidence
    assert not any(unpack_counts(window.confidence_counts[0], cell_count=len(confidence)))
    assert window.prediction_count == len(stream)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_many_rows_overflow_no_buffer(batch):
    watch = monitor()
    total = 10_000
    for start in range(0, total, batch):
        count = min(batch, total - start)
        watch.record(np.zeros((count, 2), np.float32), [answer()] * count)
        assert sum(map(len, watch._rows)) <= 512
    window = watch.cut(LATER)
    assert window.prediction_count == total
    assert sum(unpack_counts(window.feature_counts[0], cell_count=4)) == total
    assert sum(unpack_counts(window.latency_counts, cell_count=29)) == total


def varied_profile(count=2):
    """Quantities whose reference fills ten cells: what a sensor gives."""
    bins = Bins(edges=tuple(np.linspace(-1.5, 1.5, 9)))
    return ReferenceProfile(
        quantities=tuple(
            MonitoredQuantity(name=f"f{i}", bins=bins, counts=(9,) * 10, low=-9, high=9)
            for i in range(count)
        )
    )


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=8),
    st.lists(st.integers(1, 50), min_size=1, max_size=8),
)
def test_a_stuck_sensor_is_counted_as_a_plain_loop_counts_it(runs, batches):
    """Runs of equal values, cut into batches and windows anyhow; the other sensor moves."""
    signature = dense_signature(features=("f0", "f1"))
    watch = Monitor(signature, varied_profile(), sha256="ab", now=NOW)
    column = [float(number) for number, length in enumerate(runs) for _ in range(length)]
    expected = sum(max(length - 31, 0) for length in runs)
    values = np.column_stack([column, np.arange(len(column)) % 7]).astype(np.float32)
    stuck, start = 0, 0
    while start < len(values):
        size = batches[start % len(batches)]
        watch.record(values[start : start + size], [answer()] * len(values[start : start + size]))
        start += size
        window = watch.cut(LATER)
        stuck += (window.stuck_counts or (0, 0))[0]
        assert (window.stuck_counts or (0, 0))[1] == 0
    assert stuck == expected


def test_a_run_in_the_very_first_rows_counts():
    watch = Monitor(dense_signature(), varied_profile(), sha256="ab", now=NOW)
    still = np.column_stack([np.ones(32), np.arange(32)]).astype(np.float32)
    watch.record(still, [answer()] * 32)
    assert watch.cut(LATER).stuck_counts == (1, 0)


@given(st.lists(st.integers(-1, 50) | st.just(None), min_size=1, max_size=60))
def test_a_quantity_of_many_cells_is_counted_like_one_of_few(values):
    edges = (tuple(i + 0.5 for i in range(49)), (10.0, 20.0))
    counter = BinCounter([np.asarray(item) for item in edges])
    column = np.array([np.nan if value is None else value for value in values])
    counter.add(np.column_stack([column, column]))
    for item, found in zip(edges, counter.take(), strict=True):
        expected = np.zeros(len(item) + 1, dtype=np.int64)
        for value in values:
            if value is not None:
                expected[bisect_right(item, value)] += 1
        assert found.tolist() == expected.tolist()
    assert not any(counts.any() for counts in counter.take())


def test_what_may_stand_still_is_never_stuck():
    """A switch fills few cells of its reference; a missing value is not equal to itself."""
    features = (FeatureSpec(name="f0", categories=("on", "off")), FeatureSpec(name="f1"))
    signature = msgspec.structs.replace(dense_signature(), features=features)
    still = rows([1.0, np.nan])
    watch = Monitor(signature, varied_profile(), sha256="ab", now=NOW)
    switch_profile = msgspec.structs.replace(
        dense_profile(),
        quantities=tuple(
            msgspec.structs.replace(item, counts=(0, 9, 0, 9))
            for item in dense_profile().quantities
        ),
    )
    switch = Monitor(dense_signature(), switch_profile, sha256="ab", now=NOW)
    for _ in range(100):
        watch.record(still, [answer()])
        switch.record(rows([1, 1]), [answer()])
    assert watch.cut(LATER).stuck_counts == ()
    assert switch.cut(LATER).stuck_counts == ()


@pytest.mark.parametrize("count", [60, 600, 6000])
def test_a_window_of_ten_features_and_three_classes_takes_600_bytes(count):
    names = [f"f{i}" for i in range(10)]
    signature = msgspec.structs.replace(
        dense_signature(features=names), targets=one_target(("a", "b", "c"))
    )
    rng = np.random.default_rng(count)
    watch = Monitor(signature, varied_profile(10), sha256="ab" * 32, now=WIRED)
    for number in range(count):
        confidence, latency = rng.uniform(0.34, 1.0), rng.lognormal(-3, 0.5)
        row = rng.normal(size=(1, 10)).astype(np.float32)
        watch.record(row, [answer("abc"[number % 3], confidence, latency)])
    window = msgspec.structs.replace(
        watch.cut(WIRED),
        boot=999,
        seq=99_999,
        sent=WIRED,
        out_of_range_counts=(12,) * 10,
        resources=Resources(rss_kib=123_456, cpu_ms=12_345, temperature_c=71.5, throttle_count=9),
    )
    payload = wire.encode(window)
    assert len(payload) <= 600
    assert wire.decode(TelemetryWindow, payload) == window


def test_a_window_tells_what_the_process_took():
    watch = monitor()
    watch.record(rows([0, 0]), [answer()])
    taken = watch.cut(LATER).resources
    assert 1_000 < taken.rss_kib < 10_000_000
    assert taken.cpu_ms >= 0


def test_windows_do_not_overlap():
    watch = monitor()
    watch.record(rows([0, 0]), [answer()])
    first = watch.cut(LATER)
    watch.reject()
    watch.fail(ValueError("x"))
    watch.feedback(correct=True)
    watch.feedback(correct=False)
    second = watch.cut(Clock(mono_ms=2000, wall_ms=2000))
    assert (first.start, first.end, second.start) == (NOW, LATER, LATER)
    assert (second.prediction_count, second.rejected_count) == (0, 1)
    assert second.error_counts == {"ValueError": 1}
    assert (second.feedback_count, second.feedback_correct_count) == (2, 1)
    assert second.latency_counts == "*d"
    assert watch.totals == (1, 1)
    assert watch.cut(LATER) is None


def test_image_statistics_are_those_of_the_profile():
    signature = dense_signature(image=ImageSpec(height=4, width=4, channels=1), count=16)
    images = np.random.default_rng(1).random((600, 16)).astype(np.float32)
    statistics = monitored(signature, images)
    profile = ReferenceProfile(
        quantities=tuple(
            MonitoredQuantity(
                name=f"q{index}",
                bins=Bins.from_reference(statistics[:, index], cell_count=5),
                counts=(),
                low=float(statistics[:, index].min()),
                high=float(statistics[:, index].max()),
            )
            for index in range(statistics.shape[1])
        )
    )
    watch = Monitor(signature, profile, sha256="ab" * 32, now=NOW)
    for image in images:
        watch.record(image[np.newaxis], [answer()])
    window = watch.cut(LATER)
    for index, quantity in enumerate(profile.quantities):
        expected = quantity.bins.count(statistics[:, index]).tolist()
        got = unpack_counts(window.feature_counts[index], cell_count=quantity.bins.cell_count)
        assert got == expected
    assert window.out_of_range_counts == ()


def test_a_window_of_ten_features_and_three_classes_is_small_on_the_wire():
    names = [f"f{i}" for i in range(10)]
    signature = dense_signature(features=names)
    bins = Bins(edges=tuple(np.linspace(-2, 2, 9)))
    profile = ReferenceProfile(
        quantities=tuple(
            MonitoredQuantity(name=name, bins=bins, counts=(), low=-9, high=9) for name in names
        )
    )
    watch = Monitor(signature, profile, sha256="ab" * 32, now=NOW)
    random = np.random.default_rng(0)
    for _ in range(60):
        watch.record(
            random.normal(size=(1, 10)).astype(np.float32),
            [answer(random.choice(["good", "bad"]), random.uniform(0.4, 1), random.uniform(0.01))],
        )
    assert len(wire.encode(watch.cut(LATER))) <= 600
