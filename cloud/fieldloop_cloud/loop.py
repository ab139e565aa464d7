"""The whole loop, top to bottom: from data to a model in the field, and back.

`run_loop` is the place to start reading fieldloop: every step is one call of the public API. The
data are real scans of handwritten digits; a part is held out as the field. Real device processes
answer it and report over MQTT. Midway the field changes as a bumped, fading camera would change
it; the loop notices, asks for labels, retrains, proves the new model better, and rolls it out.
Meanwhile the broker is away once, and one device loses its power.
"""

import contextlib
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fieldloop.errors import ConfigError, GateError
from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.files import cannot_write
from fieldloop_cloud.fleet.drift import DriftVerdict
from fieldloop_cloud.fleet.fieldwork import FieldRecord, Fieldwork
from fieldloop_cloud.fleet.retrain import Retrained, retrain
from fieldloop_cloud.fleet.rollout_state import RolloutState
from fieldloop_cloud.fleet.server import Server
from fieldloop_cloud.fleet.simulate import DeviceProcess, SensorChange
from fieldloop_cloud.fleet.traffic import Traffic
from fieldloop_cloud.release.builder import BundleFile, bundle
from fieldloop_cloud.release.flash import flash
from fieldloop_cloud.release.home import BrokerSettings, FleetSettings, Home, HttpSettings
from fieldloop_cloud.release.provision import provision
from fieldloop_cloud.train.run import Run
from fieldloop_cloud.train.trainer import train

DEVICE_CLASS = "x86"
"""The devices are processes on this machine."""

MODEL_NAME = "digits"

BUMPED_CAMERA = SensorChange(
    contrast=0.6, brightness=0.1, shift_rows=0, shift_columns=1, noise=0.06
)
"""Out of place by a pixel, dusty, and with more noise."""

DEMO_MARKER = ".fieldloop-demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """What is played.

    Attributes:
        source: The data set, as `Dataset.load` takes it; an image classification.
        device_count: Device processes.
        seed: Of everything that is drawn.
        home_share: Share of the rows that is known at home; the rest is the field.
        train_budget_s: Time for each training.
        candidates: Model families that compete: a handful, as the story is the loop.
        epsilon: Largest loss of accuracy that a quantized variant may show; the few hundred
            validation rows could not prove a smaller one.
        rows_per_s: Inputs a second, over all devices.
        window_s: Length of a telemetry window.
        sample_rate: Share of inputs that devices send home at random for labelling.
        change: What happens to the sensors midway.
    """

    source: str = "sklearn:digits"
    device_count: int = 3
    seed: int = 0
    home_share: float = 0.42
    train_budget_s: float = 60.0
    candidates: tuple[str, ...] = ("logistic", "random-forest", "svm-rbf", "cnn")
    epsilon: float = 0.02
    rows_per_s: float = 30.0
    window_s: float = 1.0
    sample_rate: float = 0.8
    change: SensorChange = BUMPED_CAMERA


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The rows that home does not know, in three stretches.

    Attributes:
        before: As the sensors saw them when they were new.
        under: As the changed sensors see them.
        after: The same, for the time after redeployment; none of these rows is ever labelled.
        under_unchanged: What `under` would have looked like; for the report.
    """

    before: Dataset
    under: Dataset
    after: Dataset
    under_unchanged: Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopResult:
    """What happened; `report.loop` writes it down.

    Attributes:
        settings: What was played.
        first: The run that chose the first model.
        second: The retraining with its gate.
        releases: The two bundles.
        false_alarms: Drift verdicts before anything had changed.
        drift: Drift verdicts after the change.
        rollout: The second release's rollout.
        field: The field's rows.
        record: What the devices lived through.
        elapsed_s: From start to end.
    """

    settings: LoopSettings
    first: Run
    second: Retrained
    releases: tuple[BundleFile, BundleFile]
    false_alarms: Sequence[DriftVerdict]
    drift: Sequence[DriftVerdict]
    rollout: RolloutState
    field: Field
    record: FieldRecord
    elapsed_s: float


