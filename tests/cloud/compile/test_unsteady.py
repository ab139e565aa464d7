"""Jumps within float32's rounding are excused; everything else is not."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin

from fieldloop.errors import GateError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.lowering import lowers
from fieldloop_cloud.compile.unsteady import movement


def ask(rows):
    return {
        "label": np.array(["low", "high"])[(rows[:, 0] > 1).astype(int)],
        "value": np.where(rows[:, 0] > 1, 5.0, 0.0) + rows[:, 1],
    }


def test_a_row_on_a_jump_moves_and_others_hardly_do():
    rows = np.float32([[1.0, 0.0], [0.9, 0.0], [1.1, 3.0]])
    moved = movement(ask, rows, rows, op_count=5)
    assert moved["label"].tolist() == [1, 0, 0]
    assert moved["value"][0] > 4
    assert moved["value"][1:].max() < 1e-5


def test_an_original_that_refuses_says_nothing():
    rows = np.zeros((3, 2), np.float32)
    assert movement(lambda _: None, rows, rows, op_count=5) == {}
    assert movement(ask, rows[:0], rows, op_count=5) == {}


def test_an_offset_excuses_nothing():
    near = np.float32([[1.0, 0.0], [0.99999, 0.0], [1.1, 3.0]])
    far = near + np.float32([0, 1024])
    moved = [movement(ask, rows, rows, op_count=5)["value"] for rows in (near, far)]
    assert moved[1][1] < 2 * moved[0][1] + 1e-9


class Doubler(RegressorMixin, BaseEstimator):
    """Twice the first column, and a jump at 1."""

    def fit(self, X, y=None):  # noqa: ARG002 - as every estimator
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        return np.where(X[:, 0] > 1, 5.0, 0.0) + 2 * X[:, 0]


def lowering(*, slope, jump):
    def doubler(estimator, value, context):
        context.unsteady = True
        g = context.graph
        first = g.reshape(g.columns(value.tensor(), 0, 1), (-1,))
        step = g.mul(g.cast(g.greater(first, jump), "float32"), 5.0)
        return {"value": g.add(g.mul(first, slope), step)}

    return doubler


ROWS = np.array([[0.0], [1.0], [2.0], [0.5]])


def test_the_other_side_of_a_jump_is_excused():
    lowers(Doubler)(lowering(slope=2.0, jump=np.nextafter(np.float32(1), np.float32(0))))
    to_tflite(Doubler().fit(ROWS), example=ROWS)


@pytest.mark.parametrize("wrong", [{"slope": 2.001, "jump": 1.0}, {"slope": 2.0, "jump": 1.6}])
def test_what_is_wrong_is_refused_all_the_same(wrong):
    lowers(Doubler)(lowering(**wrong))
    rows = np.vstack([ROWS, [[1.5]]])
    with pytest.raises(GateError, match="deviates"):
        to_tflite(Doubler().fit(rows), example=rows)
