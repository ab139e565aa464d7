"""Learning curves: right about known shapes, better than the last value, silent where they rise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldloop.errors import DataError, GateError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.relations import related
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.select.curves import (
    Purchase,
    _growing,
    anchors,
    learning_curve,
    measure,
    paired_errors,
)
from fieldloop_cloud.select.extrapolation import extrapolate
from fieldloop_cloud.select.probes import builder, scorer

SIZES = np.rint(800 / np.sqrt(2.0) ** np.arange(8)[::-1])


def power_law(sizes, floor=0.05, rate=0.6, scale=2.0):
    return floor + scale * np.asarray(sizes, dtype=float) ** -rate


@settings(max_examples=4, deadline=None)
@given(st.floats(0.0, 0.2), st.floats(0.3, 1.0), st.floats(0.5, 3.0))
def test_a_known_shape_is_carried_on(floor, rate, scale):
    errors = power_law(SIZES, floor, rate, scale)
    found = extrapolate(SIZES, errors, np.full(8, 1e-3))
    truth = float(power_law(1600, floor, rate, scale))
    said, low, high = found.error_at(1600)
    assert abs(said - truth) <= 0.4 * abs(errors[-1] - truth) + 2e-3
    assert low <= said <= high


def test_noisy_curves_are_extrapolated_better_than_by_the_last_value():
    random = np.random.default_rng(0)
    last, ours, inside = [], [], 0
    for _ in range(6):
        floor, rate = random.uniform(0, 0.1), random.uniform(0.4, 0.9)
        noise = power_law(SIZES, 0, rate) * 0.05
        errors = power_law(SIZES, floor, rate) + random.normal(size=8) * noise
        truth = float(power_law(1600, floor, rate))
        said, low, high = extrapolate(SIZES, errors, noise).error_at(1600)
        last.append(abs(errors[-1] - truth))
        ours.append(abs(said - truth))
        inside += low <= truth <= high
    assert np.mean(ours) <= 0.6 * np.mean(last)
    assert inside >= 5


def test_more_rows_never_cost_and_the_gain_is_surer_than_the_level():
    random = np.random.default_rng(1)
    noise = np.full(8, 0.01)
    found = extrapolate(SIZES, power_law(SIZES) + random.normal(size=8) * 0.005, noise)
    gain, low, high = found.gain_between(800, 1600)
    assert 0 <= low <= gain <= high
    now, then = found.error_at(800), found.error_at(1600)
    assert gain == pytest.approx(now[0] - then[0])
    assert high - low < then[2] - then[1]


def test_a_curve_that_rises_is_refused_and_noise_is_not_taken_for_it():
    errors = power_law(SIZES)
    rising = errors.copy()
    rising[-2:] += 0.2
    with pytest.raises(GateError, match=r"the error rises from .* with 400 rows to .* with"):
        extrapolate(SIZES, rising, np.full(8, 0.005))
    extrapolate(SIZES, rising, np.full(8, 0.2))  # within the noise


def test_few_points_make_no_curve():
    with pytest.raises(GateError, match="5 points"):
        extrapolate(SIZES[:5], power_law(SIZES[:5]), np.full(5, 0.01))


@given(st.integers(200, 100_000), st.integers(0, 5))
def test_anchors_grow_by_the_root_of_two_up_to_all_rows(largest, classes):
    sizes = anchors(largest, classes)
    assert sizes[-1] == largest
    assert len(sizes) >= 6
    assert sizes[0] >= 10
    assert np.abs(sizes[1:] - np.sqrt(2) * sizes[:-1]).max() <= 1.3


def test_too_few_rows_say_how_many_it_takes():
    with pytest.raises(DataError, match="Bring at least 57"):
        anchors(40, 2)
    anchors(57, 2)


def test_smaller_sets_are_parts_of_larger_ones_and_keep_class_shares():
    data = Dataset.load("sklearn:wine")
    order = _growing(data, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(178))
    for size in (20, 50, 100):
        shares = np.bincount(data.y[order[:size]], minlength=3) / size
        np.testing.assert_allclose(shares, np.asarray(data.class_counts) / 178, atol=0.08)


def test_groups_come_whole():
    data = from_arrays(np.random.default_rng(0).normal(size=(100, 2)), np.arange(100) % 2)
    order = _growing(related(data, groups=np.arange(100) // 10), np.random.default_rng(0))
    groups = order // 10
    assert (np.diff(groups) != 0).sum() == 9


def test_what_repeats_share_is_no_noise_of_the_curve():
    random = np.random.default_rng(0)
    shared = random.normal(size=(20, 1)) * 10
    errors = shared + random.normal(size=(20, 5)) * 0.1
    assert paired_errors(errors).max() < 0.1


def test_a_real_curve_says_what_more_labels_buy():
    data = Dataset.load("sklearn:breast_cancer")
    score = scorer(builder("line", data, 0), "accuracy")
    told = []
    curve = learning_curve(
        score, data, model="line", metric="accuracy", repeats=4, progress=told.append
    )
    assert not curve.refusal
    assert curve.points[-1].row_count == curve.forecast[0].row_count
    assert curve.points[-1].score > curve.points[0].score
    assert all(item.low <= item.score <= item.high for item in curve.forecast)
    assert [item.more_count for item in curve.purchases] == [140, 570, 1700]
    assert curve.purchases[0].gain <= curve.purchases[-1].gain < 0.05
    assert told[-1] == pytest.approx(1.0)
    again = learning_curve(score, data, model="line", metric="accuracy", repeats=4)
    assert again == curve


def test_a_refused_curve_keeps_its_points_and_the_reason():
    data = from_arrays(np.random.default_rng(0).normal(size=(400, 2)), np.arange(400) % 2)
    curve = learning_curve(
        lambda train, _: 0.9 - len(train) / 1000, data, model="worse", metric="accuracy"
    )
    assert "rises" in curve.refusal
    assert len(curve.points) >= 6
    assert curve.forecast == curve.purchases == ()


def test_sizes_are_measured_with_other_rows_held_out_each_time():
    data = Dataset.load("sklearn:iris")
    seen = []

    def score(train, rest):
        seen.append((len(train), rest.sha256))
        return 0.5

    sizes, errors = measure(score, data, repeats=3)
    assert errors.shape == (3, len(sizes))
    assert len({held for _, held in seen}) == 3


def test_a_purchase_in_words():
    bought = Purchase(more_count=1500, gain=0.0123, low=0.004, high=0.02)
    assert (
        bought.sentence("accuracy") == "1,500 more labels ≈ +1.2 points of accuracy (+0.4 to +2.0)"
    )
