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
from fieldloop_cloud.compile.saved import load_compiled
from fieldloop_cloud.compile.worker import WorkerEnd
from fieldloop_cloud.release.builder import bundle
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import public_key
from fieldloop_cloud.train.lite_building import build_lite
from fieldloop_device import Runtime

ROWS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)

SEVERAL = {
    "wave": np.random.default_rng(1).normal(size=(64, 8, 2)).astype(np.float32),
    "weather": np.random.default_rng(2).normal(size=(64, 3)).astype(np.float32),
}
FAULTS = ("none", "worn", "broken")

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

    wave, weather = keras.Input((8, 2), name="wave"), keras.Input((3,), name="weather")
    both = layers.Concatenate()([
        layers.Flatten()(layers.Conv1D(4, 3, activation="relu")(wave)),
        layers.Dense(4, activation="relu")(weather),
    ])
    fault = layers.Dense(3, activation="softmax", name="fault")(both)
    load = layers.Dense(1, name="load")(both)
    station = keras.Model([wave, weather], [fault, load])
    station.save(out / "station.keras")
    entry = keras.Input((None, 2))
    keras.Model(entry, layers.Dense(1)(layers.GRU(4, name="memory")(entry))).save(out / "gru.keras")
    classifier.export(out / "exported", verbose=False)

    class Station(keras.Model):
        def __init__(self):
            super().__init__()
            self.wave, self.weather = layers.Dense(4), layers.Dense(4)
            self.fault, self.load = layers.Dense(3, activation="softmax"), layers.Dense(1)
        def call(self, x):
            wave = keras.ops.reshape(x["wave"], (-1, 16))
            both = self.wave(wave) + self.weather(x["weather"])
            return {"fault": self.fault(both), "load": self.load(both)}

    from fieldloop_cloud.compile.api import to_tflite
    from fieldloop_cloud.compile.saved import save_compiled
    several = dict(np.load(out / "several.npz"))
    said = station.predict([several["wave"], several["weather"]], verbose=0)
    np.savez(out / "station.npz", fault=said[0], load=said[1])
    save_compiled(to_tflite(Station(), example=several), out / "live-station.tflite")
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
    np.savez(folder / "several.npz", **SEVERAL)
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
def test_a_net_of_several_inputs_and_outputs_keeps_their_names(models, tmp_path):
    compiled = to_tflite(
        models / "station.keras", example=SEVERAL, labels={"fault": FAULTS}, precision="int8"
    )
    assert {spec.name for spec in compiled.signature.inputs} == set(SEVERAL)
    targets = {target.name: target.labels for target in compiled.signature.targets}
    assert targets == {"fault": FAULTS, "load": ()}
    made = compiled.run(SEVERAL)
    with np.load(models / "station.npz") as wanted:
        for name in targets:
            assert np.abs(made[name] - wanted[name]).max() < 0.2
    rungs = {rung.precision: rung for rung in compiled.evidence.rungs}
    assert rungs["int8"].size_bytes == len(compiled.tflite)
    home = Home(tmp_path / "fleet")
    # One float file more: what somebody else converted has the same two inputs.
    path = tmp_path / "station.tflite"
    path.write_bytes(
        to_tflite(models / "station.keras", example=SEVERAL, labels={"fault": FAULTS}).tflite
    )
    again = to_tflite(path, example=SEVERAL, precision="dynamic")
    assert again.precision == "dynamic"
    made = bundle(again, name="net", home=home, device_classes=["x86"], reference=SEVERAL)
    with Runtime.open(made.path, trust=TrustPolicy(keys=(public_key(home),))) as runtime:
        answer = runtime.predict({name: rows[0] for name, rows in SEVERAL.items()})
    assert len(answer.targets) == 2
    with pytest.raises(DataError, match="given for wave, the"):
        to_tflite(path, example={"wave": SEVERAL["wave"]})
    with pytest.raises(DataError, match="different numbers of rows"):
        to_tflite(models / "station.keras", example={**SEVERAL, "weather": SEVERAL["weather"][:3]})
    with pytest.raises(DataError, match="rows: its inputs are weather, the rows' arrays wave, air"):
        to_tflite(models / "station.keras", example={"wave": SEVERAL["wave"], "air": ROWS})


def test_a_live_subclassed_net_of_several_inputs_keeps_their_names(models):
    compiled = load_compiled(models / "live-station.tflite")
    assert {spec.name for spec in compiled.signature.inputs} == set(SEVERAL)
    assert {target.name for target in compiled.signature.targets} == {"fault", "load"}
    assert max(compiled.evidence.deviation.values()) < 1e-4


@pytest.mark.slow
def test_a_saved_model_directory_compiles_like_the_net(models):
    compiled = to_tflite(models / "exported", example=ROWS, labels=("a", "b", "c"))
    wanted = np.load(models / "classifier.npy")
    assert np.abs(compiled.run(ROWS)["probabilities"] - wanted).max() < 1e-4


@pytest.mark.slow
def test_rows_that_a_sequential_net_does_not_take_are_refused_with_both_shapes(models):
    with pytest.raises(DataError, match=r"to have value 4, but received .* shape \(\d+, 3\)\W"):
        to_tflite(models / "classifier.keras", example=ROWS[:, :3])
    with pytest.raises(DataError, match="the rows' arrays Z"):
        to_tflite(models / "classifier.keras", example={"Z": ROWS})


@pytest.mark.slow
def test_a_loaded_sequential_net_is_a_graph_of_layers(models, tmp_path):
    with pytest.raises(UnsupportedError, match="Lite already"):
        build_lite(models / "classifier.keras", tmp_path / "lite.keras")


@pytest.mark.slow
def test_what_does_not_convert_is_named_with_the_remedy(models):
    rows = np.zeros((4, 6, 2), dtype=np.float32)
    with pytest.raises(UnsupportedError, match="memory") as caught:
        to_tflite(models / "gru.keras", example=rows)
    assert "unroll=True" in caught.value.advice
    assert "shape" in caught.value.advice


@pytest.mark.slow
def test_code_in_a_file_is_run_only_if_trusted(models):
    compiled = to_tflite(models / "lambda.keras", example=ROWS, trust=True)
    assert compiled.evidence.deviation["value"] < 1e-4


@pytest.mark.slow
def test_an_op_that_is_not_builtin_is_refused_by_name(models):
    with pytest.raises(UnsupportedError, match=r"it needs Erfinv \(in layer erfinv\)"):
        to_tflite(models / "flex.keras", example=ROWS)


@pytest.mark.slow
def test_code_in_a_file_is_not_run(models):
    with pytest.raises(UnsupportedError, match=r"cannot be loaded.*safe mode"):
        to_tflite(models / "lambda.keras", example=ROWS)


@pytest.mark.slow
def test_a_conversion_out_of_time_is_killed_and_typed(models):
    with pytest.raises(ModelRuntimeError, match="the converter ran out of time"):
        compile_keras(models / "classifier.keras", example=ROWS, timeout_s=0.5)


def test_rows_with_nan_are_the_examples_fault_and_not_the_nets(models):
    rows = ROWS.copy()
    rows[6, 2] = np.nan
    with pytest.raises(DataError, match=r"NaN or infinity \(row 7\)"):
        to_tflite(models / "classifier.keras", example=rows)


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
