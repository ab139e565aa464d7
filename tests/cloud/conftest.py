"""Fixtures of more than one part of the workstation's tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.parts import missing
from tests.support.runtimes import RuntimeUnavailableError, Worker


@pytest.fixture(scope="session")
def tflite214():
    """A worker that runs models in tflite-runtime 2.14."""
    try:
        worker = Worker()
    except RuntimeUnavailableError as error:
        missing(str(error))
    yield worker
    worker.close()


def run_with_tensorflow(module, *words):
    """Run a module of `tests.support` where TensorFlow may be imported."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *map(str, words)],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="session")
def sparse_nets(tmp_path_factory):
    """A folder with `tests.support.sparse_nets`' trained nets."""
    folder = tmp_path_factory.mktemp("sparse-nets")
    run_with_tensorflow("tests.support.sparse_nets", folder)
    return folder


@pytest.fixture(scope="session")
def pruned_nets(tmp_path_factory):
    """What became of the nets of `tests.support.pruned_nets`, as JSON."""
    path = tmp_path_factory.mktemp("pruned-nets") / "out.json"
    run_with_tensorflow("tests.support.pruned_nets", path)
    return path.read_bytes()
