import pytest
from support.runtimes import RuntimeUnavailableError, Worker


@pytest.fixture(scope="session")
def tflite214():
    """A worker that runs models in tflite-runtime 2.14."""
    try:
        worker = Worker()
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))
    yield worker
    worker.close()
