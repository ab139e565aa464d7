import contextlib
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from tests.support.devices import (
    OTHER_KEY,
    WEIGHTS,
    desired,
    make_bundle,
    sha256_hex,
    trust,
)
from tests.support.file_server import serving

from fieldloop.device_root import read_active, write_active
from fieldloop.errors import EnvironmentFaultError, GateError
from fieldloop.state import HealthPolicy
from fieldloop_device import updater as module
from fieldloop_device.records import RecordStore
from fieldloop_device.runtime import Runtime
from fieldloop_device.selftest import replay

NEW = make_bundle(2, weights=-WEIGHTS)
NEWER = make_bundle(3, weights=2 * WEIGHTS)


def replay_here(agent):
    """The golden replay without the child process; test_selftest has the child."""

    def run(slot):
        with Runtime.open(agent.root.slot(slot), trust=trust()) as runtime:
            return replay(runtime)

    return run


@pytest.fixture
def started(bench):
    made = bench()
    agent = made.start()
    agent.updater._self_test = replay_here(agent)
    return made


def restart(made):
    made.die()
    agent = made.start()
    agent.updater._self_test = replay_here(agent)
    return agent


def phase(made):
    return made.agent.store.records.job.phase


def test_an_update_goes_through_every_phase_and_is_reported(started):
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run()
    assert started.cloud.phases() == [
        "idle",
        "downloading",
        "verified",
        "staged",
        "self-test",
        "trial",
        "committed",
    ]
    report = started.cloud.last_report()
    assert (report.running_sha256, report.release) == (sha256_hex(NEW), 2)
    assert report.self_test.golden_count == 8
    assert started.agent.store.records.floor == 2
    assert [event.kind for event in started.cloud.events()] == ["boot", "switched", "committed"]
    assert read_active(started.device.path) == "b"
    assert not list(started.device.root.slots.glob("*.part"))


def test_the_new_model_answers_from_the_switch_on(started):
    before = started.agent.predict([1.0, 2.0]).label
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run()
    assert before == "bad"
    assert started.agent.predict([1.0, 2.0]).label == "good"


def test_the_next_update_goes_into_the_other_slot(started):
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run()
    with serving(NEWER) as server:
        started.cloud.want(desired(NEWER, server.url, ver=2))
        started.run()
    assert started.agent.running_sha256 == sha256_hex(NEWER)
    assert read_active(started.device.path) == "a"


def refused(started, bundle, pattern, *, denied, **wish):
    with serving(bundle) as server:
        values = {"url": server.url, **wish}
        started.cloud.want(replace(desired(bundle, server.url), **values))
        started.run()
    report = started.cloud.last_report()
    assert report.phase == "failed"
    assert pattern in report.error
    assert report.running_sha256 == started.device.sha256
    assert (sha256_hex(bundle) in started.agent.store.records.denied) is denied
    assert started.cloud.events("update-failed")
    assert not list(started.device.root.slots.glob("*.part"))
    assert read_active(started.device.path) == "a"


def test_an_unknown_key_is_refused(started):
    refused(started, make_bundle(2, key=OTHER_KEY), "key", denied=False)


def test_a_changed_bundle_is_refused(started):
    changed = bytearray(NEW)
    changed[-1] ^= 1
    refused(started, bytes(changed), "changed after signing", denied=False)


def test_another_device_class_is_refused(started):
    refused(started, make_bundle(2, device_classes=("mcu",)), "mcu", denied=False)


def test_a_downgrade_is_refused(bench):
    made = bench(bundle=make_bundle(5))
    made.start()
    refused(made, NEW, "older than release 5", denied=False)


def test_a_bundle_that_is_too_large_is_refused_before_it_is_fetched(started):
    refused(started, NEW, "not accepted", denied=False, size_bytes=1 << 40)


def test_a_bundle_that_is_nowhere_is_refused(started):
    with serving(NEW, status=404) as server:
        refused(started, NEW, "404", denied=False, url=server.url)


def test_wrong_golden_answers_deny_the_bundle(started):
    refused(started, make_bundle(2, golden_wrong_by=0.5), "golden replay", denied=True)


def test_a_denied_bundle_is_not_even_fetched_again(started):
    bad = make_bundle(2, golden_wrong_by=0.5)
    with serving(bad) as server:
        started.cloud.want(desired(bad, server.url))
        started.run()
        count = len(server.requests)
        started.cloud.want(desired(bad, server.url, ver=2))
        started.run()
        assert len(server.requests) == count
    assert "failed on this device before" in started.cloud.last_report().error


