"""A rollout: canary first, then all, and a halt at the first device that says no."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fieldloop.errors import ConfigError, NotConnectedError
from fieldloop.state import DesiredState, ReportedState
from fieldloop_cloud.fleet.rollout import Rollout
from fieldloop_cloud.fleet.store import Store

SHA = "ab" * 32
DEVICES = ["pi-1", "pi-2", "pi-3"]
BUNDLE = SimpleNamespace(sha256=SHA, size_bytes=1000)
URL = f"http://127.0.0.1:8080/releases/{SHA}.flb"


class Field:
    """Devices that report what a test says, through the real store."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path / "store.sqlite")
        self.sent: list[tuple[str, DesiredState]] = []

    def publish(self, device: str, wish: DesiredState) -> None:
        self.sent.append((device, wish))

    def rollout(self) -> Rollout:
        return Rollout(self.store, self.publish)

    def report(self, device: str, phase: str, *, sha256: str = SHA, **more: object) -> None:
        wish = self.store.desired()[device]
        state = {"boot": 1, "desired_ver": wish.ver, "running_sha256": sha256, "phase": phase}
        self.store.put_reported(device, ReportedState(**(state | more)))

    @property
    def asked(self) -> list[str]:
        return [device for device, _ in self.sent]


@pytest.fixture
def field(tmp_path):
    field = Field(tmp_path)
    yield field
    field.store.close()


def test_only_the_canary_is_asked_until_it_reports_the_running_hash(field):
    rollout = field.rollout()
    rollout.start(BUNDLE, DEVICES, url=URL, now_ms=0)
    rollout.step(now_ms=0)
    assert field.asked == ["pi-1"]
    for phase in ("downloading", "verified", "trial"):
        field.report("pi-1", phase)
        rollout.step(now_ms=10)
    field.report("pi-1", "committed", sha256="cd" * 32)  # committed, but something else runs
    rollout.step(now_ms=20)
    assert field.asked == ["pi-1"]
    field.report("pi-1", "committed")
    assert rollout.step(now_ms=30).stage == "all"
    assert field.asked == DEVICES
    field.report("pi-2", "committed")
    assert rollout.step(now_ms=40).stage == "all"
    field.report("pi-3", "committed")
    done = rollout.step(now_ms=50)
    assert (done.stage, done.finished_ms, done.count("committed")) == ("done", 50, 3)


@pytest.mark.parametrize("phase", ["rolled-back", "failed"])
def test_a_device_that_says_no_halts_the_rollout_with_its_reason(field, phase):
    rollout = field.rollout()
    rollout.start(BUNDLE, DEVICES, url=URL, now_ms=0)
    rollout.step(now_ms=0)
    field.report("pi-1", phase, error="golden replay deviates by 0.3")
    state = rollout.step(now_ms=10)
    assert state.stage == "paused"
    assert "pi-1: golden replay deviates by 0.3" in state.reason
    rollout.step(now_ms=20)
    assert field.asked == ["pi-1"]


def test_an_old_report_about_an_earlier_wish_is_no_success_and_no_failure(field):
    field.store.put_desired("pi-1", DesiredState(ver=4, sha256=SHA, size_bytes=1, url="http://x"))
    field.report("pi-1", "committed")
    rollout = field.rollout()
    rollout.start(BUNDLE, DEVICES, url=URL, now_ms=0)
    assert rollout.step(now_ms=0).devices["pi-1"].ver == 5
    assert rollout.step(now_ms=10).devices["pi-1"].state == "updating"
    assert field.asked == ["pi-1"]


def _watch(rollout, until_ms):
    """Look every ten seconds, as a server does; return the last state."""
    for now_ms in range(10_000, until_ms, 10_000):
        rollout.step(now_ms=now_ms)
    return rollout.step(now_ms=until_ms)


def test_silence_until_the_deadline_is_failure(field):
    rollout = field.rollout()
    rollout.start(BUNDLE, DEVICES, url=URL, deadline_s=60, now_ms=1)
    rollout.step(now_ms=1)
    assert _watch(rollout, 60_000).stage == "canary"
    state = rollout.step(now_ms=60_001)
    assert state.stage == "paused"
    assert "never reported" in state.reason


