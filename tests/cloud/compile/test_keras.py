"""Keras to TFLite: real conversions in real processes, and every way they go wrong."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from fieldloop.errors import DataError, GateError, ModelRuntimeError, UnsupportedError
from fieldloop.integrity import TrustPolicy
from fieldloop.signature import FeatureSpec
from fieldloop_cloud.compile import conversion
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.conversion import collect, failure
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.keras import compile_keras
from fieldloop_cloud.compile.net_proof import proven
from fieldloop_cloud.compile.worker import WorkerEnd
from fieldloop_cloud.release.builder import bundle
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import public_key
from fieldloop_device import Runtime

ROWS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)

BUILD = """
    import sys
    from pathlib import Path
    import keras
    import numpy as np
    from keras import layers
    out = Path(sys.argv[1])
    rows = np.load(out / "rows.npy")
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential([
        keras.Input((4,)),
        layers.Dense(64, activation="relu"),
        layers.Dense(64, activation="relu"),
        layers.Dense(3, activation="softmax"),
    ])
    classifier.save(out / "classifier.keras")
    np.save(out / "classifier.npy", classifier.predict(rows, verbose=0))
    entry = keras.Input((4,))
    tanh = layers.Dense(3, activation="tanh", name="squash")(entry)
    keras.Model(entry, keras.ops.erfinv(tanh * 0.5)).save(out / "flex.keras")
    keras.Sequential([
        keras.Input((4,)), layers.Lambda(lambda x: x * 2), layers.Dense(1)
    ]).save(out / "lambda.keras")

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1)
        def call(self, x):
            return self.dense(x) * 2.0

    from fieldloop_cloud.compile.api import to_tflite
    live = Own()
    compiled = to_tflite(live, example=rows)
    np.save(out / "own.npy", live.predict(rows, verbose=0))
    (out / "own.tflite").write_bytes(compiled.tflite)
    (out / "own.task").write_text(compiled.signature.task)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Saved models and their own answers, made where TensorFlow may be imported."""
    folder = tmp_path_factory.mktemp("keras")
    np.save(folder / "rows.npy", ROWS)
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BUILD), str(folder)],
        check=True,
        capture_output=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"},
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["dynamic", "int8"])
def test_a_saved_classifier_gives_its_own_answers(models, precision):
    labels = ("a", "b", "c")
    features = [FeatureSpec(name=name) for name in "wxyz"]
    compiled = to_tflite(
        models / "classifier.keras",
        example=ROWS,
        precision=precision,
        labels=labels,
        features=features,
    )
    wanted = np.load(models / "classifier.npy")
    made = compiled.run(ROWS)["probabilities"]
    assert np.abs(made - wanted).max() < 0.05
    assert compiled.signature.labels == labels
    assert compiled.signature.feature_names == tuple("wxyz")
    facts = inspect(compiled.tflite)
    assert facts.custom_ops == ()
    # Dense layers of a dynamic-range file from a current converter would need version 12.
    assert facts.op_versions["FULLY_CONNECTED"] < 12
    assert compiled.evidence.row_count == len(ROWS)


@pytest.mark.slow
def test_the_smallest_proven_net_is_bundled_and_answers_on_a_device(models, tmp_path):
    rows = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
    compiled = to_tflite(
        models / "classifier.keras",
        example=ROWS,
        held_out=rows,
        precision="auto",
        epsilon=0.05,
        labels=("a", "b", "c"),
    )
    rungs = {rung.precision: rung for rung in compiled.evidence.rungs}
    assert list(rungs)[:4] == ["float32", "dynamic", "float16", "int8"]
    assert rungs["float16"].gate.passed
    sizes = [rung.size_bytes for rung in rungs.values() if rung.gate.passed]
    assert len(compiled.tflite) == min(sizes) < rungs["float32"].size_bytes
    assert compiled.evidence.row_count == len(rows)
    assert compiled.signature.feature_names == ("x0", "x1", "x2", "x3")
    home = Home(tmp_path / "fleet")
    made = bundle(compiled, name="net", home=home, device_classes=["x86"], reference=rows)
    with Runtime.open(made.path, trust=TrustPolicy(keys=(public_key(home),))) as runtime:
        said = [runtime.predict(row.tolist()).label for row in rows[:50]]
    table = compiled.run(rows[:50])["probabilities"]
    assert said == ["abc"[best] for best in table.argmax(axis=1)]


@pytest.mark.slow
def test_a_live_subclassed_model_compiles_too(models):
    assert (models / "own.task").read_text() == "regression"
    compiled = proven(
        (models / "own.tflite").read_bytes(),
        "float32",
        probes=ROWS,
        answers=np.load(models / "own.npy"),
    )
    assert compiled.evidence.deviation["value"] < 1e-5


@pytest.mark.slow
def test_an_op_that_is_not_builtin_is_refused_by_name(models):
    with pytest.raises(UnsupportedError, match=r"it needs Erfinv \(in .*erfinv"):
        to_tflite(models / "flex.keras", example=ROWS)


@pytest.mark.slow
def test_code_in_a_file_is_not_run(models):
    with pytest.raises(UnsupportedError, match=r"cannot be loaded.*safe mode"):
        to_tflite(models / "lambda.keras", example=ROWS)


@pytest.mark.slow
def test_a_conversion_out_of_time_is_killed_and_typed(models):
    with pytest.raises(ModelRuntimeError, match="the converter ran out of time"):
        compile_keras(models / "classifier.keras", example=ROWS, timeout_s=0.5)


def test_what_is_not_a_saved_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"neither a \.keras file"):
        to_tflite(tmp_path / "model.h5", example=ROWS)
    with pytest.raises(DataError, match="no rows"):
        compile_keras(tmp_path / "model.keras", example=ROWS[:0])


@pytest.mark.slow
def test_a_flatbuffer_with_other_answers_is_refused(models):
    tflite = (models / "own.tflite").read_bytes()
    wrong = np.load(models / "own.npy") + 0.01
    with pytest.raises(GateError, match="deviates from the Keras model by"):
        proven(tflite, "float32", probes=ROWS, answers=wrong)
    with pytest.raises(GateError, match="deviates"):
        proven(tflite, "float32", probes=ROWS, answers=np.full_like(wrong, np.nan))


ABORTING = """
    import os, sys
    from pathlib import Path
    import msgspec
    from fieldloop_cloud.compile.keras_worker import ConvertJob
    job = Path(sys.argv[1])
    order = msgspec.json.decode((job / "job.json").read_bytes(), type=ConvertJob)
    for precision in order.precisions:
        if precision == "float16":
            sys.stderr.write("LLVM ERROR: out of ideas\\n")
            sys.stderr.flush()
            os.abort()
        (job / f"{precision}.tflite").write_bytes(precision.encode())
"""


def test_an_aborting_converter_costs_one_precision_only(tmp_path, monkeypatch):
    (tmp_path / "aborting_worker.py").write_text(textwrap.dedent(ABORTING))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(conversion, "WORKER", "aborting_worker")
    job = tmp_path / "job"
    job.mkdir()
    (job / "model.keras").write_bytes(b"")
    (job / "float32.tflite").write_bytes(b"float32")
    converted = collect(
        job,
        ("float32", "dynamic", "float16", "int8"),
        first=WorkerEnd(code=-6, timed_out=False, tail="LLVM ERROR: first"),
        timeout_s=60.0,
    )
    assert converted.models == {"float32": b"float32", "int8": b"int8"}
    assert "LLVM ERROR: first" in converted.failures["dynamic"]
    assert "LLVM ERROR: out of ideas" in converted.failures["float16"]
    assert isinstance(failure(converted.failures["float16"], "float16"), ModelRuntimeError)
