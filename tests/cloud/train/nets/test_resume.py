"""A training that is killed and started again ends as one that was left alone."""

import os
import signal
import subprocess
import sys
import time

import msgspec
import numpy as np
import psutil
import pytest

from fieldloop.errors import ConfigError, GateError
from fieldloop_cloud.train.nets import Augmentation, NetSettings, supervisor, train_net
from fieldloop_cloud.train.nets.train import CONVERT_S

# Dropout, augmentation, a momentum and a plateau: state that a resumed training must have.
SETTINGS = NetSettings(
    epochs=12,
    patience=12,
    learning_rate=0.005,
    schedule="plateau",
    decay_epochs=1,
    augmentation=Augmentation(shift=0.1, noise=0.1),
)

SCRIPT = """
import sys
import msgspec, numpy as np
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets import NetSettings, train_net
settings = msgspec.json.decode(sys.argv[2], type=NetSettings)
digits = Dataset.load("sklearn:digits").take(np.arange(400))
train_net("cnn", digits, settings=settings, job_dir=sys.argv[1])
"""


def epochs_done(job):
    try:
        with np.load(job / "checkpoint.npz", allow_pickle=False) as kept:
            return len(msgspec.json.decode(kept["course"].tobytes())["history"])
    except OSError:
        return 0


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_training_killed_in_the_middle_ends_with_the_same_net(digits, tmp_path, warm):
    job = tmp_path / "job"
    command = [sys.executable, "-c", SCRIPT, str(job), msgspec.json.encode(SETTINGS).decode()]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: epochs_done(job) >= 2)
    (worker,) = psutil.Process(process.pid).children()
    os.kill(worker.pid, signal.SIGSTOP)  # so that it cannot finish before the kill
    process.kill()
    process.wait()
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(worker.pid) or worker.status() == "zombie")
    done = epochs_done(job)
    assert 2 <= done < 12
    assert not (job / "result.json").exists()

    said = []
    resumed = train_net(
        "cnn", digits, settings=SETTINGS, job_dir=job, progress=lambda *one: said.append(one[2])
    )
    assert f"going on after epoch {done}" in said
    assert not any(text.startswith("epoch 1 of") for text in said)
    whole = train_net("cnn", digits, settings=SETTINGS)
    assert resumed.history == whole.history
    np.testing.assert_array_equal(resumed.answers, whole.answers)

    # Once more: it is whole, so nothing is trained.
    again = train_net("cnn", digits, settings=SETTINGS, job_dir=job)
    np.testing.assert_array_equal(again.answers, whole.answers)


def test_a_job_directory_of_another_training_is_refused(digits, tmp_path, warm):
    short = NetSettings(epochs=1)
    first = train_net("cnn", digits, settings=short, job_dir=tmp_path)
    for changes in ({"seed": 1}, {"settings": NetSettings(epochs=2)}):
        with pytest.raises(ConfigError, match="holds another training"):
            train_net("cnn", digits, **{"settings": short, **changes}, job_dir=tmp_path)
    with pytest.raises(ConfigError, match="holds another training"):
        train_net("cnn", digits.take(np.arange(399)), settings=short, job_dir=tmp_path)
    # Another budget and further precisions are the same training.
    more = train_net(
        "cnn", digits, settings=short, job_dir=tmp_path, budget_s=99, precisions=("float32",)
    )
    np.testing.assert_array_equal(more.answers, first.answers)


def test_time_that_ends_during_training_keeps_the_best_epoch(digits, tmp_path, warm):
    # All but half a second is kept back for the conversion.
    endless = NetSettings(epochs=10_000, patience=10_000)
    net = train_net("cnn", digits, settings=endless, budget_s=CONVERT_S + 0.5, job_dir=tmp_path)
    assert "stopped by the time budget" in net.parameters["epochs"]
    assert net.converted.models.keys() == {"float32"}
    np.testing.assert_allclose(net.answers.sum(axis=1), 1.0, atol=1e-5)


def test_a_net_out_of_time_is_killed_and_leaves_nothing(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(GateError, match="its 1 s were used up"):
        train_net("cnn", digits, budget_s=1.0)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_killed_alone_is_started_again(digits, tmp_path, warm, monkeypatch):
    """The kernel or a person may end the worker; the parent goes on from its checkpoint."""
    started = []
    run = supervisor.run_worker

    def kill_the_first(module, job, **options):
        started.append(epochs_done(job))
        if len(started) > 1:
            return run(module, job, **options)

        def kill(stage, fraction, text):
            if "epoch 3 of" in text:
                os.kill(net_worker(), signal.SIGKILL)

        return run(module, job, **{**options, "progress": kill})

    def net_worker():
        children = psutil.Process().children()
        return next(c.pid for c in children if "tests.support.net_process" in c.cmdline())

    monkeypatch.setattr(supervisor, "run_worker", kill_the_first)
    short = NetSettings(epochs=4, patience=4)
    killed = train_net("cnn", digits, settings=short, job_dir=tmp_path)
    assert started == [0, 2]
    monkeypatch.setattr(supervisor, "run_worker", run)
    whole = train_net("cnn", digits, settings=short)
    np.testing.assert_array_equal(killed.answers, whole.answers)
