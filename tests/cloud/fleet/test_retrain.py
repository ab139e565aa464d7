"""Retraining: field rows are split honestly, and a challenger must be shown to be better."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fieldloop_cloud as fl
from fieldloop.errors import DataError, GateError
from fieldloop.telemetry import Clock, FieldSample
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.fleet.challenge import better, challenge, holm
from fieldloop_cloud.fleet.records import StoredSample
from fieldloop_cloud.fleet.retrain import MIN_AUDIT_ROWS, field_data, retrain

CLOCK = Clock(mono_ms=0, wall_ms=0)
SHIFT = np.array([0.0, 2.5, 2.0, 0.0], dtype=np.float32)
"""The field's sensors read so much more than at training time."""


@pytest.fixture(scope="module")
def data():
    return fl.Dataset.load("sklearn:iris")


@pytest.fixture(scope="module")
def champion(data):
    return fl.train(data, candidates=["logistic"])


def _field(data: Dataset, count: int, *, shift=SHIFT, policy="random", seed=0):
    """Return labelled samples of a field like `data` with displaced sensors."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(data), count)
    noise = rng.normal(scale=0.1, size=(count, data.X.shape[1])).astype(np.float32)
    values = data.X[rows] + shift + noise
    return [
        StoredSample(
            device="pi-1",
            at_ms=0,
            sample=FieldSample(
                boot=1,
                seq=number + 1,
                at=CLOCK,
                model="ab" * 8,
                sample_id=f"{policy}{number}",
                raw=[float(value) for value in values[number]],
                policy=policy,
            ),
            label=data.label(int(row)),
        )
        for number, row in enumerate(rows)
    ]


def test_a_challenger_that_knows_the_changed_field_is_accepted_with_its_evidence(
    data, champion, tmp_path
):
    done = retrain(champion, data, _field(data, 240), out=tmp_path / "second", epsilon=0.04)
    assert done.accepted
    assert 0.04 in {item.gate.epsilon for item in done.challenger.front}
    assert done.gate.challenger_score > done.gate.champion_score + 0.1
    assert done.gate.p_value < 0.05
    assert done.gate.row_count + done.field_row_count == 240
    sentence = fl.Run.load(tmp_path / "second").lineage.gate["champion/challenger"]
    assert done.gate.sentence in sentence
    assert "at random" in sentence
    assert done.require() is done.challenger


def test_without_a_change_the_challenger_is_not_better_and_is_refused(data, champion):
    done = retrain(champion, data, _field(data, 160, shift=np.zeros(4, dtype=np.float32)))
    assert not done.accepted
    with pytest.raises(GateError, match="not shown to be better"):
        done.require()


def test_a_worse_challenger_is_refused_by_name_of_the_class(data, champion):
    worse = retrain(champion, data, _field(data, 240))
    # The other way round: the old model challenges the one that knows the field.
    audit = field_data(data, _field(data, 240)).audit
    result = challenge(worse.challenger.chosen, champion.chosen, audit)
    assert not result.accepted
    assert "it is worse on class" in result.sentence
    assert result.lost > result.won


def test_a_challenger_over_its_budget_is_refused_however_good_it_is(data, champion):
    done = retrain(champion, data, _field(data, 240))
    big = msgspec.structs.replace(done.challenger.chosen, over_budget="9 bytes of 8")
    audit = field_data(data, _field(data, 240)).audit
    result = challenge(champion.chosen, big, audit)
    assert not result.accepted
    assert "9 bytes of 8" in result.sentence


def test_classes_with_few_rows_are_named_as_unproven(data, champion):
    done = retrain(champion, data, _field(data, 240))
    assert any(not item.shown_safe for item in done.gate.classes)
    assert "too few rows to rule out" in done.gate.sentence


def test_parts_are_disjoint_stable_and_never_split_copies(data):
    samples = _field(data, 200)
    copies = [
        replace(item, sample=msgspec.structs.replace(item.sample, sample_id=f"c{k}"))
        for k, item in enumerate(samples)
    ]
    first = field_data(data, samples)
    both = field_data(data, [*samples, *copies])

    def rows(dataset):
        return {row.tobytes() for row in dataset.X}

    assert not rows(first.train) & rows(first.audit)
    assert rows(both.train) == rows(first.train)
    assert rows(both.audit) == rows(first.audit)
    later = field_data(data, samples[50:])
    assert rows(later.audit) <= rows(first.audit)


def test_only_randomly_drawn_samples_audit_if_there_are_enough(data):
    random, unsure = _field(data, 200), _field(data, 200, policy="uncertain", seed=1)
    found = field_data(data, [*random, *unsure])
    assert "at random" in found.note
    assert len(found.train) + len(found.audit) == 400
    assert len(found.audit) < 150
    few = field_data(data, [*random[:20], *unsure])
    assert "all kinds" in few.note
    assert len(few.audit) >= MIN_AUDIT_ROWS


def test_too_few_or_unfit_samples_are_refused(data):
    with pytest.raises(DataError, match="no field sample has a label"):
        field_data(data, [replace(item, label=None) for item in _field(data, 5)])
    with pytest.raises(DataError, match="to judge a challenger"):
        field_data(data, _field(data, 20))
    with pytest.raises(DataError, match="tulip"):
        field_data(data, [replace(item, label="tulip") for item in _field(data, 100)])


def test_numbers_are_gated_by_who_is_closer():
    numbers = fl.Dataset.load("sklearn:diabetes")
    champion = fl.train(numbers, candidates=["ridge"])
    rng = np.random.default_rng(0)
    shift = np.zeros(numbers.X.shape[1], dtype=np.float32)
    shift[2] = 0.15
    done = retrain(champion, numbers, _field(numbers, 300, shift=shift))
    assert done.gate.metric == "mean_absolute_error"
    assert done.accepted
    assert done.gate.challenger_score < done.gate.champion_score
    assert "sign test" in done.gate.sentence
    audit = numbers.take(rng.permutation(len(numbers))[:100])
    back = challenge(champion.chosen, done.challenger.chosen, audit)
    assert not back.accepted
    assert "mean absolute error is larger" in back.sentence


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_test_is_one_sided_and_exact(won, lost):
    p_value = better(won, lost)
    assert 0 < p_value <= 1
    assert better(won + 1, lost) <= p_value
    assert better(won, lost + 1) >= p_value
    if won <= lost:
        assert p_value >= 0.5


def test_the_gate_lets_an_equal_challenger_through_rarely_enough():
    rng = np.random.default_rng(5)
    trials, alpha = 2000, 0.05
    differing = rng.binomial(200, 0.1, trials)
    won = rng.binomial(differing, 0.5)
    passed = sum(better(int(w), int(d - w)) <= alpha for w, d in zip(won, differing, strict=True))
    assert passed / trials <= alpha


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.01, 0.2))
def test_holm_rejects_what_bonferroni_rejects_and_nothing_above_the_level(p_values, alpha):
    rejected = holm(p_values, alpha)
    for p_value, hit in zip(p_values, rejected, strict=True):
        assert hit or p_value > alpha / len(p_values)
        assert not hit or p_value <= alpha
