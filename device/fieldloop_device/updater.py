"""Drives an update through its phases; `machine` knows the rules, this module does the work.

`want` only notes a wish. `step` does one phase's work and is called in turn by the agent's own
thread, so a prediction never waits for it. Every phase is stored before it is acted on and told
to the cloud after; a report that does not arrive changes nothing here.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from fieldloop.clock import ClockSource
from fieldloop.device_root import DeviceRoot, Slot, other_slot, read_active, write_active
from fieldloop.errors import (
    BundleError,
    EnvironmentFaultError,
    FieldloopError,
    GateError,
    NotConnectedError,
    RefusedError,
    TrustError,
)
from fieldloop.state import DesiredState, SelfTestReceipt
from fieldloop_device import machine
from fieldloop_device.download import download
from fieldloop_device.records import Job, Records, RecordStore
from fieldloop_device.runtime import Runtime
from fieldloop_device.slots import Opener, slot_sha256, stage

_BACKOFF_BASE_MS = 1_000
_BACKOFF_CAP_MS = 60_000
_MAX_FETCHES = 10
_MAX_BAD_CONTENT = 2


class Host(Protocol):
    """What the updater needs of the agent."""

    @property
    def running_sha256(self) -> str:
        """Hash of the bundle that answers now; empty without one."""

    @property
    def running_release(self) -> int:
        """Its release counter."""

    def activate(self, runtime: Runtime) -> None:
        """Let this model answer from now on; no request is dropped or answered by both."""

    def trial_totals(self) -> tuple[int, int]:
        """Predictions that the running model answered and failed since it was activated."""

    def announce(self, kind: str, detail: str = "") -> None:
        """Send an event home."""

    def report(self) -> None:
        """Tell the cloud the reported state."""


class Updater:
    """Works towards the desired state.

    Args:
        root: The device's root.
        store: The records.
        host: The agent.
        clock: Time for back-off and trial.
        verify_download: Raises for a fetched bundle that is not trusted or is below the floor.
        open_slot: Opens a slot.
        self_test: Replays a slot's golden inputs in a child; None if it was stopped.
        max_bundle_bytes: A larger bundle is refused.
        min_bytes_per_s: Slowest download.
        on_wish: Told of every wish that is not stale, and whether its version is new, before that
            version is stored.
    """

    def __init__(
        self,
        root: DeviceRoot,
        store: RecordStore,
        host: Host,
        *,
        clock: ClockSource,
        verify_download: Callable[[Path], None],
        open_slot: Opener,
        self_test: Callable[[Slot], SelfTestReceipt | None],
        max_bundle_bytes: int,
        min_bytes_per_s: int,
        on_wish: Callable[[DesiredState, bool], None],
    ) -> None:
        self._root = root
        self._on_wish = on_wish
        self._store = store
        self._host = host
        self._clock = clock
        self._verify_download = verify_download
        self._open_slot = open_slot
        self._self_test = self_test
        self._max_bundle_bytes = max_bundle_bytes
        self._min_bytes_per_s = min_bytes_per_s
        self._lock = threading.Lock()
        self._wish: DesiredState | None = None
        self._closed = False
        self._fetches = 0
        self._bad_content = 0
        self._not_before_ms = 0
        self._trial_begin_ms = 0

    def want(self, desired: DesiredState) -> None:
        """Note a wish; a newer one replaces an older one that was not looked at yet."""
        with self._lock:
            if self._wish is None or desired.ver >= self._wish.ver:
                self._wish = desired

    def close(self) -> None:
        """Stop a download in progress; it is resumed at the next start."""
        self._closed = True

    def recover(self) -> Slot | None:
        """Bring pointer and records into step after a restart, before a model is loaded.

        Returns:
            The slot to load; None if the device was never flashed.
        """
        self._trial_begin_ms = self._clock.read().mono_ms
        records, active = self._store.records, read_active(self._root.path)
        job = records.job
        if job is None or job.phase != "trial" or job.slot is None or job.previous is None:
            return active
        if slot_sha256(self._root, job.slot) != job.desired.sha256:
            error = "the slot on trial was changed by another hand or is rotten"
            self._store.put_if_possible(machine.fail(records, error, blame=False, retry=True))
            return job.previous if active == job.slot and self._exists(job.previous) else active
        tried = machine.use_try(records)
        if tried is None:
            if not job.rolling_back:
                error = "the agent did not survive the trial"
                records = machine.decide_rollback(records, error, blame=True)
            return self._go_back(records)
        try:
            # Spent before the model is loaded: a model that kills the agent is loaded once more.
            self._store.put(tried)
            write_active(self._root.path, job.slot)
        except EnvironmentFaultError as error:
            # A try that is not on disk would be spent for ever: run what is known to be good.
            failed = machine.fail(tried, str(error), blame=False, retry=True)
            self._store.put_if_possible(failed)
            return job.previous
        return job.slot

    def give_up_trial(self, reason: str) -> None:
        """Roll back a trial whose model could not be loaded at start."""
        job = self._store.records.job
        if job is not None and job.phase == "trial":
            self._go_back(machine.decide_rollback(self._store.records, reason, blame=True))

    def step(self) -> bool:
        """Do the next piece of work.

        Returns:
            True if there may be more to do at once.
        """
        if self._take_wish():
            return True
        job = self._store.records.job
        if job is None or self._clock.read().mono_ms < self._not_before_ms:
            return False
        actions: dict[str, Callable[[Job], bool]] = {
            "downloading": self._fetch,
            "verified": self._stage,
            "staged": self._prepare_test,
            "self-test": self._test,
            "trial": self._watch,
        }
        action = actions.get(job.phase)
        if action is None:
            return False
        try:
            return action(job)
        except FieldloopError as error:
            self._fail(error, blame=False, retry=True)
            return False

    # Wishes

    def _take_wish(self) -> bool:
        with self._lock:
            wish, self._wish = self._wish, None
        if wish is None:
            return False
        records = self._store.records
        if wish.ver >= records.accepted_ver:
            self._on_wish(wish, wish.ver > records.accepted_ver)
        if machine.must_roll_back_first(records, wish):
            self._roll_back(f"superseded by desired state {wish.ver}", blame=False)
            records = self._store.records
        accepted = machine.accept(records, wish, running_sha256=self._host.running_sha256)
        if accepted is None:
            return False
        self._store.put_if_possible(accepted)
        self._fetches = self._bad_content = self._not_before_ms = 0
        self._drop_other_downloads(wish.sha256)
        self._host.report()
        return True

    def _drop_other_downloads(self, sha256: str) -> None:
        for path in self._root.slots.glob("*.part"):
            if path != self._part(sha256):
                path.unlink(missing_ok=True)

    def _part(self, sha256: str) -> Path:
        return self._root.slots / f"{sha256[:16]}.part"

    @property
    def is_superseded(self) -> bool:
        """Whether a download must stop: a newer wish has come, or the end."""
        return self._closed or self._wish is not None

    # Phases

    def _fetch(self, job: Job) -> bool:
        try:
            if not self._download(job.desired):
                return False
        except FieldloopError as error:
            if self._may_pass(error):
                return self._try_later(error)
            return self._fail(error, blame=False, retry=isinstance(error, RefusedError))
        return self._enter(machine.advance(self._store.records, "verified"))

    def _may_pass(self, error: FieldloopError) -> bool:
        """Say whether another attempt may succeed; wrong bytes get one more chance."""
        if isinstance(error, BundleError) and not isinstance(error, TrustError):
            self._bad_content += 1
            return self._bad_content < _MAX_BAD_CONTENT
        return isinstance(error, NotConnectedError | EnvironmentFaultError)

    def _download(self, desired: DesiredState) -> bool:
        """Fetch and verify; False if a newer wish or the end came in between."""
        if not 0 < desired.size_bytes <= self._max_bundle_bytes:
            raise GateError(
                f"a bundle of {desired.size_bytes} bytes is not accepted here",
                advice="Raise [update] max_bundle_bytes.",
            )
        part = self._part(desired.sha256)
        complete = download(
            desired,
            part,
            min_bytes_per_s=self._min_bytes_per_s,
            is_cancelled=lambda: self.is_superseded,
        )
        if complete:
            try:
                self._verify_download(part)
            except FieldloopError:
                part.unlink(missing_ok=True)
                raise
        return complete

    def _stage(self, job: Job) -> bool:
        part = self._part(job.desired.sha256)
        active = read_active(self._root.path)
        slot = other_slot(active) if active else "a"
        # After a power cut the download may already lie in its slot.
        if slot_sha256(self._root, slot) != job.desired.sha256:
            if not part.exists():
                return self._enter(machine.advance(self._store.records, "downloading"))
            stage(self._root, part, slot, sha256=job.desired.sha256)
        return self._enter(machine.advance(self._store.records, "staged", slot=slot))

    def _prepare_test(self, _: Job) -> bool:
        return self._enter(machine.advance(self._store.records, "self-test"))

    def _test(self, job: Job) -> bool:
        assert job.slot is not None
        if job.attempts >= machine.MAX_SELF_TESTS:
            error = GateError(
                "the device did not survive the self-test", advice="Build the bundle anew."
            )
            return self._fail(error, blame=True)
        self._store.put(machine.begin_self_test(self._store.records))
        try:
            receipt = self._self_test(job.slot)
        except GateError as error:
            return self._fail(error, blame=True)
        if receipt is None:
            self._store.put_if_possible(replace(self._store.records, job=job))
            return False
        return self._switch(job.slot, receipt)

    def _switch(self, slot: Slot, receipt: SelfTestReceipt) -> bool:
        active = read_active(self._root.path)
        self._store.put(machine.begin_trial(self._store.records, receipt, active=active))
        try:
            write_active(self._root.path, slot)
            runtime = self._open_slot(self._root.slot(slot))
        except FieldloopError as error:
            self._roll_back(f"the new model cannot be loaded: {error.what}", blame=True)
            return False
        self._trial_begin_ms = self._clock.read().mono_ms
        self._host.activate(runtime)
        self._host.announce("switched", f"release {runtime.release} is on trial")
        self._host.report()
        return True

    def _watch(self, job: Job) -> bool:
        if job.rolling_back:  # decided, but the disk did not let the pointer follow
            self._not_before_ms = self._clock.read().mono_ms + _BACKOFF_CAP_MS
            self._run_again(self._go_back(self._store.records))
            return False
        answered, failed = self._host.trial_totals()
        elapsed_ms = self._clock.read().mono_ms - self._trial_begin_ms
        verdict, reason = machine.judge(
            job.desired.health, answered=answered, failed=failed, elapsed_ms=elapsed_ms
        )
        if verdict == "commit":
            release = self._host.running_release
            # If it cannot be stored now, the agent stores it with a later window.
            self._store.put_if_possible(machine.commit(self._store.records, release=release))
            self._host.announce("committed", f"release {release}")
            self._host.report()
        elif verdict == "rollback":
            self._roll_back(reason, blame=True)
        return False

    # Ends

    def _enter(self, records: Records) -> bool:
        self._store.put(records)
        self._host.report()
        return True

    def _try_later(self, error: FieldloopError) -> bool:
        self._fetches += 1
        if self._fetches >= _MAX_FETCHES:
            return self._fail(error, blame=False, retry=True)
        delay_ms = min(_BACKOFF_BASE_MS << (self._fetches - 1), _BACKOFF_CAP_MS)
        self._not_before_ms = self._clock.read().mono_ms + delay_ms
        records = self._store.records
        assert records.job is not None
        self._store.put_if_possible(replace(records, job=replace(records.job, error=str(error))))
        self._host.report()
        return False

    def _fail(self, error: FieldloopError, *, blame: bool, retry: bool = False) -> bool:
        self._store.put_if_possible(
            machine.fail(self._store.records, str(error), blame=blame, retry=retry)
        )
        self._host.announce("update-failed", str(error))
        self._host.report()
        return False

    def _roll_back(self, reason: str, *, blame: bool) -> None:
        """Go back to the previous slot and let its model answer again."""
        decided = machine.decide_rollback(self._store.records, reason, blame=blame)
        self._run_again(self._go_back(decided))

    def _go_back(self, decided: Records) -> Slot | None:
        """Store the verdict, move the pointer, store that it is done; return the slot to run."""
        job = decided.job
        assert job is not None
        self._store.put_if_possible(decided)
        if job.previous is not None and self._exists(job.previous):
            try:
                write_active(self._root.path, job.previous)
            except EnvironmentFaultError:
                return job.previous
        self._store.put_if_possible(machine.finish_rollback(self._store.records))
        self._host.announce("rolled-back", job.error)
        self._host.report()
        return read_active(self._root.path)

    def _exists(self, slot: Slot) -> bool:
        return self._root.slot(slot).exists()

    def _run_again(self, slot: Slot | None) -> None:
        """Let a slot's model answer, unless it does already."""
        if slot is None or slot_sha256(self._root, slot) == self._host.running_sha256:
            return
        try:
            runtime = self._open_slot(self._root.slot(slot))
        except FieldloopError as error:
            self._host.announce("runtime-error", f"the previous model cannot be loaded: {error}")
            return
        self._host.activate(runtime)
        self._host.report()
