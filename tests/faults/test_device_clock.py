"""A wall clock that jumps while the agent works: windows, messages, ages and trials do not care."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.device.conftest import Bench
from tests.support.devices import WEIGHTS, desired, make_bundle, sha256_hex
from tests.support.file_server import serving

from fieldloop.state import HealthPolicy
from fieldloop.telemetry import TelemetryWindow

DAY_MS = 86_400_000
SETTINGS = "[telemetry]\nwindow_s = 1\noutbox_max_age_days = 30\nsample_budget_per_day = 10\n"
NEW = make_bundle(2, weights=-WEIGHTS)

jumps = st.lists(
    st.tuples(st.integers(-20_000 * DAY_MS, 20_000 * DAY_MS), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=10, deadline=None)
@given(jumps=jumps, outage=st.booleans())
def test_no_count_is_lost_and_no_window_stretched_by_a_jump(tmp_path_factory, jumps, outage):
    made = Bench(tmp_path_factory.mktemp("clock") / "device", settings=SETTINGS)
    made.cloud.acknowledges = not outage
    agent = made.start()
    now_ms = made.clock.wall_ms
    for jump_ms, is_believed in jumps:
        # Whoever sets the clock, right or wrong, the kernel calls it synchronised only then.
        made.clock.wall_ms = max(0, made.clock.wall_ms + jump_ms)
        made.clock.synchronized = False
        agent.predict([1.0, 2.0])
        made.clock.advance(1_000)
        made.talk()
        if is_believed:
            now_ms += 10_000
            made.clock.wall_ms, made.clock.synchronized = now_ms, True
    kept = [row.message() for row in agent.outbox.pending(limit=1_000)]
    found = {(item.boot, item.seq): item for item in [*made.cloud.messages, *kept]}
    windows = [item for item in found.values() if isinstance(item, TelemetryWindow)]
    assert sum(item.prediction_count for item in windows) == len(jumps)
    assert all(item.end.mono_ms - item.start.mono_ms == 1_000 for item in windows)
    assert agent.outbox.dropped_count == 0
    made.die()


def test_a_trial_lasts_as_long_as_it_lasts_whatever_the_date_says(tmp_path):
    made = Bench(tmp_path / "device", settings=SETTINGS)
    agent = made.start()
    with serving(NEW) as server:
        policy = HealthPolicy(min_predictions=2, min_duration_ms=60_000, max_duration_ms=120_000)
        made.cloud.want(desired(NEW, server.url, health=policy))
        for _ in range(20):
            agent._update()
    assert agent.store.records.job.phase == "trial"
    for jump_ms in (10 * DAY_MS, -30 * DAY_MS):
        made.clock.wall_ms += jump_ms
        agent.predict([1.0, 2.0])
        made.clock.advance(1_000)
        agent._update()
        assert agent.store.records.job.phase == "trial"
    made.clock.advance(60_000)
    agent._update()
    assert agent.store.records.job.phase == "committed"
    assert agent.running_sha256 == sha256_hex(NEW)
    made.die()


def test_only_what_is_known_to_be_old_is_dropped_after_a_jump(tmp_path):
    made = Bench(tmp_path / "device", settings=SETTINGS)
    made.cloud.acknowledges = False
    agent = made.start()
    agent.predict([1.0, 2.0])
    right_ms = made.clock.wall_ms
    made.clock.advance(1_000)
    made.talk()
    for wall_ms in (right_ms + 4_000 * DAY_MS, 0):
        made.clock.wall_ms, made.clock.synchronized = wall_ms, False
        made.clock.advance(1_000)
        agent.predict([1.0, 2.0])
        made.talk()
    made.clock.wall_ms, made.clock.synchronized = right_ms + 31 * DAY_MS, True
    made.clock.advance(3_600_000)
    agent.record(cut=True)
    kept = [row.message() for row in agent.outbox.pending(limit=100)]
    counted = sum(item.prediction_count for item in kept if isinstance(item, TelemetryWindow))
    # Only the first window is known to be too old; how old the others are nobody knows.
    assert counted == 2
    assert agent.outbox.dropped_count >= 1
    made.die()
