"""Fixtures of more than one part of the workstation's tests."""

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
