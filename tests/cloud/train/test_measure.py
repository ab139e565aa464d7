"""Latency on the runtimes at hand."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fieldloop.backends import available_backends
from fieldloop.errors import CompatibilityError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.train import measure


@pytest.fixture(scope="module")
def compiled():
    X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    return to_tflite(LogisticRegression().fit(X, X[:, 0] > 0), example=X)


ROWS = np.zeros((4, 3), dtype=np.float32)


def test_every_runtime_at_hand_is_timed_but_tensorflow(compiled):
    timed = measure.latencies(compiled.tflite, compiled.signature, ROWS)
    here = {one.name for one in available_backends() if one.usable} - {"tensorflow"}
    assert set(timed) == here
    assert all(0 < one.p50_ms <= one.p90_ms for one in timed.values())


def test_a_runtime_that_is_too_old_for_the_model_is_left_out(compiled, monkeypatch):
    usable = [one for one in available_backends() if one.usable]
    old = type(usable[0])(name="old", version="1.0", usable=True)
    monkeypatch.setattr(measure, "available_backends", lambda: (*usable, old))
    opened = measure.open_engine

    def open_engine(model, *, backend=None, **kwargs):
        if backend == "old":
            raise CompatibilityError("the model needs op SQUARE in version 2")
        return opened(model, backend=backend, **kwargs)

    monkeypatch.setattr(measure, "open_engine", open_engine)
    assert "old" not in measure.latencies(compiled.tflite, compiled.signature, ROWS)
