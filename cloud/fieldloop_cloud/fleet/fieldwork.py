"""Fieldwork on one's desk: running devices live through stretches of a field of known truth.

Each method is one thing that happens in the life of a fleet, done through the same calls a person
would use, and written down in a `FieldRecord`: inputs come and are answered, things break, drift is
looked for, samples are labelled, a release is rolled out, the books are closed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from fieldloop.errors import GateError, NotConnectedError
from fieldloop.state import HealthPolicy
from fieldloop_cloud.compile.worker import Progress
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.fleet.drift import DriftPolicy, DriftVerdict, verdicts
from fieldloop_cloud.fleet.estimate import EstimatedAccuracy, estimated_accuracy
from fieldloop_cloud.fleet.records import DeviceCounts
from fieldloop_cloud.fleet.rollout_state import RolloutState
from fieldloop_cloud.fleet.server import Server
from fieldloop_cloud.fleet.simulate import DeviceProcess
from fieldloop_cloud.fleet.traffic import Batch, Traffic
from fieldloop_cloud.release.builder import BundleFile
from fieldloop_cloud.train.metrics import Estimate
from fieldloop_cloud.train.run import Run

STEP_TIMEOUT_S = 90.0
"""What takes longer has failed."""

ROLLOUT_CHUNK = 20
"""Inputs between two looks at a rollout."""

TRIAL = HealthPolicy(min_predictions=10, min_duration_ms=500, max_duration_ms=60_000)
"""A short trial, as inputs come fast here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stretch of the field.

    Attributes:
        name: For people.
        accuracy: Against the known truth, with interval.
        estimated: As the telemetry alone suggests it; None if the model has no probabilities.
        at_s: When each input was sent, seconds from the start of the work.
        right: Whether each was answered rightly.
    """

    name: str
    accuracy: Estimate
    estimated: EstimatedAccuracy | None
    at_s: tuple[float, ...]
    right: tuple[bool, ...]


@dataclass(slots=True)
class FieldRecord:
    """What happened in the field.

    Attributes:
        broker: Which broker carried the messages.
        events: Seconds from the start, and a sentence.
        phases: In the order in which they were lived through.
        counts: Messages by device.
        outbox_left: Messages still on a device when the books were closed.
        running: Hash that each device reports.
    """

    broker: str
    events: list[tuple[float, str]] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    counts: list[DeviceCounts] = field(default_factory=list)
    outbox_left: dict[str, int] = field(default_factory=dict)
    running: dict[str, str] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Messages that a device numbered and home has not stored."""
        return sum(item.missing for item in self.counts) + sum(self.outbox_left.values())


