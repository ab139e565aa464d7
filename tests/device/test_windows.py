import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fieldloop.histogram import pack_counts, unpack_counts, write_counts
from fieldloop.telemetry import Clock, Resources, ShadowCounts, TelemetryWindow
from fieldloop_device.windows import can_merge, merge

CELLS = 6
counts = st.lists(st.integers(0, 50), min_size=CELLS, max_size=CELLS)


@st.composite
def windows(draw):
    start = draw(st.integers(0, 1000))
    # An outbox may still hold windows of an older release, whose counts are lists.
    full = counts.map(write_counts) | counts.map(lambda row: tuple(pack_counts(row)))
    packed = st.just("") | full
    rows = st.just(()) | st.tuples(full, full)
    plain = st.just(()) | st.tuples(st.integers(0, 9), st.integers(0, 9))
    number = st.integers(0, 100)
    return TelemetryWindow(
        boot=1,
        seq=draw(number),
        model="m",
        start=Clock(mono_ms=start, wall_ms=start),
        end=Clock(mono_ms=start + 5, wall_ms=start + 5),
        prediction_count=draw(number),
        rejected_count=draw(number),
        error_counts=draw(st.dictionaries(st.sampled_from(["A", "B"]), st.integers(1, 9))),
        latency_counts=draw(packed),
        confidence_counts=draw(rows),
        feature_counts=draw(rows),
        missing_counts=draw(plain),
        out_of_range_counts=draw(plain),
        stuck_counts=draw(plain),
        merged_count=draw(st.sampled_from([0, 2, 3])),
        dropped_count=draw(number),
        feedback_count=draw(number),
        feedback_correct_count=draw(number),
    )


def shadow(model="c", **counts):
    return ShadowCounts(model=model, **counts)


def window(shadow=None):
    at = Clock(mono_ms=0, wall_ms=0)
    return TelemetryWindow(boot=1, seq=1, model="m", start=at, end=at, shadow=shadow)


def test_what_is_known_about_a_challenger_is_added_too():
    first = shadow(
        row_count=3,
        agreed_counts=(1, 0),
        differed_counts=(1, 1),
        difference_counts=((-2, 3),),
        difference_sums=(1.5,),
        latency_counts=(3, -2),
        error_counts={"Crash": 1},
    )
    both = merge(window(first), window(first)).shadow
    assert both == shadow(
        row_count=6,
        agreed_counts=(2, 0),
        differed_counts=(2, 2),
        difference_counts=((-2, 6),),
        difference_sums=(3.0,),
        latency_counts=(6, -2),
        error_counts={"Crash": 2},
    )
    only_errors = shadow(error_counts={"Crash": 1})
    assert merge(window(first), window(only_errors)).shadow.difference_sums == (1.5,)
    assert merge(window(first), window()).shadow == first
    assert merge(window(), window(first)).shadow == first
    assert not can_merge(window(first), window(shadow("d")))
    assert can_merge(window(first), window())


def expanded(packed):
    return unpack_counts(packed, cell_count=CELLS) if packed else [0] * CELLS


def totals(window):
    """Everything that counts, as plain numbers."""
    return (
        window.prediction_count,
        window.rejected_count,
        window.feedback_count,
        window.feedback_correct_count,
        max(window.merged_count, 1),
        {name: window.error_counts.get(name, 0) for name in ("A", "B")},
        expanded(window.latency_counts),
        [expanded(row) for row in window.confidence_counts or [()] * 2],
        [expanded(row) for row in window.feature_counts or [()] * 2],
        list(window.missing_counts or (0, 0)),
        list(window.out_of_range_counts or (0, 0)),
        list(window.stuck_counts or (0, 0)),
    )


def added(a, b):
    if isinstance(a, dict):
        return {name: a[name] + b[name] for name in a}
    if isinstance(a, list):
        return [added(x, y) for x, y in zip(a, b, strict=True)]
    return a + b


@given(windows(), windows())
def test_merging_is_adding(first, second):
    merged = merge(first, second)
    for a, b, both in zip(totals(first), totals(second), totals(merged), strict=True):
        assert both == added(a, b)
    assert (merged.start, merged.end) == (first.start, second.end)
    assert merged.seq == second.seq
    assert merged.dropped_count == max(first.dropped_count, second.dropped_count)


@given(windows(), windows(), windows())
def test_the_order_of_merging_does_not_matter(first, second, third):
    assert totals(merge(merge(first, second), third)) == totals(merge(first, merge(second, third)))


@given(windows())
def test_only_windows_of_one_boot_and_model_merge(window):
    assert can_merge(window, window)
    assert not can_merge(window, msgspec.structs.replace(window, boot=2))
    assert not can_merge(window, msgspec.structs.replace(window, model="n"))


def test_levels_are_the_highest_and_what_was_spent_is_the_sum():
    now = Clock(mono_ms=0, wall_ms=0)
    window = TelemetryWindow(boot=1, seq=1, model="m", start=now, end=now)
    cool = Resources(rss_kib=10, cpu_ms=5, temperature_c=None, throttle_count=1)
    hot = Resources(rss_kib=7, cpu_ms=6, temperature_c=80.5, throttle_count=2)
    first, second = (msgspec.structs.replace(window, resources=item) for item in (cool, hot))
    expected = Resources(rss_kib=10, cpu_ms=11, temperature_c=80.5, throttle_count=3)
    assert merge(first, second).resources == merge(second, first).resources == expected
    assert merge(first, window).resources == cool
    assert merge(window, window).resources is None