def run_loop(
    out: Path, *, settings: LoopSettings | None = None, progress: Progress = quiet
) -> LoopResult:
    """Play the whole loop and return what happened.

    Args:
        out: Directory for runs, fleet home and device roots; new, empty, or an earlier demo's,
            which is replaced.
        settings: What to play.
        progress: Called with stage, fraction and a sentence.

    Raises:
        ConfigError: `out` holds something else, or the data are no images.
        GateError: No model fits, the change was not noticed, or the challenger was refused.
        NotConnectedError: A device or the broker did not do its part in time.
        EnvironmentFaultError: This machine lacks something, such as `fieldloop-device`.
    """
    settings = settings or LoopSettings()
    started = time.monotonic()
    _prepare(out)
    at_home, field = _divided(Dataset.load(settings.source), settings)

    run = _train(at_home, settings, out / "runs" / "first", progress)
    home = Home(out / "fleet").create(_fleet_settings())
    first = bundle(run, name=MODEL_NAME, home=home)
    roots = _flashed(home, first, out / "devices", settings)

    with Server(home) as server, _running(roots) as devices:
        traffic = Traffic(devices, rows_per_s=settings.rows_per_s)
        work = Fieldwork(server, traffic, window_s=settings.window_s, progress=progress)
        work.live_through(field.before, "before the change", run, first, with_faults=True)
        false_alarms = work.drifted(run, first)
        work.live_through(field.under, "under the change", run, first)
        drift = _noticed(work.drifted(run, first))
        work.tell(_drift_sentence(drift))

        work.label_samples()
        second = retrain(
            run,
            at_home,
            server.store.samples(labelled=True),
            candidates=sorted({item.candidate for item in run.front}),
            budget_s=settings.train_budget_s,
            seed=settings.seed,
            out=out / "runs" / "second",
            epsilon=settings.epsilon,
            progress=progress,
        )
        _uninterrupted(second.challenger)
        work.tell(second.gate.sentence)
        release = bundle(
            second.require(),
            name=MODEL_NAME,
            home=home,
            parent_sha256=first.sha256,
        )
        rollout = work.roll_out(release, field.under)
        work.live_through(field.after, "after redeployment", second.challenger, release)
        work.close_books()

    return LoopResult(
        settings=settings,
        first=run,
        second=second,
        releases=(first, release),
        false_alarms=false_alarms,
        drift=drift,
        rollout=rollout,
        field=field,
        record=work.record,
        elapsed_s=time.monotonic() - started,
    )


def _prepare(out: Path) -> None:
    """Make an empty directory, or empty an earlier demo's."""
    marker = out / DEMO_MARKER
    if out.exists() and not out.is_dir():
        raise ConfigError("this is a file", where=str(out), advice="Name a directory with --out.")
    if out.exists() and any(out.iterdir()) and not marker.exists():
        raise ConfigError(
            "the directory holds something else than an earlier demo",
            where=str(out),
            advice="Name a new directory with --out.",
        )
    try:
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
        marker.touch()
    except OSError as error:
        raise cannot_write(out, error) from error


def _train(at_home: Dataset, settings: LoopSettings, out: Path, progress: Progress) -> Run:
    run = train(
        at_home,
        device=DEVICE_CLASS,
        budget_s=settings.train_budget_s,
        seed=settings.seed,
        out=out,
        candidates=settings.candidates,
        epsilon=settings.epsilon,
        progress=progress,
    )
    return _uninterrupted(run)


def _uninterrupted(run: Run) -> Run:
    """Pass on Ctrl-C: training keeps its best so far, but who stops a demo means all of it."""
    if run.search is not None and run.search.interrupted:
        raise KeyboardInterrupt
    return run


def _divided(data: Dataset, settings: LoopSettings) -> tuple[Dataset, Field]:
    """Divide at random into what home knows and the field's three stretches."""
    rng = np.random.default_rng(settings.seed)
    order = rng.permutation(len(data))
    home_count = int(settings.home_share * len(data))
    # Half of the field lies under the change: it must also yield the labels to learn from.
    ends = home_count + (np.array([0.2, 0.7]) * (len(data) - home_count)).astype(int)
    at_home, before, under, after = (
        data.take(np.sort(rows)) for rows in np.split(order, [home_count, *ends])
    )
    return at_home, Field(
        before=before,
        under=_changed(under, settings.change, rng),
        after=_changed(after, settings.change, rng),
        under_unchanged=under,
    )


def _changed(data: Dataset, change: SensorChange, rng: np.random.Generator) -> Dataset:
    spec = data.image
    if spec is None:
        raise ConfigError(
            "the loop's sensors are cameras", where=data.name, advice="Name an image data set."
        )
    pixels = (data.X - spec.offset) / spec.scale
    seen = change.apply(pixels, max_value=spec.max_value, rng=rng)
    return replace(data, X=(seen * spec.scale + spec.offset).astype(np.float32))


def _fleet_settings() -> FleetSettings:
    """Return settings with two free ports of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        broker, http = (item.getsockname()[1] for item in sockets)
    return FleetSettings(broker=BrokerSettings(port=broker), http=HttpSettings(port=http))


def _flashed(
    home: Home, release: BundleFile, roots: Path, settings: LoopSettings
) -> dict[str, Path]:
    """Provision and flash the devices; returns their roots by name."""
    found = {}
    for number in range(1, settings.device_count + 1):
        name = f"pi-{number}"
        telemetry = {
            "window_s": settings.window_s,
            "sample_budget_per_day": 1000,
            "sample_random_rate": settings.sample_rate,
        }
        provision(home, name, DEVICE_CLASS, roots / name, telemetry=telemetry, samples=True)
        flash(release.path, roots / name)
        found[name] = roots / name
    return found


@contextlib.contextmanager
def _running(roots: dict[str, Path]) -> Iterator[list[DeviceProcess]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(DeviceProcess(root, name=name)) for name, root in roots.items()]


def _noticed(found: list[DriftVerdict]) -> list[DriftVerdict]:
    if not found:
        raise GateError(
            "the field changed and no drift was found",
            advice="Send more inputs or make the change larger.",
        )
    return found


def _drift_sentence(found: Sequence[DriftVerdict]) -> str:
    fleet = sorted(verdict.quantity for verdict in found if verdict.device is None)
    if fleet:
        return f"drift over the whole fleet: {', '.join(fleet)}"
    return f"drift on {', '.join(sorted({str(verdict.device) for verdict in found}))}"
