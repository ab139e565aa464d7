import pytest
from msgspec.structs import replace

from fieldloop.state import DesiredState, HealthPolicy, SelfTestReceipt
from fieldloop_device import machine
from fieldloop_device.records import Job, Records

OLD, NEW, NEWER = "0" * 64, "1" * 64, "2" * 64
RECEIPT = SelfTestReceipt(sha256=NEW, max_deviation=0.0, p95_latency_ms=1.0, golden_count=1)


def wish(ver=1, sha256=NEW):
    return DesiredState(ver=ver, sha256=sha256, size_bytes=10, url="http://x/y")


def at(phase, **job):
    return Records(accepted_ver=1, job=Job(desired=wish(), phase=phase, **job))


def accept(records, desired, running=OLD):
    return machine.accept(records, desired, running_sha256=running)


def test_a_new_wish_starts_a_download():
    records = accept(Records(), wish())
    assert (records.accepted_ver, records.job.phase) == (1, "downloading")


def test_what_runs_already_is_committed_at_once():
    assert accept(Records(), wish(), running=NEW).job.phase == "committed"


@pytest.mark.parametrize("phase", ["downloading", "trial", "committed", "rolled-back", "failed"])
def test_an_older_wish_is_refused_in_every_phase(phase):
    records = replace(at(phase), accepted_ver=5)
    assert accept(records, wish(ver=4, sha256=NEWER)) is None


@pytest.mark.parametrize("phase", machine.UNFINISHED)
def test_the_same_wish_again_changes_nothing(phase):
    assert accept(at(phase), wish()) is None


@pytest.mark.parametrize("phase", ["downloading", "verified", "staged", "self-test"])
def test_a_newer_wish_supersedes_an_unfinished_one(phase):
    records = accept(at(phase, slot="b", attempts=2), wish(ver=2, sha256=NEWER))
    assert records.job == Job(desired=wish(ver=2, sha256=NEWER), phase="downloading")


@pytest.mark.parametrize("phase", machine.UNFINISHED)
def test_a_newer_wish_for_the_same_bundle_goes_on_where_it_is(phase):
    records = at(phase, slot="b")
    assert not machine.must_roll_back_first(records, wish(ver=2))
    after = accept(records, wish(ver=2))
    assert (after.job.phase, after.job.desired.ver, after.accepted_ver) == (phase, 2, 2)


def test_only_a_trial_is_rolled_back_first():
    newer = wish(ver=2, sha256=NEWER)
    assert machine.must_roll_back_first(at("trial", slot="b"), newer)
    assert not machine.must_roll_back_first(at("self-test", slot="b"), newer)
    assert not machine.must_roll_back_first(at("trial", slot="b"), wish(ver=1, sha256=NEWER))


def test_a_denied_hash_is_refused_with_a_reason():
    records = accept(Records(denied=(NEW,)), wish())
    assert records.job.phase == "failed"
    assert "failed on this device before" in records.job.error


def test_a_failure_that_may_pass_is_taken_up_again_by_the_same_wish():
    failed = machine.fail(at("downloading"), "no network", blame=False, retry=True)
    assert accept(failed, wish()).job.phase == "downloading"
    final = machine.fail(at("downloading"), "not signed", blame=False)
    assert accept(final, wish()) is None


def test_a_committed_bundle_that_was_lost_is_fetched_again():
    assert accept(at("committed"), wish(), running=OLD).job.phase == "downloading"
    assert accept(at("committed"), wish(), running=NEW) is None


def test_a_rolled_back_bundle_is_never_fetched_again_by_the_same_wish():
    records = machine.decide_rollback(at("trial", slot="b", previous="a"), "bad", blame=True)
    assert accept(machine.finish_rollback(records), wish()) is None


def test_the_way_to_the_trial():
    records = machine.advance(at("downloading"), "verified")
    records = machine.advance(records, "staged", slot="b")
    records = machine.begin_self_test(machine.advance(records, "self-test"))
    assert (records.job.attempts, records.job.slot) == (1, "b")
    records = machine.begin_trial(records, RECEIPT, active="a")
    assert (records.job.phase, records.job.previous, records.self_test) == ("trial", "a", RECEIPT)


def test_a_trial_survives_one_restart_and_no_more():
    records = machine.begin_trial(at("self-test", slot="b"), RECEIPT, active="a")
    once = machine.use_try(records)
    assert once is not None
    assert machine.use_try(once) is None


def test_a_decided_rollback_survives_no_restart():
    records = machine.begin_trial(at("self-test", slot="b"), RECEIPT, active="a")
    assert machine.use_try(machine.decide_rollback(records, "bad", blame=True)) is None


@pytest.mark.parametrize(
    ("answered", "failed", "elapsed_ms", "verdict"),
    [
        (0, 0, 5_000, "wait"),
        (9, 0, 5_000, "wait"),
        (10, 0, 999, "wait"),
        (10, 0, 1_000, "commit"),
        (9, 1, 0, "rollback"),
        (98, 2, 0, "rollback"),
        (3, 1, 5_000, "wait"),
        (3, 0, 60_000, "rollback"),
        (10, 0, 60_000, "commit"),
        (200, 1, 1_000, "commit"),
    ],
)
def test_the_verdict_follows_the_policy(answered, failed, elapsed_ms, verdict):
    policy = HealthPolicy(
        min_predictions=10,
        min_duration_ms=1_000,
        max_duration_ms=60_000,
        max_error_rate=0.01,
    )
    got, reason = machine.judge(policy, answered=answered, failed=failed, elapsed_ms=elapsed_ms)
    assert got == verdict
    assert bool(reason) == (verdict == "rollback")


def test_only_a_commit_raises_the_floor_and_nothing_lowers_it():
    records = replace(at("trial", slot="b", previous="a"), floor=5)
    assert machine.commit(records, release=7).floor == 7
    assert machine.commit(records, release=3).floor == 5
    for other in (
        machine.fail(records, "x", blame=True),
        machine.finish_rollback(machine.decide_rollback(records, "x", blame=True)),
        accept(records, wish(ver=2, sha256=NEWER)),
    ):
        assert other.floor == 5


def test_blame_denies_the_hash():
    assert machine.fail(at("self-test"), "x", blame=True).denied == (NEW,)
    assert machine.fail(at("self-test"), "x", blame=False).denied == ()
    assert machine.decide_rollback(at("trial"), "x", blame=True).denied == (NEW,)
