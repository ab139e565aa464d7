"""Bring a release to the fleet: to one device first, then to all, and stop when one says no.

A rollout is a document in the store; this module moves it on. It only ever *wishes* (a retained
desired state per device) and *reads* (what devices report), so it may be stopped and started
anywhere, run by the server or by hand, and nothing happens twice. What comes next is decided in
`rollout_state`.
"""

import contextlib
import fcntl
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from fieldloop.errors import ConfigError
from fieldloop.state import DesiredState, HealthPolicy, ShadowWish
from fieldloop.topics import checked_device_id
from fieldloop_cloud.fleet.rollout_state import (
    DEFAULT_DEADLINE_S,
    DeviceProgress,
    RolloutState,
    Stage,
    advanced,
    paused,
    watched,
)
from fieldloop_cloud.fleet.store import Store

PublishDesired = Callable[[str, DesiredState], None]
"""Publishes a device's desired state, retained."""


class Published(Protocol):
    """A bundle that devices can fetch."""

    @property
    def sha256(self) -> str:
        """Hash of the file, hex."""

    @property
    def size_bytes(self) -> int:
        """Its size."""


class Rollout:
    """The rollouts of one store.

    Args:
        store: Keeps rollouts, desired and reported states.
        publish: Sends a device its desired state; None leaves that to the server, which publishes
            what the store holds.
    """

    def __init__(self, store: Store, publish: PublishDesired | None = None) -> None:
        self._store = store
        self._publish = publish

    def start(
        self,
        bundle: Published,
        devices: Sequence[str],
        *,
        url: str,
        canary: int = 1,
        deadline_s: float = DEFAULT_DEADLINE_S,
        health: HealthPolicy | None = None,
        now_ms: int | None = None,
    ) -> RolloutState:
        """Begin a rollout.

        Args:
            bundle: What shall run; `release.builder.BundleFile` is one.
            devices: In the order in which they are served; the first are the canary.
            url: Where devices fetch the bundle; see `Home.release_url`.
            canary: Devices that go first.
            deadline_s: Seconds a device has from the wish to the commit.
            health: When a device may commit the bundle.
            now_ms: The time, milliseconds since 1970 UTC; by default this machine's.

        Raises:
            ConfigError: No device, a device twice, a wrong canary or deadline, or another rollout
                is not finished.
        """
        names = [checked_device_id(name) for name in devices]
        if not names or len(set(names)) != len(names):
            raise ConfigError(
                "a rollout needs devices, each once",
                where=", ".join(names),
                advice="Name the devices; `fieldloop fleet devices` lists them.",
            )
        if not 1 <= canary <= len(names) or not deadline_s > 0:
            raise ConfigError(
                f"a canary of {canary} and a deadline of {deadline_s} s do not fit "
                f"{len(names)} devices",
                advice="Use 1 <= canary <= devices and a deadline above zero.",
            )
        started = RolloutState(
            rollout_id=uuid.uuid4().hex[:12],
            sha256=bundle.sha256,
            size_bytes=bundle.size_bytes,
            url=url,
            health=health or HealthPolicy(),
            canary_count=canary,
            deadline_s=deadline_s,
            devices={name: DeviceProgress() for name in names},
            started_ms=_now(now_ms),
        )
        with self._alone():
            running = self.current()
            if running is not None and running.is_active:
                raise ConfigError(
                    f"rollout {running.rollout_id} is {running.stage}",
                    advice="Wait until it is done, or run `fieldloop rollout abort` first.",
                )
            return self._save(started)

    def step(self, now_ms: int | None = None) -> RolloutState | None:
        """Move the current rollout on by what devices have reported; None without one.

        Call it every second or so. Raises what the store and `publish` raise; the next call
        carries on where this one stopped.
        """
        with self._alone():
            state = self.current()
            if state is None or not state.is_active:
                return state
            now = _now(now_ms)
            decided = advanced(watched(state, now), self._store.reported(), now)
            following = self._wished(decided)
            return self._save(following) if following != state else state

    def current(self) -> RolloutState | None:
        """Return the newest rollout; None if there never was one."""
        documents = list(self._store.rollouts().values())
        return msgspec.convert(documents[-1], RolloutState) if documents else None

    def status(self) -> RolloutState:
        """Return the newest rollout.

        Raises:
            ConfigError: There never was one.
        """
        state = self.current()
        if state is None:
            raise ConfigError(
                "there is no rollout", advice="Begin one with `fieldloop rollout start`."
            )
        return state

    def pause(self, reason: str = "paused by hand") -> RolloutState:
        """Ask no further device; those that were asked go on.

        Raises:
            ConfigError: There is no rollout under way.
        """
        with self._alone():
            return self._save(paused(self._in_stage("canary", "all"), reason))

    def resume(self, now_ms: int | None = None) -> RolloutState:
        """Go on after a pause; failed devices are asked again.

        Raises:
            ConfigError: The rollout is not paused.
        """
        with self._alone():
            state = self._in_stage("paused")
            devices = {
                name: DeviceProgress() if item.state == "failed" else item
                for name, item in state.devices.items()
            }
            stage = state.resume_to or "all"
            self._save(
                msgspec.structs.replace(
                    state, stage=stage, resume_to="", reason="", devices=devices
                )
            )
        stepped = self.step(now_ms)
        assert stepped is not None
        return stepped

    def abort(self, reason: str = "aborted by hand", now_ms: int | None = None) -> RolloutState:
        """End the rollout; devices keep what they run, nobody further is asked.

        Raises:
            ConfigError: There is no rollout under way.
        """
        with self._alone():
            state = self._in_stage("canary", "all", "paused")
            return self._save(
                msgspec.structs.replace(
                    state, stage="aborted", resume_to="", reason=reason, finished_ms=_now(now_ms)
                )
            )

    def _in_stage(self, *stages: Stage) -> RolloutState:
        state = self.status()
        if state.stage not in stages:
            raise ConfigError(
                f"rollout {state.rollout_id} is {state.stage}",
                advice=f"This is possible only while it is {' or '.join(stages)}.",
            )
        return state

    def _wished(self, state: RolloutState) -> RolloutState:
        """Give every device that is asked its desired state.

        A process that stops in the middle wishes again under a higher version; for the device
        that is the same wish.
        """
        known = self._store.desired()
        devices = dict(state.devices)
        for name, item in state.devices.items():
            if item.state != "updating" or item.ver:
                continue
            wish = DesiredState(
                ver=known[name].ver + 1 if name in known else 1,
                sha256=state.sha256,
                size_bytes=state.size_bytes,
                url=state.url,
                health=state.health,
                shadow=_kept_shadow(known.get(name), state.sha256),
            )
            self._store.put_desired(name, wish)
            if self._publish is not None:
                self._publish(name, wish)
            devices[name] = msgspec.structs.replace(item, ver=wish.ver)
        return msgspec.structs.replace(state, devices=devices)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the server's step and a person's command from overwriting each other."""
        path = self._store.path.with_name(f"{self._store.path.name}.rollout-lock")
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _save(self, state: RolloutState) -> RolloutState:
        self._store.put_rollout(state.rollout_id, msgspec.to_builtins(state))
        return state


def _kept_shadow(before: DesiredState | None, sha256: str) -> ShadowWish | None:
    """Return the challenger that goes on in the new model's shadow, unless it is that model."""
    shadow = before.shadow if before is not None else None
    return None if shadow is None or shadow.sha256 == sha256 else shadow


def _now(now_ms: int | None) -> int:
    return time.time_ns() // 1_000_000 if now_ms is None else now_ms
