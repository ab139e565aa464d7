"""The arena's plan: never two living tensors on one byte, never less than the fullest moment."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fieldloop_cloud.compile import arena
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.arena import ALIGNMENT, _Life
from fieldloop_cloud.compile.inspect import inspect

LIVES = st.lists(
    st.builds(
        lambda size, first, more: _Life(size, first, first + more),
        st.integers(1, 5000),
        st.integers(0, 20),
        st.integers(0, 20),
    ),
    max_size=25,
)


@given(LIVES)
def test_the_plan_lies_between_the_fullest_moment_and_no_sharing_at_all(lives):
    planned = arena._planned(lives)
    padded = [(-(-life.size_bytes // ALIGNMENT) * ALIGNMENT, life) for life in lives]
    fullest = max(
        (sum(size for size, life in padded if life.first <= t <= life.last) for t in range(41)),
        default=0,
    )
    assert fullest <= planned <= sum(size for size, _ in padded)


@given(st.integers(2, 30), st.integers(1, 1000))
def test_a_chain_needs_no_more_than_two_tensors(length, size):
    lives = [_Life(size, number, number + 1) for number in range(length)]
    assert arena._planned(lives) == 2 * -(-size // ALIGNMENT) * ALIGNMENT


def test_a_compiled_model_tells_its_arena():
    X = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    model = LogisticRegression().fit(X, X[:, 0] > 0)
    facts = inspect(to_tflite(model, example=X).tflite)
    # At least the row itself; the weights are no part of it.
    assert 40 * 4 <= facts.arena_bytes <= 4096
