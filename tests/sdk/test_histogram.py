"""Frozen bins: the same cell for the same value, on every device and for ever."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop.errors import DataError
from fieldloop.histogram import (
    Bins,
    add_counts,
    pack_counts,
    unpack_counts,
    write_counts,
)

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
samples = st.lists(finite, min_size=1, max_size=60)


@given(samples, st.integers(2, 12), st.lists(finite | st.just(float("nan"))))
def test_one_value_and_many_are_counted_into_the_same_cells(reference, cell_count, values):
    bins = Bins.from_reference(reference, cell_count=cell_count)
    assert list(bins.edges) == sorted(set(bins.edges))
    assert bins.cell_count <= cell_count
    counts = bins.count(values)
    finite_values = [value for value in values if np.isfinite(value)]
    assert counts.sum() == len(finite_values)
    one_by_one = [0] * bins.cell_count
    for value in finite_values:
        one_by_one[bins.cell(value)] += 1
    assert counts.tolist() == one_by_one


@given(samples, samples, samples)
def test_merging_windows_is_adding_their_counts(reference, first, second):
    bins = Bins.from_reference(reference)
    together = bins.count([*first, *second])
    assert together.tolist() == (bins.count(first) + bins.count(second)).tolist()


def test_quantiles_fill_the_cells_evenly():
    values = np.random.default_rng(0).normal(size=10_000)
    counts = Bins.from_reference(values, cell_count=10).count(values)
    assert counts.min() >= 999
    assert counts.max() <= 1001


def test_a_constant_has_one_cell_and_few_values_have_few():
    assert Bins.from_reference([3.0] * 50).cell_count == 1
    two_values = Bins.from_reference([0.0] * 50 + [1.0] * 50, cell_count=10)
    assert two_values.cell_count <= 3
    assert two_values.cell(0.0) != two_values.cell(1.0)


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, -np.inf]])
def test_a_reference_without_finite_values_is_refused(values):
    with pytest.raises(DataError):
        Bins.from_reference(values)
    with pytest.raises(DataError):
        Bins.from_reference([1.0, 2.0], cell_count=1)


@given(st.lists(st.integers(0, 2**63 - 1)))
def test_packed_counts_come_back_and_are_never_longer(counts):
    packed = pack_counts(counts)
    assert len(packed) <= len(counts)
    assert unpack_counts(packed, cell_count=len(counts)) == counts


@pytest.mark.parametrize("packed", [[-(2**62)], [1, 2, 3], [], [-3], [1, -4]])
def test_packed_counts_of_another_length_are_refused_before_they_are_expanded(packed):
    with pytest.raises(DataError, match="cells"):
        unpack_counts(packed, cell_count=4)


@given(st.lists(st.sampled_from([0, 0, 0, 1, 31, 32]) | st.integers(0, 2**63 - 1)))
def test_written_counts_come_back_and_are_shorter_than_a_list(counts):
    text = write_counts(counts)
    assert unpack_counts(text, cell_count=len(counts)) == counts
    assert len(text) <= len(json.dumps(pack_counts(counts), separators=(",", ":")))
    assert json.loads(json.dumps(text)) == text
    assert "\\" not in json.dumps(text)


@given(st.text(max_size=30) | st.text("AZaz09+/*g", max_size=30), st.integers(0, 40))
def test_any_text_is_read_or_refused(text, cell_count):
    try:
        counts = unpack_counts(text, cell_count=cell_count)
    except DataError:
        return
    assert len(counts) == cell_count
    assert all(0 <= count < 1 << 63 for count in counts)


@pytest.mark.parametrize(
    "text", ["*", "g", "**A", "A*", "ä", " A", "*" + "/" * 12 + "f", "/" * 10_000_000]
)
def test_text_that_is_no_histogram_is_refused_before_it_is_expanded(text):
    with pytest.raises(DataError):
        unpack_counts(text, cell_count=4)


@given(
    st.integers(0, 20).flatmap(
        lambda size: st.tuples(*[st.lists(st.integers(0, 99), min_size=size, max_size=size)] * 2)
    ),
    st.booleans(),
)
def test_added_counts_are_the_sums(pair, as_list):
    first = tuple(pack_counts(pair[0])) if as_list else write_counts(pair[0])
    total = add_counts(first, write_counts(pair[1]))
    expected = [a + b for a, b in zip(*pair, strict=True)]
    assert unpack_counts(total, cell_count=len(expected)) == expected
    assert add_counts(first, "") == first or not first


def test_histograms_of_different_cells_cannot_be_added():
    with pytest.raises(DataError, match="cells"):
        add_counts("AA", "AAA")