class Fieldwork:
    """Devices, the server at home, and what happens between them.

    Args:
        server: Running.
        traffic: Over running devices.
        window_s: Length of the devices' telemetry windows.
        progress: Called with stage, fraction and a sentence.
    """

    def __init__(
        self, server: Server, traffic: Traffic, *, window_s: float, progress: Progress
    ) -> None:
        self.record = FieldRecord(broker=server.broker.kind if server.broker else "external")
        self._server = server
        self._traffic = traffic
        self._progress = progress
        self._policy = DriftPolicy(period_s=3.0 * window_s)
        self._started = time.monotonic()

    def tell(self, text: str) -> None:
        """Write down what happened, and pass it on as progress."""
        self.record.events.append((time.monotonic() - self._started, text))
        self._progress("field", 0.0, text)

    def live_through(
        self,
        data: Dataset,
        name: str,
        run: Run,
        release: BundleFile,
        *,
        with_faults: bool = False,
    ) -> Phase:
        """Let the devices answer `data`, wait until home knows of it, and score the answers.

        Args:
            data: Every row is sent once.
            name: Of the phase; its first word makes the row ids unique.
            run: The run whose model the devices have.
            release: That model's bundle.
            with_faults: Stop the broker for a while, and take one device's power.

        Raises:
            NotConnectedError: A device does not answer, or its telemetry does not arrive.
        """
        self.tell(f"{name}: {len(data)} inputs")
        since_ms = time.time_ns() // 1_000_000
        faults = self._faults(len(data)) if with_faults else iter(())
        batch = self._traffic.send(
            data, prefix=name.split(maxsplit=1)[0], tick=lambda: next(faults, None)
        )
        right = self._traffic.right(batch)
        accuracy = self._traffic.accuracy(batch)
        self.settle()
        windows = self._server.store.windows(model=release.sha256[:16], since_ms=since_ms)
        phase = Phase(
            name=name,
            accuracy=accuracy,
            estimated=estimated_accuracy(run.profile, windows)
            if run.profile.confidence_accuracy
            else None,
            at_s=self._seconds(batch),
            right=tuple(right),
        )
        self.record.phases.append(phase)
        self.tell(f"{name}: {accuracy.value:.1%} right")
        return phase

    def drifted(self, run: Run, release: BundleFile) -> list[DriftVerdict]:
        """Return the drift verdicts on the telemetry of a run's release."""
        windows = self._server.store.windows(model=release.sha256[:16])
        found = verdicts(run.profile, windows, policy=self._policy)
        return [verdict for verdict in found if verdict.drifted]

    def label_samples(self) -> int:
        """Give every field sample that came home its known truth; returns how many."""
        labels = [
            (item.device, item.sample.sample_id, self._traffic.truths[item.sample.sample_id])
            for item in self._server.store.samples(labelled=False)
        ]
        self._server.store.add_labels(labels)
        self.tell(f"{len(labels)} field samples labelled")
        return len(labels)

    def roll_out(self, release: BundleFile, data: Dataset) -> RolloutState:
        """Bring a release to one device, then to all, while inputs keep coming.

        Raises:
            GateError: A device refused it and the rollout was paused.
            NotConnectedError: It took too long.
        """
        rollout = self._server.rollout
        rollout.start(
            release,
            [device.name for device in self._traffic.devices],
            url=self._server.home.release_url(release.sha256),
            deadline_s=STEP_TIMEOUT_S,
            health=TRIAL,
        )
        deadline = time.monotonic() + STEP_TIMEOUT_S
        told, part = "", 0
        while (state := rollout.status()).is_active:
            if state.stage == "paused":
                raise GateError(
                    f"the rollout was paused: {state.reason}",
                    advice="Look into the device's log.txt.",
                )
            if state.stage != told:
                told = state.stage
                self.tell(f"rollout: {told}")
            if time.monotonic() > deadline:
                raise _late("the rollout's end")
            rows = np.arange(part * ROLLOUT_CHUNK, (part + 1) * ROLLOUT_CHUNK) % len(data)
            self._traffic.answers(self._traffic.send(data.take(rows), prefix=f"rollout{part}"))
            part += 1
        self.tell(f"rollout: {state.stage}")
        self.settle()
        return state

    def close_books(self) -> None:
        """Count what was stored, repeated and lost, and who runs what."""
        self.settle()
        store = self._server.store
        self.record.counts = store.counts()
        self.record.outbox_left = {
            device.name: int(device.status()["outbox_count"]) for device in self._traffic.devices
        }
        self.record.running = {
            name: state.running_sha256 for name, state in store.reported().items()
        }

    def settle(self) -> None:
        """Wait until everything the devices counted so far is stored at home.

        Raises:
            NotConnectedError: It does not arrive.
        """
        _wait(
            lambda: all(self._is_settled(device) for device in self._traffic.devices),
            "the telemetry",
        )

    def _is_settled(self, device: DeviceProcess) -> bool:
        """Whether home has stored every answer of the device's present life."""
        status = device.status()
        if not status or status["outbox_count"] or status["prediction_count"] < device.answer_count:
            return False
        store = self._server.store
        windows = [item.window for item in store.windows(device=device.name)]
        stored = sum(w.prediction_count for w in windows if w.boot == status["boot"])
        missing = any(item.missing for item in store.counts() if item.device == device.name)
        return stored >= device.answer_count and not missing

    def _faults(self, row_count: int) -> Iterator[None]:
        """Break things while inputs go on: the broker for a while, one device's power."""
        ticks = row_count // self._traffic.rows_per_tick
        broker, victim = self._server.broker, self._traffic.devices[-1]
        for tick in range(ticks):
            if tick == ticks // 4 and broker is not None:
                broker.stop()
                self.tell("the broker is away; devices go on")
            if tick == ticks // 2:
                victim.kill()
                waiting = self._traffic.restart(victim)
                self.tell(f"{victim.name} lost its power (SIGKILL); {waiting} inputs wait for it")
            if tick == 3 * ticks // 4 and broker is not None:
                broker.start()
                self.tell("the broker is back")
            yield

    def _seconds(self, batch: Batch) -> tuple[float, ...]:
        return tuple(moment - self._started for moment in batch.sent_s)


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise _late(what)
        time.sleep(0.1)


def _late(what: str) -> NotConnectedError:
    return NotConnectedError(
        f"{what} did not come within {STEP_TIMEOUT_S:.0f} s",
        advice="Look into the log.txt in each device's root.",
    )