def test_wrong_bytes_get_one_more_chance(started):
    rotten = NEW[:-1] + bytes([NEW[-1] ^ 1])
    with serving(rotten) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run(steps=2)
        assert phase(started) == "downloading"
        server.content = NEW
        started.run()
    assert phase(started) == "committed"


def test_wrong_bytes_for_ever_fail(started):
    with serving(NEW[:-1] + bytes([NEW[-1] ^ 1])) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run()
        assert len(server.requests) == 2
    assert (phase(started), started.agent.running_sha256) == ("failed", started.device.sha256)


def test_a_network_that_is_away_is_waited_for_with_growing_patience(started):
    with serving(NEW, status=503) as server:
        started.cloud.want(desired(NEW, server.url))
        for _ in range(50):
            started.agent.updater.step()
            started.clock.advance(100)
        few = len(server.requests)
        assert few <= 4
        assert "503" in started.agent.store.records.job.error
        server.status = 0
        started.clock.advance(60_000)
        started.run()
    assert phase(started) == "committed"


def test_after_a_long_absence_the_same_wish_starts_again(started):
    with serving(NEW, status=503) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run(steps=400)
        assert phase(started) == "failed"
        server.status = 0
        started.broker.drop("pump-1")  # the retained wish comes again with the new connection
        started.run()
    assert phase(started) == "committed"


def failing(made):
    def break_model(*_args, **_options):
        raise ValueError("this model is broken")

    made.agent.serving.runtime._codec.decode = break_model


def test_a_model_that_fails_on_trial_is_rolled_back_and_denied(started):
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        while started.agent.running_sha256 != sha256_hex(NEW):
            started.agent.updater.step()
        failing(started)
        for _ in range(3):
            with pytest.raises(Exception, match="broken"):
                started.agent.predict([1.0, 2.0])
        started.run()
    report = started.cloud.last_report()
    assert (report.phase, report.running_sha256) == ("rolled-back", started.device.sha256)
    assert "3 of 3 predictions failed" in report.error
    assert sha256_hex(NEW) in started.agent.store.records.denied
    assert started.agent.store.records.floor == 1
    assert read_active(started.device.path) == "a"
    assert started.agent.predict([1.0, 2.0]).label == "bad"


def test_a_trial_without_enough_answers_is_rolled_back(started):
    policy = HealthPolicy(min_predictions=5, max_duration_ms=30_000)
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url, health=policy))
        started.run(predictions=0)
    assert started.cloud.last_report().phase == "rolled-back"


def test_a_newer_wish_during_the_trial_keeps_the_last_good_slot(started):
    policy = HealthPolicy(min_predictions=1_000_000)
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url, health=policy))
        started.run(steps=10)
        assert (phase(started), started.agent.running_sha256) == ("trial", sha256_hex(NEW))
    with serving(NEWER) as server:
        started.cloud.want(desired(NEWER, server.url, ver=2))
        started.run()
    assert started.agent.running_sha256 == sha256_hex(NEWER)
    assert started.device.root.slot("a").read_bytes() == started.device.bundle
    assert sha256_hex(NEW) not in started.agent.store.records.denied


def test_a_newer_wish_stops_a_download(started):
    with serving(NEWER) as newer:
        wish = desired(NEWER, newer.url, ver=2)
        # The newer wish comes in while the older bundle is on its way.
        with serving(
            NEW, chunk_bytes=500, on_chunk=lambda: started.agent.updater.want(wish)
        ) as server:
            started.cloud.want(desired(NEW, server.url))
            started.run()
    assert started.agent.running_sha256 == sha256_hex(NEWER)
    assert not list(started.device.root.slots.glob("*.part"))


def test_stale_and_repeated_wishes_change_nothing(started):
    with serving(NEW) as server, serving(NEWER) as other:
        started.cloud.want(desired(NEW, server.url, ver=5))
        started.run()
        started.cloud.want(desired(NEWER, other.url, ver=4))
        started.cloud.want(desired(NEWER, other.url, ver=5))
        started.run()
        assert other.requests == []
    assert started.agent.running_sha256 == sha256_hex(NEW)


def test_a_report_that_is_not_heard_rolls_nothing_back(started):
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.agent.updater.step()
        started.broker.stop()
        started.run()
        assert phase(started) == "committed"
        restart(started)
        started.run(steps=3)
        assert phase(started) == "committed"
        started.broker.start()
        started.talk()
    assert started.cloud.last_report().running_sha256 == sha256_hex(NEW)


# Power cuts


class Killed(BaseException):
    """The process ends here."""


