"""The engine battery over the fake and every runtime.

tflite-runtime needs NumPy 1 and so an environment of its own: there the same checks run as a
script.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.support import engine_battery, runtimes, tiny_models
from tests.support.parts import missing

from fieldloop.backends import available_backends
from fieldloop.errors import ModelRuntimeError, SignatureError
from fieldloop.interpreter import TensorInfo, open_engine
from fieldloop.testing.engine import FakeEngine

X = TensorInfo("x", (-1, 3), "float32")
FAKES = {
    "affine": lambda: FakeEngine(
        [X],
        [TensorInfo("value", (-1, 2), "float32"), TensorInfo("label", (-1,), "int32")],
        engine_battery.affine,
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
        missing(f"{backend.reason}. {backend.remedy}")
    return lambda name: open_engine(tiny_models.build(name), backend=request.param)


@pytest.mark.parametrize("check", engine_battery.CHECKS.values(), ids=engine_battery.CHECKS.keys())
def test_battery(check, open_model):
    check(open_model)


@pytest.fixture(scope="module")
def tflite_report(tmp_path_factory):
    """Run the battery in the environment of tflite-runtime 2.14 and NumPy 1.26."""
    try:
        python = runtimes.environment()
    except runtimes.RuntimeUnavailableError as error:
        missing(str(error))
    directory = tmp_path_factory.mktemp("models")
    for name in tiny_models.BUILDERS:
        (directory / f"{name}.tflite").write_bytes(tiny_models.build(name))
    script = Path(engine_battery.__file__)
    done = subprocess.run(
        [str(python), "-W", "error", str(script), str(directory)],
        env=os.environ | {"PYTHONPATH": str(runtimes.ROOT / "sdk")},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", engine_battery.CHECKS)
def test_battery_with_tflite_runtime(name, tflite_report):
    assert "tflite-runtime 2.14.0" in tflite_report["backend"]
    assert not tflite_report[name], tflite_report[name]


def test_the_fake_fails_when_told_and_recovers():
    engine = FAKES["affine"]()
    engine.failure = "the accelerator hangs"
    with pytest.raises(ModelRuntimeError, match="hangs"):
        engine.run([engine_battery.rows(1)])
    engine.failure = ""
    engine.run([engine_battery.rows(1)])
    assert engine.run_count == 1


def test_the_fake_is_not_more_forgiving_than_a_model():
    wrong = FakeEngine([X], [X], lambda x: [x.astype(np.float64)])
    with pytest.raises(SignatureError, match="float64"):
        wrong.run([engine_battery.rows(1)])
