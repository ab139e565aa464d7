"""Challengers in the shadow, seen from home: wished for, taken away, and their counts added up."""

from types import SimpleNamespace

import pytest

from fieldloop.errors import ConfigError, DataError
from fieldloop.state import DesiredState, ReportedState, ShadowWish
from fieldloop.telemetry import LATENCY_EDGES_MS, Clock, ShadowCounts, TelemetryWindow
from fieldloop_cloud.fleet.agreement import agreements
from fieldloop_cloud.fleet.rollout import Rollout
from fieldloop_cloud.fleet.shadowing import shadow
from fieldloop_cloud.fleet.store import Store

RUNNING, NEW, OTHER = "aa" * 32, "bb" * 32, "cc" * 32
BUNDLE = SimpleNamespace(sha256=NEW, size_bytes=700)
URL = "http://home/new.flb"
AT = Clock(mono_ms=1, wall_ms=1_700_000_000_000, synchronized=True)


def find(sha256):
    return (500, "http://home/running.flb") if sha256 == RUNNING else None


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        for device in ("pi-1", "pi-2"):
            state = ReportedState(boot=1, desired_ver=0, running_sha256=RUNNING)
            store.put_reported(device, state)
        yield store


def window(seq, counts, *, model="a" * 16):
    return TelemetryWindow(
        boot=1, seq=seq, model=model, start=AT, end=AT, prediction_count=9, shadow=counts
    )


def counts(agreed, differed, *, model="b" * 16, **more):
    latencies = [0] * (len(LATENCY_EDGES_MS) + 1)
    latencies[3] = sum(agreed) + sum(differed)
    return ShadowCounts(
        model=model,
        row_count=sum(agreed) + sum(differed),
        agreed_counts=agreed,
        differed_counts=differed,
        latency_counts=tuple(latencies),
        **more,
    )


def test_what_windows_say_is_added_up_by_pair(store):
    store.record("pi-1", "tel", window(1, counts((8, 0), (1, 1))))
    store.record("pi-1", "tel", window(2, None))
    store.record("pi-2", "tel", window(1, counts((0, 9), (0, 1), error_counts={"Crash": 2})))
    store.record("pi-2", "tel", window(2, counts((1, 0), (0, 0), model="c" * 16)))
    (pair, other) = agreements(store.shadowed_windows())
    assert (pair.champion, pair.challenger, pair.device_count) == ("a" * 16, "b" * 16, 2)
    assert (pair.agreed_counts, pair.differed_counts) == ((8, 9), (1, 2))
    assert (pair.row_count, pair.error_counts) == (20, {"Crash": 2})
    assert pair.share == pytest.approx(17 / 20)
    assert pair.low < 0.85 < pair.high
    assert pair.latency_p90_ms == LATENCY_EDGES_MS[3]
    assert "the same label for 85.0%" in pair.sentence
    assert "2 not answered" in pair.sentence
    assert (other.challenger, other.row_count) == ("c" * 16, 1)


def test_values_have_a_mean_difference(store):
    for seq, total in enumerate((3.0, 1.0), 1):
        said = ShadowCounts(
            model="b" * 16, row_count=2, difference_counts=((-5, 2, -21),), difference_sums=(total,)
        )
        store.record("pi-1", "tel", window(seq, said))
    (pair,) = agreements(store.shadowed_windows())
    assert pair.share is None
    assert pair.mean_differences == (1.0,)
    assert "a mean difference of 1 of 4 inputs" in pair.sentence


def test_windows_that_do_not_fit_are_refused(store):
    store.record("pi-1", "tel", window(1, counts((8, 0), (1, 1))))
    store.record("pi-1", "tel", window(2, counts((8,), (1,))))
    with pytest.raises(DataError, match="different things"):
        agreements(store.shadowed_windows())


def test_a_wish_keeps_what_the_device_runs_and_adds_the_challenger(store):
    store.put_desired("pi-2", DesiredState(ver=7, sha256=RUNNING, size_bytes=500, url="u"))
    wishes = shadow(store, ["pi-1", "pi-2"], BUNDLE, url=URL, find=find)
    assert store.desired() == wishes
    assert [wish.ver for wish in wishes.values()] == [1, 8]
    assert {wish.sha256 for wish in wishes.values()} == {RUNNING}
    assert {wish.shadow for wish in wishes.values()} == {
        ShadowWish(sha256=NEW, size_bytes=700, url=URL)
    }
    ended = shadow(store, ["pi-2"], None, find=find)
    assert (ended["pi-2"].ver, ended["pi-2"].shadow) == (9, None)


def test_what_cannot_be_compared_is_refused_and_nothing_is_wished(store):
    store.put_reported("pi-2", ReportedState(boot=1, running_sha256=OTHER))
    with pytest.raises(ConfigError, match="not reported"):
        shadow(store, ["pi-1", "pi-2"], BUNDLE, url=URL, find=find)
    same = SimpleNamespace(sha256=RUNNING, size_bytes=1)
    with pytest.raises(ConfigError, match="runs already"):
        shadow(store, ["pi-1"], same, url=URL, find=find)
    Rollout(store).start(BUNDLE, ["pi-1"], url=URL, now_ms=0)
    with pytest.raises(ConfigError, match="rollout"):
        shadow(store, ["pi-1"], BUNDLE, url=URL, find=find)
    assert store.desired() == {}


@pytest.mark.parametrize(("target", "is_kept"), [(OTHER, True), (NEW, False)])
def test_a_rollout_keeps_the_challenger_unless_it_is_promoted(store, target, is_kept):
    shadow(store, ["pi-1"], BUNDLE, url=URL, find=find)
    rollout = Rollout(store)
    rollout.start(SimpleNamespace(sha256=target, size_bytes=9), ["pi-1"], url=URL, now_ms=0)
    rollout.step(now_ms=0)
    wish = store.desired()["pi-1"]
    assert wish.sha256 == target
    assert (wish.shadow is not None) == is_kept