def durable_operations(monkeypatch, kill_at, *, after):
    """Count what is made durable, and die just before or after operation `kill_at`."""
    seen = []

    def wrap(owner, name):
        original = getattr(owner, name)

        def counted(*args, **options):
            seen.append(name)
            dies = len(seen) == kill_at
            if dies and not after:
                raise Killed
            result = original(*args, **options)
            if dies:
                raise Killed
            return result

        monkeypatch.setattr(owner, name, counted)

    wrap(RecordStore, "put")
    wrap(module, "write_active")
    wrap(module, "stage")
    wrap(module, "download")
    return seen


@pytest.mark.parametrize("after", [False, True])
def test_a_cut_at_any_step_ends_in_the_new_model_or_the_old_never_in_none(
    bench, monkeypatch, after
):
    kill_at = 0
    outcomes = []
    with serving(NEW) as server:
        while True:
            kill_at += 1
            made = bench()
            restart(made)
            with monkeypatch.context() as patch:
                seen = durable_operations(patch, kill_at, after=after)
                try:
                    made.cloud.want(desired(NEW, server.url))
                    made.run(steps=12)
                except Killed:
                    pass
            if len(seen) < kill_at:
                break
            restart(made)
            assert made.agent.predict([1.0, 2.0]).label in {"good", "bad"}
            made.run(steps=14)
            outcomes.append((seen[-1], phase(made)))
            assert made.agent.running_sha256 == sha256_hex(NEW), outcomes
            assert made.agent.store.records.floor == 2
            assert read_active(made.device.path) == "b"
            made.die()
    assert len(outcomes) >= 8
    assert {phase for _, phase in outcomes} == {"committed"}
    assert {name for name, _ in outcomes} == {"put", "write_active", "stage", "download"}


@pytest.mark.parametrize("after", [False, True])
def test_a_cut_at_any_step_of_a_rollback_ends_in_the_old_model(bench, monkeypatch, after):
    policy = HealthPolicy(min_predictions=5, max_duration_ms=1)
    kill_at = 0
    with serving(NEW) as server:
        while True:
            kill_at += 1
            made = bench()
            restart(made)
            made.cloud.want(desired(NEW, server.url, health=policy))
            while made.agent.running_sha256 != sha256_hex(NEW):
                made.agent.updater.step()
            made.clock.advance(10)
            with monkeypatch.context() as patch:
                seen = durable_operations(patch, kill_at, after=after)
                with contextlib.suppress(Killed):
                    made.agent.updater.step()
            if len(seen) < kill_at:
                break
            restart(made)
            made.clock.advance(10)
            made.run(predictions=1, steps=5)
            assert phase(made) == "rolled-back"
            assert made.agent.running_sha256 == made.device.sha256
            assert sha256_hex(NEW) in made.agent.store.records.denied
            made.die()
    assert kill_at > 3


def on_trial(made, server):
    policy = HealthPolicy(min_predictions=1_000_000)
    made.cloud.want(desired(NEW, server.url, health=policy))
    made.run(steps=10)
    assert phase(made) == "trial"


def test_a_trial_that_restarts_twice_is_rolled_back(started):
    with serving(NEW) as server:
        on_trial(started, server)
        restart(started)
        assert started.agent.running_sha256 == sha256_hex(NEW)
        assert phase(started) == "trial"
        restart(started)
    assert started.agent.running_sha256 == started.device.sha256
    assert phase(started) == "rolled-back"
    assert sha256_hex(NEW) in started.agent.store.records.denied
    started.talk()
    assert started.cloud.events("rolled-back")


def test_a_slot_that_rots_on_trial_is_left(started):
    with serving(NEW) as server:
        on_trial(started, server)
        started.die()
        slot = started.device.root.slot("b")
        slot.write_bytes(slot.read_bytes()[:-10])
        restart(started)
        assert started.agent.running_sha256 == started.device.sha256
        assert sha256_hex(NEW) not in started.agent.store.records.denied
        # The wish is still there: it is fetched once more.
        started.run(steps=10)
        assert started.agent.running_sha256 == sha256_hex(NEW)


def test_a_device_that_dies_in_every_self_test_gives_the_bundle_up(started):
    def deadly(_slot):
        raise Killed

    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        for _ in range(3):
            started.agent.updater._self_test = deadly
            with pytest.raises(Killed):
                started.run()
            started.die()
            started.start()
        started.agent.updater._self_test = deadly
        started.run()
    assert phase(started) == "failed"
    assert sha256_hex(NEW) in started.agent.store.records.denied


def test_a_stopped_self_test_is_no_attempt(started):
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.agent.updater._self_test = lambda _slot: None
        started.run(steps=10)
        assert started.agent.store.records.job.attempts == 0
        restart(started)
        started.run()
    assert phase(started) == "committed"


