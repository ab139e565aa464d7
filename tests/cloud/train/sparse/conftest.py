"""One process for all pruning and distilling, and the rows for it."""

from types import SimpleNamespace

import numpy as np
import pytest
from tests.support.net_process import NetProcess

from fieldloop_cloud.compile import keras
from fieldloop_cloud.train.distill import distill
from fieldloop_cloud.train.prune import prune


@pytest.fixture(scope="session")
def sparse_process():
    process = NetProcess()
    yield process
    process.close()


@pytest.fixture
def warm(sparse_process, monkeypatch):
    """Nets are trained and converted in a process that has TensorFlow already."""
    monkeypatch.setattr(keras, "run_worker", sparse_process.run_worker)
    monkeypatch.setattr(prune, "run_worker", sparse_process.run_worker)
    monkeypatch.setattr(distill, "run_worker", sparse_process.run_worker)


@pytest.fixture(scope="session")
def digits(sparse_nets):
    return rows_of(sparse_nets / "digits.npz")


@pytest.fixture(scope="session")
def letters(sparse_nets):
    return rows_of(sparse_nets / "letters.npz")


def rows_of(path):
    with np.load(path) as arrays:
        X, y = arrays["X"], arrays["y"]
    return SimpleNamespace(X=X, y=y, train=(X[:1000], y[:1000]), held_out=(X[1000:], y[1000:]))
