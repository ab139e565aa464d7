"""The arena's plan: never two living tensors on one byte, never less than the fullest moment."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.arena import ALIGNMENT, Buffer, aligned, packed_bytes
from fieldloop_cloud.compile.inspect import inspect

BUFFERS = st.lists(
    st.builds(
        lambda size, first, more: Buffer(size, first, first + more),
        st.integers(1, 5000),
        st.integers(0, 20),
        st.integers(0, 20),
    ),
    max_size=25,
)


@given(BUFFERS, st.sampled_from([16, 64]))
def test_the_plan_lies_between_the_fullest_moment_and_no_sharing_at_all(buffers, alignment):
    planned = packed_bytes(buffers, alignment=alignment)
    padded = [(aligned(buffer.size_bytes, alignment), buffer) for buffer in buffers]
    fullest = max(
        (sum(size for size, one in padded if one.first <= t <= one.last) for t in range(41)),
        default=0,
    )
    assert fullest <= planned <= sum(size for size, _ in padded)
    assert planned % alignment == 0


@given(st.integers(2, 30), st.integers(1, 1000))
def test_a_chain_needs_no_more_than_two_tensors(length, size):
    chain = [Buffer(size, number, number + 1) for number in range(length)]
    assert packed_bytes(chain, alignment=ALIGNMENT) == 2 * aligned(size, ALIGNMENT)


def test_two_neighbours_of_a_chain_are_held_and_not_the_sum():
    chain = [Buffer(1000, 0, 1), Buffer(2000, 1, 2), Buffer(500, 2, 3), Buffer(100, 3, 4)]
    assert packed_bytes(chain, alignment=16) == aligned(1000, 16) + aligned(2000, 16)


def test_two_that_never_meet_share_their_place_and_two_that_do_not_fit_a_gap_do_not():
    assert packed_bytes([Buffer(64, 0, 0), Buffer(64, 1, 1)], alignment=16) == 64
    # The gap of 32 between the two large ones is too small for the 48.
    group = [Buffer(128, 0, 3), Buffer(96, 2, 3), Buffer(48, 0, 3)]
    assert packed_bytes(group, alignment=16) == 128 + 96 + 48


def test_a_compiled_model_tells_its_arena():
    X = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    model = LogisticRegression().fit(X, X[:, 0] > 0)
    facts = inspect(to_tflite(model, example=X).tflite)
    # At least the row itself; the weights are no part of it.
    assert 40 * 4 <= facts.arena_bytes <= 4096
