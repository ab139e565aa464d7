"""The engine battery over the fake and every runtime installed beside the tests.

tflite-runtime needs an environment of its own: see tests/budget.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fieldloop.errors import ModelRuntimeError
from fieldloop.interpreter import TensorInfo, available_backends, open_engine
from fieldloop.testing.engine import FakeEngine


def load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


battery = load("engine_battery")
models = load("tiny_models")

X = TensorInfo("x", (-1, 3), "float32")
FAKES = {
    "affine": lambda: FakeEngine(
        [X],
        [TensorInfo("value", (-1, 2), "float32"), TensorInfo("label", (-1,), "int32")],
        battery.affine,
    ),
    "sum": lambda: FakeEngine([X, X], [X], lambda a, b: [a + b]),
    "static": lambda: FakeEngine(
        [TensorInfo("x", (1, 3), "float32")],
        [TensorInfo("y", (1, 3), "float32")],
        lambda x: [x * 2],
    ),
    "int8": lambda: FakeEngine(
        [TensorInfo("x", (-1, 3), "int8")], [X], lambda x: [x.astype(np.float32) * 2]
    ),
}


@pytest.fixture(params=["fake", "ai-edge-litert", "tensorflow"])
def open_model(request):
    if request.param == "fake":
        return lambda name: FAKES[name]()
    backend = next(item for item in available_backends() if item.name == request.param)
    if not backend.usable:
        pytest.skip(f"{backend.reason}. {backend.remedy}")
    return lambda name: open_engine(models.build(name), backend=request.param)


@pytest.mark.parametrize("check", battery.CHECKS.values(), ids=battery.CHECKS.keys())
def test_battery(check, open_model):
    check(open_model)


def test_the_fake_fails_when_told_and_recovers():
    engine = FAKES["affine"]()
    engine.failure = "the accelerator hangs"
    with pytest.raises(ModelRuntimeError, match="hangs"):
        engine.run([battery.rows(1)])
    engine.failure = ""
    engine.run([battery.rows(1)])
    assert engine.run_count == 1


def test_the_fake_is_not_more_forgiving_than_a_model():
    wrong = FakeEngine([X], [X], lambda x: [x.astype(np.float64)])
    with pytest.raises(Exception, match="float64"):
        wrong.run([battery.rows(1)])
