"""Estimated accuracy: right where confidence still means the same, honest about its interval."""

import numpy as np
import pytest

from fieldloop.errors import DataError, UnsupportedError
from fieldloop.histogram import pack_counts
from fieldloop.profile import ReferenceProfile
from fieldloop.telemetry import CONFIDENCE_EDGES, Clock, TelemetryWindow
from fieldloop_cloud.fleet.counts import FieldWindow
from fieldloop_cloud.fleet.estimate import estimated_accuracy

CELLS = len(CONFIDENCE_EDGES) + 1
TRUE_SHARE = np.linspace(0.3, 0.99, CELLS)
EASY = np.array([0, 0, 1, 1, 2, 4, 8, 24, 60]) / 100
HARD = np.array([5, 15, 20, 20, 20, 10, 5, 3, 2]) / 100


def _profile(rng, rows):
    counts = np.stack([rng.multinomial(rows, EASY) for _ in range(2)])
    right = rng.binomial(counts, TRUE_SHARE)
    share = np.where(counts > 0, right / np.maximum(counts, 1), TRUE_SHARE)
    return ReferenceProfile(
        quantities=(),
        confidence_counts=tuple(map(tuple, counts.tolist())),
        confidence_accuracy=tuple(map(tuple, share.tolist())),
        row_count=2 * rows,
    )


def _window(counts):
    clock = Clock(mono_ms=0, wall_ms=0)
    window = TelemetryWindow(
        boot=1,
        seq=1,
        model="ab" * 8,
        start=clock,
        end=clock,
        prediction_count=int(counts.sum()),
        confidence_counts=tuple(tuple(pack_counts(row)) for row in counts.tolist()),
    )
    return FieldWindow(device="pi-1", at_ms=0, window=window)


@pytest.mark.parametrize("field", [EASY, HARD])
@pytest.mark.parametrize(("reference_rows", "field_rows"), [(200, 2000), (5000, 200)])
def test_the_interval_covers_the_true_accuracy_of_an_easy_and_of_a_hard_field(
    field, reference_rows, field_rows
):
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        profile = _profile(rng, reference_rows)
        counts = np.stack([rng.multinomial(field_rows, field) for _ in range(2)])
        truth = rng.binomial(counts, TRUE_SHARE).sum() / counts.sum()
        found = estimated_accuracy(profile, [_window(counts)])
        covered += found.low <= truth <= found.high
    assert covered >= 180


def test_more_field_and_more_reference_rows_narrow_the_interval():
    def width(reference_rows, field_rows):
        rng = np.random.default_rng(1)
        profile = _profile(rng, reference_rows)
        found = estimated_accuracy(
            profile, [_window(np.stack([field_rows * EASY] * 2).astype(int))]
        )
        return found.high - found.low

    assert width(200, 100) > width(200, 10_000) > width(20_000, 10_000) > 0


def test_windows_add_up():
    rng = np.random.default_rng(2)
    profile = _profile(rng, 500)
    parts = [np.stack([rng.multinomial(50, EASY) for _ in range(2)]) for _ in range(4)]
    assert estimated_accuracy(profile, [_window(part) for part in parts]) == estimated_accuracy(
        profile, [_window(sum(parts))]
    )


def test_without_probabilities_or_predictions_there_is_no_estimate():
    with pytest.raises(UnsupportedError, match="no probabilities"):
        estimated_accuracy(ReferenceProfile(quantities=()), [])
    profile = _profile(np.random.default_rng(0), 100)
    with pytest.raises(DataError, match="no predictions"):
        estimated_accuracy(profile, [])
    with pytest.raises(DataError, match="classes"):
        estimated_accuracy(profile, [_window(np.ones((3, CELLS), dtype=int))])
