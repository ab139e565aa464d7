"""Several devices and several machines learn what one learns."""

import json
import os
import socket
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from fieldloop_cloud.train.nets import NetSettings, plan_net, train_net

# 50 is no multiple of two replicas' shares of the last step: 288 fitted rows leave 38.
SETTINGS = NetSettings(epochs=2, batch_size=51, learning_rate=0.01, clip_norm=1.0)

SCRIPT = """
import sys
import msgspec, numpy as np
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets import NetSettings, plan_net, train_net
digits = Dataset.load("sklearn:digits").take(np.arange(400))
plan = msgspec.structs.replace(plan_net("cnn", digits), dropout=0.0)
settings = msgspec.json.decode(sys.argv[1], type=NetSettings)
net = train_net(plan, digits, settings=settings, job_dir=sys.argv[2])
np.save(sys.argv[2] + "/weights.npy", net.answers)
"""


@pytest.fixture(scope="module")
def plan(digits):
    return msgspec.structs.replace(plan_net("cnn", digits), dropout=0.0)


@pytest.fixture
def alone(digits, plan, warm):
    return train_net(plan, digits, settings=SETTINGS)


def losses(net):
    return [epoch.loss for epoch in net.history]


@pytest.mark.slow
def test_two_devices_learn_what_one_learns(digits, plan, alone, monkeypatch):
    monkeypatch.undo()  # logical devices are set before TensorFlow starts: a worker of its own
    both = msgspec.structs.replace(SETTINGS, strategy="mirrored", logical_devices=2)
    net = train_net(plan, digits, settings=both)
    assert losses(net) == pytest.approx(losses(alone), rel=1e-3)
    np.testing.assert_allclose(net.answers, alone.answers, atol=5e-3)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_end_alike(tmp_path, alone):
    """As documented in `nets.strategy`: the same program, TF_CONFIG, its own job directory."""
    places = [f"127.0.0.1:{port}" for port in free_ports(2)]
    several = msgspec.json.encode(msgspec.structs.replace(SETTINGS, strategy="multi_worker"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, several.decode(), str(tmp_path / str(index))],
            env={**os.environ, "TF_CONFIG": cluster(places, index)},
            stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]
    for process in processes:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said.decode()[-2000:]
    one, other = (np.load(tmp_path / str(index) / "weights.npy") for index in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one, alone.answers, atol=5e-3)


def cluster(places, index):
    return json.dumps({"cluster": {"worker": places}, "task": {"type": "worker", "index": index}})


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