def test_a_lost_state_directory_cannot_be_used_to_downgrade(started):
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run()
    started.die()
    for path in (started.device.root.state, started.device.root.state_copy):
        path.unlink()
    old = make_bundle(1, weights=3 * WEIGHTS)
    restart(started)
    with serving(old) as server:
        started.cloud.want(desired(old, server.url, ver=9))
        started.run()
    assert started.cloud.last_report().phase == "failed"
    assert started.agent.running_sha256 == sha256_hex(NEW)


def test_flashing_over_a_trial_by_hand_wins(started):
    with serving(NEW) as server:
        on_trial(started, server)
    started.die()
    started.device.root.slot("b").write_bytes(NEWER)
    write_active(started.device.path, "b")
    (started.device.root.slots / "a.flb").unlink()
    restart(started)
    assert started.agent.running_sha256 == sha256_hex(NEWER)


def test_a_slot_that_gives_other_bytes_back_is_never_switched_to(started, monkeypatch):
    replace_file = Path.replace

    def rot(self, target):
        result = replace_file(self, target)
        if str(target).endswith("b.flb"):
            result.write_bytes(result.read_bytes()[:-1] + b"\0")
        return result

    monkeypatch.setattr(Path, "replace", rot)
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run(steps=10)
    assert started.agent.running_sha256 == started.device.sha256
    assert "other bytes" in started.agent.store.records.job.error


def test_a_state_that_cannot_be_stored_starts_no_trial(started, monkeypatch):
    real_put = RecordStore.put

    def full(self, records):
        if records.job is not None and records.job.phase == "trial":
            self.records = replace(records, revision=self.records.revision + 1)
            raise EnvironmentFaultError("the disk is full")
        return real_put(self, records)

    monkeypatch.setattr(RecordStore, "put", full)
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run(steps=10)
    assert read_active(started.device.path) == "a"
    assert started.agent.running_sha256 == started.device.sha256


def test_a_slow_model_is_refused_by_the_device(started):
    def slow(_slot):
        raise GateError("the model takes 90 ms here, 50 ms are allowed")

    started.agent.updater._self_test = slow
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run()
    assert "50 ms" in started.cloud.last_report().error


def test_a_fetched_model_is_first_loaded_by_the_child(started, monkeypatch):
    """A signed model can still crash its interpreter: the agent must not be the first to try."""
    opened = []
    real_open = Runtime.open.__func__
    monkeypatch.setattr(
        Runtime,
        "open",
        classmethod(lambda cls, *args, **kw: opened.append(1) or real_open(cls, *args, **kw)),
    )

    def stopped(_slot):
        return None

    started.agent.updater._self_test = stopped
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url))
        started.run(steps=10)
    assert phase(started) == "self-test"
    assert opened == []


def test_golden_outputs_may_deviate_within_the_tolerance(started):
    close = make_bundle(2, golden_wrong_by=5e-6, weights=np.eye(2, dtype=np.float32))
    with serving(close) as server:
        started.cloud.want(desired(close, server.url))
        started.run()
    assert phase(started) == "committed"
    assert 0 < started.cloud.last_report().self_test.max_deviation < 1e-5


def unwritable(*_args):
    raise EnvironmentFaultError("the disk is full")


def test_a_rollback_on_a_full_disk_runs_the_old_model_and_ends_when_there_is_space(
    started, monkeypatch
):
    policy = HealthPolicy(min_predictions=5, max_duration_ms=1)
    with serving(NEW) as server:
        started.cloud.want(desired(NEW, server.url, health=policy))
        while started.agent.running_sha256 != sha256_hex(NEW):
            started.agent.updater.step()
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_active", unwritable)
        started.run(predictions=0, steps=10)
        assert started.agent.running_sha256 == started.device.sha256
        assert read_active(started.device.path) == "b"
    started.run(predictions=0)
    assert (phase(started), read_active(started.device.path)) == ("rolled-back", "a")
    assert len(started.cloud.events("rolled-back")) == 1


def test_a_trial_that_cannot_be_counted_is_not_run(started, monkeypatch):
    with serving(NEW) as server:
        on_trial(started, server)
        started.die()
        with monkeypatch.context() as patch:
            patch.setattr(RecordStore, "put", unwritable)
            restart(started)
            started.run(steps=5)
            assert started.agent.running_sha256 == started.device.sha256
            assert phase(started) != "committed"
        restart(started)
        assert started.agent.running_sha256 == sha256_hex(NEW)
        assert phase(started) == "trial"
