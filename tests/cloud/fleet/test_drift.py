"""Drift: the stated rate of false alarms holds, real changes are found and rightly placed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fieldloop.errors import ConfigError, DataError
from fieldloop.histogram import Bins, pack_counts
from fieldloop.profile import MonitoredQuantity, ReferenceProfile
from fieldloop.telemetry import CONFIDENCE_EDGES, Clock, TelemetryWindow
from fieldloop_cloud.fleet.counts import FieldWindow
from fieldloop_cloud.fleet.drift import (
    MONTH_S,
    DriftPolicy,
    benjamini_hochberg,
    explained,
    verdicts,
)
from fieldloop_cloud.fleet.homogeneity import compare, pooled_cells

NAMES = ("current", "vibration")
CELLS = len(CONFIDENCE_EDGES) + 1
PERIOD_MS = 3_600_000
SURE = np.array([0.0, 0.0, 0.02, 0.03, 0.05, 0.1, 0.2, 0.2, 0.4])


class World:
    """Draws a reference and telemetry from the same normal distributions, or shifted ones."""

    def __init__(self, seed: int = 0, *, reference_rows: int = 1000) -> None:
        self.rng = np.random.default_rng(seed)
        values = self.rng.normal(size=(reference_rows, len(NAMES)))
        self.bins = [Bins.from_reference(column) for column in values.T]
        self.profile = ReferenceProfile(
            quantities=tuple(
                MonitoredQuantity(
                    name=name,
                    bins=bins,
                    counts=tuple(int(n) for n in bins.count(column)),
                    low=-4.0,
                    high=4.0,
                )
                for name, bins, column in zip(NAMES, self.bins, values.T, strict=True)
            ),
            confidence_counts=tuple(map(tuple, self.confidence(reference_rows // 2).tolist())),
            row_count=reference_rows,
        )

    def confidence(self, rows, sure=SURE):
        return np.stack([self.rng.multinomial(rows // 2, sure) for _ in range(2)])

    def window(self, device, at_ms, *, rows=60, shift=(0.0, 0.0), missing=0, sure=SURE):
        values = self.rng.normal(size=(rows, len(NAMES))) + np.asarray(shift)
        counts = (bins.count(column) for bins, column in zip(self.bins, values.T, strict=True))
        return FieldWindow(
            device=device,
            at_ms=at_ms,
            window=TelemetryWindow(
                boot=1,
                seq=1,
                model="ab" * 8,
                start=Clock(mono_ms=0, wall_ms=0),
                end=Clock(mono_ms=0, wall_ms=0),
                prediction_count=rows,
                feature_counts=tuple(tuple(pack_counts(c.tolist())) for c in counts),
                missing_counts=(missing, 0),
                confidence_counts=tuple(
                    tuple(pack_counts(row)) for row in self.confidence(rows, sure).tolist()
                ),
            ),
        )

    def telemetry(self, devices, *, cycles=3, windows=6, since=0, **changes):
        """Return windows of whole cycles; `changes` holds from cycle `since` on."""
        step = PERIOD_MS // windows
        return [
            self.window(
                device, (cycle * windows + k + 1) * step, **(changes if cycle >= since else {})
            )
            for cycle in range(cycles)
            for k in range(windows)
            for device in devices
        ]


def drifted(found):
    return {(item.quantity, item.device) for item in found if item.drifted}


def test_the_level_follows_from_the_stated_rate():
    policy = DriftPolicy(false_alarms_per_fleet_month=2.0, period_s=3600.0)
    assert policy.alpha == pytest.approx(2.0 / (MONTH_S / 3600.0))
    assert DriftPolicy(period_s=MONTH_S).alpha == 0.05


def test_without_change_a_fleet_keeps_to_the_stated_rate():
    # A loose level, so that a feasible number of cycles can contradict it.
    policy = DriftPolicy(
        false_alarms_per_fleet_month=0.05 * MONTH_S / 3600.0, needed=1, effect_floor=0.0
    )
    assert policy.alpha == pytest.approx(0.05)
    devices = ["pi-1", "pi-2", "pi-3"]
    cycles = 150
    alarms = 0
    for seed in range(cycles):
        world = World(seed)
        alarms += bool(
            drifted(verdicts(world.profile, world.telemetry(devices, cycles=1), policy=policy))
        )
    # One-sided binomial bound: more alarms than this come with probability 0.001.
    assert alarms <= stats.binom.ppf(0.999, cycles, policy.alpha)


@pytest.mark.parametrize(
    ("windows", "rows", "cluster"), [(1, 500, 0.0), (12, 40, 0.0), (12, 40, 0.1)]
)
def test_the_test_keeps_its_level_even_when_values_of_a_window_resemble_each_other(
    windows, rows, cluster
):
    rng = np.random.default_rng(7)
    trials, alpha, cells = 400, 0.05, 10
    rejected = 0
    for _ in range(trials):
        reference = rng.multinomial(1000, np.full(cells, 1 / cells))
        common = rng.normal(size=(windows, 1)) * np.sqrt(cluster)
        values = stats.norm.cdf(common + rng.normal(size=(windows, rows)) * np.sqrt(1 - cluster))
        table = np.stack(
            [np.bincount((row * cells).astype(int), minlength=cells) for row in values]
        )
        rejected += compare(reference, table).p_value <= alpha
    assert rejected <= stats.binom.ppf(0.999, trials, alpha)


def test_a_changed_world_is_found_in_the_fleet_and_in_the_right_quantity():
    world = World()
    windows = world.telemetry(["pi-1", "pi-2", "pi-3"], since=1, shift=(0.0, 1.0))
    verdict = verdicts(world.profile, windows)
    found = drifted(verdict)
    assert explained(verdict) == "the whole fleet sees another vibration"
    assert found == {
        ("vibration", None),
        ("vibration", "pi-1"),
        ("vibration", "pi-2"),
        ("vibration", "pi-3"),
    }


def test_one_broken_sensor_is_not_a_changed_world():
    world = World()
    windows = world.telemetry(["pi-1", "pi-2"]) + world.telemetry(["pi-9"], shift=(2.0, 0.0))
    found = verdicts(world.profile, windows)
    assert drifted(found) == {("current", "pi-9")}
    assert explained(found) == "single devices deviate: pi-9 (current)"


def test_a_shift_too_small_for_any_device_shows_in_a_large_fleet():
    world = World(reference_rows=20_000)
    devices = [f"pi-{k}" for k in range(30)]
    policy = DriftPolicy(effect_floor=0.0)
    windows = world.telemetry(devices, windows=1, shift=(0.25, 0.0))
    found = drifted(verdicts(world.profile, windows, policy=policy))
    assert ("current", None) in found
    assert len(found) < len(devices) / 2


def test_confidence_and_missing_values_are_watched_too():
    world = World()
    unsure = SURE[::-1].copy()
    found = drifted(verdicts(world.profile, world.telemetry(["pi-1", "pi-2"], sure=unsure)))
    assert {quantity for quantity, _ in found} == {"prediction.confidence"}
    found = drifted(verdicts(world.profile, world.telemetry(["pi-1"], missing=30)))
    assert found == {("current", "pi-1")}


def test_one_bad_cycle_is_no_verdict_and_a_small_effect_neither():
    world = World()
    windows = world.telemetry(["pi-1"], since=2, shift=(1.0, 0.0))
    newest = {item.quantity: item for item in verdicts(world.profile, windows)}
    assert newest["current"].rejected
    assert (newest["current"].persisted, newest["current"].drifted) == (1, False)
    windows = world.telemetry(["pi-1"], windows=1, rows=20_000, shift=(0.1, 0.0))
    tiny = {item.quantity: item for item in verdicts(world.profile, windows)}["current"]
    assert tiny.effect < 0.1
    assert not tiny.drifted


def test_silent_devices_and_too_few_rows_give_no_verdict():
    world = World()
    assert verdicts(world.profile, []) == []
    assert explained([]) == "no drift"
    assert verdicts(world.profile, [world.window("pi-1", 1, rows=0)]) == []
    assert verdicts(world.profile, [world.window("pi-1", 1, rows=20)]) == []
    windows = world.telemetry(["pi-1"], shift=(1.0, 0.0))
    rest = [world.window("pi-1", 10 * PERIOD_MS, rows=0)]
    assert drifted(verdicts(world.profile, windows + rest)) == {("current", "pi-1")}


def test_another_models_windows_are_refused():
    world = World()
    alien = world.window("pi-1", 1)
    profile = ReferenceProfile(
        quantities=tuple(
            MonitoredQuantity(name=name, bins=Bins(edges=(0.0,)), counts=(5, 5), low=0.0, high=1.0)
            for name in NAMES
        )
    )
    with pytest.raises(DataError, match="cells"):
        verdicts(profile, [alien])
    with pytest.raises(DataError, match="counts 2 quantities, the profile 1"):
        verdicts(ReferenceProfile(quantities=profile.quantities[:1]), [alien])


@pytest.mark.parametrize(
    "wrong",
    [{"needed": 4}, {"needed": 0}, {"period_s": 0.0}, {"false_alarms_per_fleet_month": -1.0}],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError):
        DriftPolicy(**wrong)


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0.001, 0.2))
def test_benjamini_hochberg_rejects_a_lower_set_and_contains_bonferroni(p_values, alpha):
    rejected = benjamini_hochberg(p_values, alpha)
    kept = [p for p, hit in zip(p_values, rejected, strict=True) if not hit]
    gone = [p for p, hit in zip(p_values, rejected, strict=True) if hit]
    assert not kept or not gone or max(gone) < min(kept)
    assert all(hit for p, hit in zip(p_values, rejected, strict=True) if p <= alpha / len(p_values))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=20))
def test_pooling_keeps_every_value_and_leaves_no_small_group(pairs):
    reference, field = (np.array(column) for column in zip(*pairs, strict=True))
    starts = pooled_cells(reference, field)
    assert starts[0] == 0
    groups = np.add.reduceat(reference + field, starts)
    assert groups.sum() == (reference + field).sum()
    share = min(reference.sum(), field.sum()) / max(1, (reference + field).sum())
    if len(groups) > 1:
        assert (groups * share >= 5.0 - 1e-9).all()
