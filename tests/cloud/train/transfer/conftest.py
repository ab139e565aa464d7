"""A backbone of one's own, and one process with TensorFlow for all tests."""

import contextlib
import json

import msgspec
import pytest
from tests.support.net_process import NetProcess

from fieldloop_cloud.compile import keras as compile_keras
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets import costing, supervisor
from fieldloop_cloud.train.transfer import feature_head
from fieldloop_cloud.train.transfer.glyphs import glyphs
from fieldloop_cloud.train.transfer.pretrain import SETTINGS, pretrain


@pytest.fixture(scope="session")
def keras_process():
    process = NetProcess()
    yield process
    process.close()


@contextlib.contextmanager
def running_in(keras_process):
    """Workers run in the process that has TensorFlow already."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (supervisor, costing, feature_head, compile_keras):
            patch.setattr(module, "run_worker", keras_process.run_worker)
        yield


@pytest.fixture(scope="module", autouse=True)
def _warm(keras_process):
    with running_in(keras_process):  # not longer than a module: others want workers of their own
        yield


@pytest.fixture(scope="session")
def ask(keras_process, tmp_path_factory):
    """Ask `tests.support.transfer_probe`; gives the answer, and the job's directory."""

    def asking(what, **options):
        job = tmp_path_factory.mktemp(what)
        (job / "ask.json").write_text(json.dumps({"what": what, **options}))
        end = keras_process.run_worker("tests.support.transfer_probe", job)
        assert end.code == 0, end.tail
        return json.loads((job / "answer.json").read_text()), job

    return asking


@pytest.fixture(scope="session")
def digits():
    return Dataset.load("sklearn:digits")


@pytest.fixture(scope="session")
def letters(keras_process, tmp_path_factory):
    """A backbone that has seen a few letters."""
    with running_in(keras_process):
        return pretrain(
            tmp_path_factory.mktemp("backbones") / "letters",
            glyphs(1500),
            settings=msgspec.structs.replace(SETTINGS, epochs=3),
            member="MobileNetV2",
            alpha=0.35,
            side=32,
            cut="stage3",
            pooling="flatten",
        )
