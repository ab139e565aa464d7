"""One trained run for every test that only looks at it."""

import pytest

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.trainer import train


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """digits with all candidates, the net included, saved; and what it said meanwhile."""
    said = []
    run = train(
        Dataset.load("sklearn:digits"),
        device="x86",
        out=tmp_path_factory.mktemp("runs") / "digits",
        progress=lambda *report: said.append(report),
    )
    return run, said
