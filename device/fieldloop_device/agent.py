"""The agent: predicts, counts, reports and updates; the one object an integrator needs.

Data flows one way: `predict` → monitor → window → outbox → reporter → cloud. Wishes flow back:
reporter → updater → slots → serving. `predict` touches memory only; disk, network and updates
have threads of their own, and each of them does its work in a step (`record`, `pump`,
`Updater.step`) that tests call directly.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from fieldloop.clock import ClockSource, SystemClock
from fieldloop.codec import Prediction
from fieldloop.device_root import DeviceRoot, Slot, locked, write_active
from fieldloop.errors import EnvironmentFaultError, FieldloopError
from fieldloop.mqtt import MqttTransport
from fieldloop.signature import Category
from fieldloop.state import DesiredState, ReportedState, SelfTestReceipt
from fieldloop.transport import Transport, Will
from fieldloop_device.config import load_config
from fieldloop_device.connection import mqtt_settings
from fieldloop_device.loop import Loop
from fieldloop_device.opener import BundleOpener
from fieldloop_device.outbox import Outbox
from fieldloop_device.recorder import Recorder
from fieldloop_device.records import RecordStore
from fieldloop_device.reporter import Reporter, death
from fieldloop_device.runtime import Runtime
from fieldloop_device.sampling import Redaction, Sampler
from fieldloop_device.selftest import run_in_child
from fieldloop_device.serving import Serving
from fieldloop_device.shadow import Shadow
from fieldloop_device.shadow_place import ShadowPlace
from fieldloop_device.slots import load_best
from fieldloop_device.status import Status, write_status
from fieldloop_device.supervisor import Supervisor
from fieldloop_device.updater import Updater

logger = logging.getLogger(__name__)

_DRAIN_POLL_S = 0.02
_DAY_MS = 86_400_000


class Agent:
    """A device's agent; a context manager that starts and stops it.

    Args:
        root: The device's root.
        clock: None for the machine's own.
        make_transport: Makes the connection from the Will of this boot; None for MQTT as
            `device.toml` says, or no connection if it names no broker.
        redact: Sees every field sample before it leaves the device.

    Raises:
        ConfigError: The root is not provisioned or its settings are wrong.
        EnvironmentFaultError: Another agent runs on this root, or no TFLite runtime is installed.

    Example:
        with Agent("/var/lib/fieldloop") as agent:
            print(agent.predict({"temperature": 21.5}).label)
    """

    def __init__(
        self,
        root: Path | str,
        *,
        clock: ClockSource | None = None,
        make_transport: Callable[[Will], Transport] | None = None,
        redact: Redaction | None = None,
    ) -> None:
        self.root = DeviceRoot(Path(root))
        self.config = load_config(self.root)
        self._clock = clock or SystemClock()
        self._redact = redact
        self._make_transport = make_transport
        self._opener = BundleOpener(self.root, self.config)
        self._stack = contextlib.ExitStack()
        self._supervisor = Supervisor()
        self._stop = threading.Event()
        self._recording = Loop("recorder", self._record_step)
        self._sending = Loop("reporter", self.pump)
        self._updating = Loop("updater", self._update)
        self._last_status: Status | None = None
        self._status_failed = False
        self.boot = 0
        self.transport: Transport | None = None
        self.reporter: Reporter | None = None

    # Life

    def start(self, *, threads: bool = True) -> Self:
        """Start: count the boot, load the last good model, connect in the background.

        Needs neither network nor a right clock. With `threads=False` nothing runs by itself.
        """
        try:
            self._stack.enter_context(locked(self.root.path))
            self._open_stores()
            self._load_model()
            self._connect()
            self.announce("boot", f"boot {self.boot}")
            self.report()
            self.record()
        except BaseException:
            self._stack.close()
            raise
        if threads:
            self._start_threads()
        self._supervisor.ready()
        return self

    def stop(self, *, drain_s: float = 2.0) -> None:
        """Flush the current window to the outbox, say goodbye, close.

        Args:
            drain_s: Wait so long for the cloud's acknowledgements, if it can be reached. What
                stays in the outbox is sent after the next start.
        """
        self._supervisor.stopping()
        self._drain(drain_s)
        self._stop.set()
        self.updater.close()
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # What an integrator calls

    def predict(self, raw: object, *, input_id: str | None = None) -> Prediction:
        """Answer one raw row and count it; see `Serving.predict`."""
        return self.serving.predict(raw, input_id=input_id)

    def feedback(self, input_id: str, truth: Category | Sequence[Category]) -> bool:
        """Tell the truth about an earlier answer; see `Serving.feedback`."""
        return self.serving.feedback(input_id, truth)

    def reject(self) -> None:
        """Count an input that could not be read."""
        self.serving.reject()

    @property
    def status(self) -> Status:
        """What the agent is doing now."""
        runtime, job = self.serving.runtime, self.store.records.job
        return Status(
            device=self.config.device.id,
            boot=self.boot,
            pid=os.getpid(),
            updated_wall_ms=self._clock.read().wall_ms,
            running_sha256=self.running_sha256,
            release=self.running_release,
            precision=runtime.precision if runtime else "",
            backend=runtime.backend if runtime else "",
            phase=job.phase if job else "idle",
            error=job.error if job else "",
            is_connected=self.reporter.is_connected if self.reporter else False,
            prediction_count=self.serving.answered_count,
            rejected_count=self.serving.rejected_count,
            failed_count=self.serving.failed_count,
            window_count=self.recorder.window_count,
            outbox_count=self.outbox.count,
            outbox_bytes=self.outbox.size_bytes,
            dropped_count=self.outbox.dropped_count,
            unreadable_count=self.reporter.unreadable_count if self.reporter else 0,
            shadow_sha256=self.shadow.sha256,
            shadow_error=self.shadow.error or self.shadow_place.error,
            fault="; ".join(filter(None, (self.outbox.fault, self.store.fault))),
        )

    # What the updater asks for

    @property
    def running_sha256(self) -> str:
        """Hash of the bundle that answers now; empty without one."""
        runtime = self.serving.runtime
        return runtime.sha256 if runtime else ""

    @property
    def running_release(self) -> int:
        """Its release counter."""
        runtime = self.serving.runtime
        return runtime.release if runtime else 0

    def activate(self, runtime: Runtime) -> None:
        """Let this model answer from now on."""
        self.serving.activate(runtime)

    def trial_totals(self) -> tuple[int, int]:
        """Predictions that the running model answered and failed since it was activated."""
        return self.serving.totals()

    def announce(self, kind: str, detail: str = "") -> None:
        """Send an event home, without waiting for the next window."""
        self.recorder.announce(kind, detail, sha256=self.running_sha256)
        self._recording.wake()

    def report(self) -> None:
        """Tell the cloud the reported state, and the disk the status."""
        runtime, records = self.serving.runtime, self.store.records
        job = records.job
        state = ReportedState(
            boot=self.boot,
            desired_ver=job.desired.ver if job else records.accepted_ver,
            running_sha256=self.running_sha256,
            release=self.running_release,
            phase=job.phase if job else "idle",
            error=job.error if job else "",
            device_class=self.config.device.device_class,
            backend=runtime.backend if runtime else "",
            self_test=records.self_test,
            shadow_sha256=self.shadow.sha256,
            shadow_error=self.shadow.error or self.shadow_place.error,
        )
        if self.reporter is not None:
            self.reporter.report(state)
        self._write_status()

    # Steps of the threads

    def record(self, *, cut: bool = False) -> None:
        """Store events at once, and windows with their samples when they are due or asked for."""
        stored_count, was_cut = self.recorder.record(cut=cut)
        if stored_count:
            self._sending.wake()
        if was_cut:
            if self.store.fault:
                self.store.put_if_possible(self.store.records)
            self._write_status()

    def pump(self) -> int:
        """Send what may be sent now."""
        return self.reporter.pump() if self.reporter is not None else 0

    # Start

    def _open_stores(self) -> None:
        self.root.slots.mkdir(exist_ok=True)
        self.store = RecordStore(self.root)
        telemetry = self.config.telemetry
        self.outbox = Outbox(
            self.root.outbox,
            max_bytes=telemetry.outbox_max_bytes,
            max_age_ms=int(telemetry.outbox_max_age_days * _DAY_MS),
        )
        self._stack.callback(self.outbox.close)
        records = self.store.records
        # The outbox knows the last boot that stored a message: a lost state cannot reuse numbers.
        self.boot = max(records.boot, self.outbox.last_boot) + 1
        self.store.put_if_possible(replace(records, boot=self.boot))
        self.outbox.begin(self.boot)
        self.serving = Serving(self._clock, self._make_sampler)
        self.serving.begin(self.boot)
        self.shadow = Shadow(
            self.root, cpu_share=self.config.shadow.cpu_share, announce=self._note_shadow
        )
        self.serving.shadow = self.shadow
        window_ms = int(self.config.telemetry.window_s * 1000)
        self.recorder = Recorder(self.serving, self.outbox, self._clock, window_ms=window_ms)
        self._stack.callback(self.serving.activate, None)
        self._opener.floor = lambda: self.store.records.floor
        self.updater = Updater(
            self.root,
            self.store,
            self,
            clock=self._clock,
            verify_download=self._opener.verify_download,
            open_slot=self._opener.open_slot,
            self_test=self._self_test,
            max_bundle_bytes=self.config.update.max_bundle_bytes,
            min_bytes_per_s=self.config.update.min_bytes_per_s,
            on_wish=lambda wish, is_new: self.shadow_place.want(wish, is_new=is_new),
        )
        self.shadow_place = ShadowPlace(
            self.root,
            self.shadow,
            clock=self._clock,
            verify_download=self._opener.verify_download,
            report=self.report,
            is_busy=lambda: self.updater.is_superseded,
            max_bundle_bytes=self.config.update.max_bundle_bytes,
            min_bytes_per_s=self.config.update.min_bytes_per_s,
        )

    def _load_model(self) -> None:
        preferred = self.updater.recover()
        loaded = load_best(self.root, preferred, self._opener.open_slot)
        self.serving.activate(loaded.runtime)
        if loaded.faults:
            self.announce("runtime-error", "; ".join(loaded.faults))
        on_trial = self.store.records.job is not None and self.store.records.job.phase == "trial"
        if loaded.slot is not None and preferred is not None and loaded.slot != preferred:
            if on_trial:
                self.updater.give_up_trial("the new model cannot be loaded: " + loaded.faults[0])
            else:
                with contextlib.suppress(EnvironmentFaultError):
                    write_active(self.root.path, loaded.slot)
        elif loaded.runtime is not None and not on_trial:
            floor = max(self.store.records.floor, loaded.runtime.release)
            if floor != self.store.records.floor:
                self.store.put_if_possible(replace(self.store.records, floor=floor))

    def _connect(self) -> None:
        will = death(self.config.device.id, self.boot)
        if self._make_transport is not None:
            self.transport = self._make_transport(will)
        elif self.config.broker is not None:
            self.transport = MqttTransport(
                mqtt_settings(self.root, self.config, will=will), on_error=self._note_error
            )
        else:
            return
        self.reporter = Reporter(
            self.config.device.id,
            self.boot,
            outbox=self.outbox,
            transport=self.transport,
            clock=self._clock,
            on_desired=self._hear_desired,
            wake=self._sending.wake,
        )
        self._stack.callback(self.transport.close)
        self._stack.callback(self.reporter.say_goodbye)
        try:
            self.transport.connect(timeout_s=0)
        except FieldloopError as error:
            logger.warning("the broker cannot be reached yet: %s", error)

    def _start_threads(self) -> None:
        self._stack.callback(self._last_words)
        for loop in (self._recording, self._sending, self._updating):
            loop.start()
            self._stack.callback(loop.stop)
        self.shadow.start()
        # Before the last window is cut, so that what it counted is in it.
        self._stack.callback(self.shadow.stop)

    def _record_step(self) -> None:
        self.record()
        self._supervisor.beat()

    def _update(self) -> None:
        while self.updater.step() and not self._stop.is_set():
            pass
        self.shadow_place.step()

    def _drain(self, limit_s: float) -> None:
        """Give the reporter's thread time to empty the outbox."""
        deadline = time.monotonic() + limit_s
        if not self._sending.is_running or self.reporter is None:
            return
        self.record(cut=True)
        while self.reporter.is_connected and self.outbox.count and time.monotonic() < deadline:
            time.sleep(_DRAIN_POLL_S)

    def _last_words(self) -> None:
        self.record(cut=True)
        self.pump()

    # Details

    def _self_test(self, slot: Slot) -> SelfTestReceipt | None:
        return run_in_child(self.root, slot, self.config, is_cancelled=self._stop.is_set)

    def _make_sampler(self, runtime: Runtime) -> Sampler:
        telemetry = self.config.telemetry
        return Sampler(
            runtime.signature,
            budget_per_day=telemetry.sample_budget_per_day,
            random_rate=telemetry.sample_random_rate,
            uncertain_below=telemetry.sample_uncertain_below,
            allowed=self.config.privacy.samples,
            spent=self.outbox.samples_on(self._clock.read().wall_ms),
            redact=self._redact,
        )

    def _note_shadow(self, kind: str, detail: str) -> None:
        self.announce(kind, detail)
        self.report()

    def _hear_desired(self, desired: DesiredState) -> None:
        self.updater.want(desired)
        self._updating.wake()

    def _note_error(self, error: Exception) -> None:
        logger.warning("%s", error)

    def _write_status(self) -> None:
        status = self.status
        if self._last_status == replace(status, updated_wall_ms=0):
            return
        try:
            write_status(self.root, status)
        except EnvironmentFaultError as error:
            if not self._status_failed:
                logger.warning("%s", error)
            self._status_failed = True
            return
        self._status_failed = False
        self._last_status = replace(status, updated_wall_ms=0)
