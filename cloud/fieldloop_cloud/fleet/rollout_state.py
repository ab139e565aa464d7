"""A rollout's state, and the decision what comes next; neither disk nor network.

States of a rollout: canary -> all -> done; any of the first two -> paused -> back, or aborted.
States of a device: waiting -> updating -> committed | failed. A device has succeeded when it
*reports* that it runs the target's hash and has committed it; it has failed when it reports so or
is silent until its deadline. One failed device pauses the rollout: nobody else is touched.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from fieldloop.state import HealthPolicy, ReportedState

Stage = Literal["canary", "all", "done", "paused", "aborted"]
Progress = Literal["waiting", "updating", "committed", "failed"]

DEFAULT_DEADLINE_S = 3600.0

WATCH_NOTE_MS = 10_000
"""How often it is noted that somebody watches."""

UNWATCHED_MS = 30_000
"""A longer gap between two looks was a time in which nobody listened."""

ACTIVE: frozenset[str] = frozenset({"canary", "all", "paused"})
"""Stages in which a rollout still has something to do."""


class DeviceProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one device stands.

    Attributes:
        state: Of the device within the rollout.
        ver: Version of the desired state that it was given; 0 before.
        deadline_ms: When silence becomes failure; 0 before it was asked.
        reason: Why it failed; empty otherwise.
    """

    state: Progress = "waiting"
    ver: int = 0
    deadline_ms: int = 0
    reason: str = ""


class RolloutState(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as the store keeps it.

    Attributes:
        rollout_id: Its name in the store.
        sha256: Bundle that devices shall run.
        size_bytes: Its size.
        url: Where they fetch it.
        health: When a device may commit it.
        stage: Of the rollout.
        resume_to: Stage that `resume` goes back to; empty unless paused.
        canary_count: Devices that go first.
        deadline_s: Seconds a device has from the wish to the commit.
        devices: Progress by device, in the order in which they are served.
        reason: Why it is paused or aborted; empty otherwise.
        started_ms: When it began, milliseconds since 1970 UTC.
        finished_ms: When it was done or aborted; 0 before.
        watched_ms: When somebody last looked at it; see `watched`.
    """

    rollout_id: str
    sha256: str
    size_bytes: int
    url: str
    health: HealthPolicy = HealthPolicy()
    stage: Stage = "canary"
    resume_to: Literal["", "canary", "all"] = ""
    canary_count: int = 1
    deadline_s: float = DEFAULT_DEADLINE_S
    devices: dict[str, DeviceProgress]
    reason: str = ""
    started_ms: int = 0
    finished_ms: int = 0
    watched_ms: int = 0

    @property
    def is_active(self) -> bool:
        """Whether it still has something to do."""
        return self.stage in ACTIVE

    def count(self, state: Progress) -> int:
        """Return how many devices are in this state."""
        return sum(item.state == state for item in self.devices.values())


def watched(state: RolloutState, now_ms: int) -> RolloutState:
    """Return the rollout with the note that it is being watched.

    While nobody watched (the server was down) no report could come in, so that time is not held
    against the devices: their deadlines move by it.
    """
    gap_ms = now_ms - state.watched_ms
    if state.watched_ms and gap_ms < WATCH_NOTE_MS:
        return state
    missed_ms = gap_ms if state.watched_ms and gap_ms > UNWATCHED_MS else 0
    devices = {
        name: msgspec.structs.replace(item, deadline_ms=item.deadline_ms + missed_ms)
        if item.state == "updating"
        else item
        for name, item in state.devices.items()
    }
    return msgspec.structs.replace(state, watched_ms=now_ms, devices=devices)


def advanced(
    state: RolloutState, reported: Mapping[str, ReportedState], now_ms: int
) -> RolloutState:
    """Return the rollout after reading what devices report; wishes are made by the caller.

    This is the whole decision, without disk or network: devices in `waiting` become `updating`
    when their turn has come, `updating` ones become `committed` or `failed`, and the stage
    follows. A paused rollout still listens, so that what was on its way is known.
    """
    devices = {
        name: _judged(item, reported.get(name), state.sha256, now_ms)
        for name, item in state.devices.items()
    }
    state = msgspec.structs.replace(state, devices=devices)
    if state.stage not in ("canary", "all"):
        return state
    failed = [f"{name}: {item.reason}" for name, item in devices.items() if item.state == "failed"]
    if failed:
        return paused(state, f"{len(failed)} of {len(devices)} devices failed: {'; '.join(failed)}")
    first = list(devices)[: state.canary_count]
    if state.stage == "canary" and all(devices[name].state == "committed" for name in first):
        state = msgspec.structs.replace(state, stage="all")
    if state.stage == "all" and state.count("committed") == len(devices):
        return msgspec.structs.replace(state, stage="done", finished_ms=now_ms)
    turn = first if state.stage == "canary" else list(devices)
    return _asked(state, turn, now_ms)


def _judged(
    item: DeviceProgress, report: ReportedState | None, sha256: str, now_ms: int
) -> DeviceProgress:
    """Move one device on by what it last reported."""
    if item.state != "updating":
        return item
    if report is not None and report.desired_ver == item.ver:
        if report.phase in ("rolled-back", "failed"):
            reason = report.error or f"it reports {report.phase}"
            return msgspec.structs.replace(item, state="failed", reason=reason)
        if report.running_sha256 == sha256 and report.phase == "committed":
            return msgspec.structs.replace(item, state="committed")
    if now_ms >= item.deadline_ms:
        phase = f"it last reported {report.phase}" if report else "it never reported"
        return msgspec.structs.replace(
            item, state="failed", reason=f"not committed before the deadline; {phase}"
        )
    return item


def _asked(state: RolloutState, turn: Sequence[str], now_ms: int) -> RolloutState:
    deadline_ms = now_ms + int(state.deadline_s * 1000)
    devices = {
        name: msgspec.structs.replace(item, state="updating", deadline_ms=deadline_ms)
        if name in turn and item.state == "waiting"
        else item
        for name, item in state.devices.items()
    }
    return msgspec.structs.replace(state, devices=devices)


def paused(state: RolloutState, reason: str) -> RolloutState:
    """Return the rollout halted, with the stage that `resume` goes back to."""
    back: Literal["canary", "all"] = "canary" if state.stage == "canary" else "all"
    return msgspec.structs.replace(state, stage="paused", resume_to=back, reason=reason)
