"""Training a net in its process: what ends it early, and what it must not touch."""

import dataclasses

import numpy as np
import pytest

from fieldloop.errors import GateError, ModelRuntimeError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train import deep
from fieldloop_cloud.train.cnn import plan_cnn
from fieldloop_cloud.train.deep import train_cnn


def trained(rows, **options):
    plan = plan_cnn(rows.image, len(rows.labels), max_model_bytes=1_000_000)
    return train_cnn(
        plan,
        rows,
        calibration=rows.X[:10],
        probes=rows.X[:10],
        precisions=("float32",),
        seed=0,
        **options,
    )


@pytest.fixture(scope="module")
def digits():
    return Dataset.load("sklearn:digits").take(np.arange(300))


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Job directories are made here."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_net_out_of_time_is_killed_and_leaves_nothing(digits, jobs):
    with pytest.raises(GateError, match="its 2 s were used up"):
        trained(digits, budget_s=2.0)
    assert list(jobs.iterdir()) == []


@pytest.mark.slow
def test_training_that_fails_says_what_the_log_says(digits, jobs):
    beyond = dataclasses.replace(digits, y=digits.y + 90)
    with pytest.raises(ModelRuntimeError, match=r"training failed.*is not in"):
        trained(beyond, budget_s=120.0)
    assert list(jobs.iterdir()) == []


@pytest.mark.slow
def test_time_that_ends_during_training_keeps_the_best_epoch(digits, jobs):
    # All but one second is kept back for the conversion.
    net = trained(digits, budget_s=deep._CONVERT_S + 1.0, epochs=10_000)
    assert "stopped by the time budget" in net.parameters["epochs"]
    assert net.converted.models.keys() == {"float32"}
    np.testing.assert_allclose(net.answers.sum(axis=1), 1.0, atol=1e-5)


def test_early_stopping_watches_training_rows_of_every_class():
    y = np.repeat([0, 1, 2], [50, 20, 1])
    fit_rows, held = deep._hold_out(y, 0)
    assert sorted(np.concatenate([fit_rows, held]).tolist()) == list(range(71))
    assert np.bincount(y[held], minlength=3).tolist() == [5, 2, 0]
