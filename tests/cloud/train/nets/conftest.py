"""Nets trained in one process that is kept, and the small data they are trained on."""

import dataclasses

import numpy as np
import pytest
from tests.support.net_process import NetProcess

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets import costing, supervisor


@pytest.fixture(scope="session")
def net_process():
    process = NetProcess()
    yield process
    process.close()


@pytest.fixture
def warm(net_process, monkeypatch):
    """Nets are trained in the process that has TensorFlow already."""
    monkeypatch.setattr(supervisor, "run_worker", net_process.run_worker)
    monkeypatch.setattr(costing, "run_worker", net_process.run_worker)


@pytest.fixture(scope="session")
def digits():
    return Dataset.load("sklearn:digits").take(np.arange(400))


@pytest.fixture(scope="session")
def windows():
    """Windows of three channels; the class is the frequency, the channels differ in size."""
    random = np.random.default_rng(0)
    steps = np.arange(32)
    y = random.integers(0, 2, 200)
    phase = random.uniform(0, 2 * np.pi, (200, 1, 3))
    waves = np.sin(steps[:, None] * (0.3 + 0.6 * y)[:, None, None] + phase)
    waves += random.normal(0, 0.1, waves.shape)
    return Dataset(
        name="waves",
        kind="series",
        task="classification",
        X=(waves * [1.0, 50.0, 0.01] + [0.0, 1000.0, -1.0]).astype(np.float32),
        y=y.astype(np.int64),
        labels=("slow", "fast"),
        channels=("a", "b", "c"),
    )


@pytest.fixture(scope="session")
def shuffled(digits):
    """Digits whose labels say nothing."""
    return dataclasses.replace(digits, y=np.random.default_rng(0).permutation(digits.y))