def test_time_in_which_no_server_listened_is_not_held_against_a_device(field):
    field.rollout().start(BUNDLE, DEVICES, url=URL, deadline_s=60, now_ms=1)
    field.rollout().step(now_ms=1)
    # The server was down for an hour; the device committed meanwhile and reports soon after.
    assert field.rollout().step(now_ms=3_600_000).stage == "canary"
    field.report("pi-1", "committed")
    assert field.rollout().step(now_ms=3_600_500).stage == "all"


def test_another_process_takes_over_where_the_first_was_stopped(field):
    field.rollout().start(BUNDLE, DEVICES, url=URL, now_ms=0)
    field.rollout().step(now_ms=0)
    field.report("pi-1", "committed")
    state = field.rollout().step(now_ms=10)
    assert state.stage == "all"
    assert field.asked == DEVICES
    field.rollout().step(now_ms=20)
    assert field.asked == DEVICES, "nobody is asked twice"


def test_a_wish_that_could_not_be_published_is_made_again(field):
    def refuse(device: str, wish: DesiredState) -> None:
        raise NotConnectedError("the broker is gone")

    field.rollout().start(BUNDLE, DEVICES, url=URL, now_ms=0)
    with pytest.raises(NotConnectedError):
        Rollout(field.store, refuse).step(now_ms=0)
    field.rollout().step(now_ms=10)
    assert field.asked == ["pi-1"]
    assert field.sent[0][1] == field.store.desired()["pi-1"]


def test_pause_asks_nobody_further_but_still_listens_and_resume_goes_on(field):
    rollout = field.rollout()
    rollout.start(BUNDLE, DEVICES, url=URL, now_ms=0)
    rollout.step(now_ms=0)
    rollout.pause()
    field.report("pi-1", "committed")
    assert rollout.step(now_ms=10).devices["pi-1"].state == "committed"
    assert field.asked == ["pi-1"]
    rollout.resume(now_ms=20)
    assert field.asked == DEVICES


def test_resume_asks_a_failed_device_again_with_a_higher_version(field):
    rollout = field.rollout()
    rollout.start(BUNDLE, DEVICES, url=URL, now_ms=0)
    rollout.step(now_ms=0)
    field.report("pi-1", "failed")
    rollout.step(now_ms=10)
    rollout.resume(now_ms=20)
    assert [wish.ver for _, wish in field.sent] == [1, 2]
    assert rollout.step(now_ms=30).devices["pi-1"].state == "updating"


def test_abort_ends_it_and_a_new_one_may_begin(field):
    rollout = field.rollout()
    rollout.start(BUNDLE, DEVICES, url=URL, now_ms=0)
    rollout.step(now_ms=0)
    with pytest.raises(ConfigError, match="is canary"):
        rollout.start(BUNDLE, DEVICES, url=URL)
    assert rollout.abort(now_ms=5).stage == "aborted"
    rollout.step(now_ms=10)
    assert field.asked == ["pi-1"]
    with pytest.raises(ConfigError, match="is aborted"):
        rollout.resume()
    assert rollout.start(BUNDLE, DEVICES[:1], url=URL, now_ms=20).stage == "canary"


@pytest.mark.parametrize(
    ("devices", "canary", "deadline_s"),
    [
        ([], 1, 60),
        (["a", "a"], 1, 60),
        (["a"], 2, 60),
        (["a"], 0, 60),
        (["a"], 1, 0),
        (["A/b"], 1, 1),
    ],
)
def test_what_makes_no_sense_is_refused(field, devices, canary, deadline_s):
    with pytest.raises(ConfigError):
        field.rollout().start(BUNDLE, devices, url=URL, canary=canary, deadline_s=deadline_s)


def test_without_a_rollout_commands_say_so(field):
    assert field.rollout().step() is None
    with pytest.raises(ConfigError, match="no rollout"):
        field.rollout().status()
