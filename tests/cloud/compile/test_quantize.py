"""The precision gate's statistics, against theory and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop_cloud.compile.quantize import (
    calibration_rows,
    calibration_sha256,
    classification_gate,
    paired_drop_high,
    regression_gate,
    rows_needed,
)


def pair(lost, won, count):
    """Truth, reference and variant with so many rows lost and won."""
    truth = np.zeros(count, dtype=np.int64)
    reference, variant = truth.copy(), truth.copy()
    variant[:lost] = 1
    reference[lost : lost + won] = 1
    return truth, reference, variant


def test_the_limit_without_a_loss_is_the_score_limit_in_closed_form():
    z2 = 1.6448536269514722**2
    assert paired_drop_high(0, 0, 300) == pytest.approx(z2 / (300 + z2), rel=1e-6)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(61, 3000))
def test_the_limit_lies_above_the_drop_and_grows_with_every_loss(lost, won, count):
    high = paired_drop_high(lost, won, count)
    assert (lost - won) / count <= high <= 1.0
    assert paired_drop_high(lost + 1, won, count) > high
    assert paired_drop_high(lost, won + 1, count) <= high + 1e-9 or won < lost


def test_the_limit_covers_as_it_says():
    random = np.random.default_rng(1)
    lost_share, won_share, count = 0.02, 0.005, 500
    draws = random.multinomial(count, [lost_share, won_share, 1 - lost_share - won_share], 2000)
    known = {tuple(row) for row in draws[:, :2].tolist()}
    limit = {row: paired_drop_high(*row, count) for row in known}
    covered = np.mean(
        [limit[tuple(row)] >= lost_share - won_share for row in draws[:, :2].tolist()]
    )
    assert 0.93 <= covered <= 0.985


def test_the_gate_accepts_what_is_shown_to_be_harmless():
    gate = classification_gate(*pair(0, 0, 360))
    assert (gate.verdict, gate.passed, gate.agreement) == ("accepted", True, 1.0)
    assert "0 rows lost and 0 won of 360" in gate.reason


def test_the_gate_refuses_a_collapse():
    gate = classification_gate(*pair(40, 2, 360))
    assert (gate.verdict, gate.passed) == ("refused", False)
    assert gate.drop == pytest.approx(38 / 360)


def test_a_rare_class_that_collapses_is_refused_although_accuracy_hardly_moves():
    truth = np.repeat([0, 1], [5000, 20])
    variant = truth.copy()
    variant[truth == 1] = 0
    gate = classification_gate(truth, truth, variant)
    assert gate.drop_high <= 0.01
    assert (gate.verdict, gate.passed) == ("refused", False)
    assert "class number 1 lost 20 of its 20 rows" in gate.reason
    variant = truth.copy()
    variant[-1] = 0  # one row of twenty is no collapse
    assert classification_gate(truth, truth, variant).passed


def test_few_rows_prove_nothing_and_the_gate_says_how_many_would():
    need = rows_needed(0.01)
    few, enough = classification_gate(*pair(0, 0, need - 1)), classification_gate(*pair(0, 0, need))
    assert (few.verdict, few.passed) == ("not proven", False)
    assert f"at least {need} rows" in few.reason
    assert enough.passed


def test_the_paired_gate_sees_through_agreeing_errors():
    # Both wrong on a third of the rows, and always together: nothing is lost.
    truth, reference, _ = pair(0, 120, 360)
    assert classification_gate(truth, reference, reference).passed


def test_regression_is_gated_by_the_r2_it_loses():
    random = np.random.default_rng(0)
    truth = random.normal(size=300).astype(np.float32)
    reference = truth + random.normal(size=300) * 0.3
    near = reference + random.normal(size=300) * 0.001
    far = reference + random.normal(size=300) * 0.5
    assert regression_gate(truth, reference, near).verdict == "accepted"
    assert regression_gate(truth, reference, far).verdict == "refused"


def test_calibration_rows_keep_every_class_and_repeat():
    y = np.repeat([0, 1, 2], [900, 95, 5])
    rows = calibration_rows(y, seed=3, count=100)
    assert np.array_equal(rows, calibration_rows(y, seed=3, count=100))
    assert set(y[rows].tolist()) == {0, 1, 2}
    assert 98 <= len(rows) <= 102
    assert (y[rows] == 0).sum() == 90
    assert calibration_rows(y[:50], seed=3, count=100).tolist() == list(range(50))
    X = np.ones((3, 2), dtype=np.float32)
    assert calibration_sha256(X) != calibration_sha256(X * 2)
