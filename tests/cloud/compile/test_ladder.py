"""The ladder on nets that were built to collapse: what is refused, and what rescues them."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from litert_quantizer import qtyping, quantizer
from tests.support.commands import fieldloop

from fieldloop.errors import DataError, GateError, ModelRuntimeError, UnsupportedError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.compile import requantize
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.calibration import calibrate
from fieldloop_cloud.compile.explain import explain
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.keras import compiler
from fieldloop_cloud.compile.layers import by_layer, ops
from fieldloop_cloud.compile.lint import lint_flatbuffer
from fieldloop_cloud.compile.quantize import NET_LADDER
from fieldloop_cloud.compile.quantized_versions import with_honest_versions
from fieldloop_cloud.compile.quantizers import FloatModel, Recipe
from fieldloop_cloud.compile.requantize import Requantizer
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.release.targets import load_target
from fieldloop_cloud.train import qat
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.ladder import Trained, climb
from fieldloop_cloud.train.lite_building import build_lite
from fieldloop_cloud.train.qat import QatSettings
from fieldloop_cloud.train.qat_training import train_aware
from fieldloop_cloud.train.rebuild import Call, Graph

ROOT = Path(__file__).parents[3]
LABELS = tuple(range(10))
FIT, HELD_OUT = slice(0, 1000), slice(1000, None)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    subprocess.run(
        [sys.executable, str(ROOT / "tests/support/ladder_nets.py"), str(folder)],
        check=True,
        capture_output=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"},
    )
    return folder


@pytest.fixture(scope="module")
def digits(nets):
    with np.load(nets / "rows.npz") as rows:
        return rows["X"], rows["y"]


@pytest.fixture(scope="module")
def climbed(nets, digits):
    """The whole ladder with the fragile net, both quantizers at work."""
    X, y = digits
    return to_tflite(
        nets / "fragile.keras",
        example=X[:300],
        held_out=X[HELD_OUT],
        truth=y[HELD_OUT].tolist(),
        labels=LABELS,
        precision="auto",
        epsilon=0.02,
    )


@pytest.fixture(scope="module")
def flatbuffer(nets, digits, tmp_path_factory):
    """The fragile net's float32 flatbuffer as a file."""
    X, _ = digits
    path = tmp_path_factory.mktemp("flatbuffer") / "fragile.tflite"
    path.write_bytes(to_tflite(nets / "fragile.keras", example=X[:50], labels=LABELS).tflite)
    return path


def test_a_collapse_under_int8_is_refused_and_mixed_rescues_with_the_layers_named(climbed):
    rungs = {rung.precision: rung for rung in climbed.evidence.rungs}
    assert rungs["int8"].gate.verdict == "refused"
    assert rungs["int8"].gate.drop > 0.3
    assert min(rungs["int8"].gate.recall) < 0.1
    mixed = rungs["mixed"]
    assert mixed.gate.verdict == "accepted"
    assert {"wide", "narrow"} <= set(mixed.kept_float)
    assert len(mixed.kept_float) <= 4
    assert mixed.quantizer == "litert-quantizer"
    assert climbed.precision in {"mixed", "float16"}
    for rung in rungs.values():
        assert rung.arena_bytes > 0
        assert rung.latency_p50_ms > 0
        assert rung.min_runtime == "2.14.0"


def test_a_device_gets_the_fastest_proven_rung_that_it_runs(nets, flatbuffer, digits, tmp_path):
    X, y = digits
    job = {
        "example": X[:300], "held_out": X[HELD_OUT], "truth": y[HELD_OUT].tolist(),
        "labels": LABELS, "precision": "auto", "epsilon": 0.02,
    }  # fmt: skip
    made = to_tflite(flatbuffer, device="pi4", **job)
    fitting = [rung for rung in made.evidence.rungs if rung.gate and rung.gate.passed]
    fastest = min(fitting, key=lambda rung: rung.latency_p50_ms)
    assert made.precision == fastest.precision
    # A device of integers only has nothing to run: the net would have to be trained for it.
    with pytest.raises(GateError, match=r"nothing that the device runs is proven.*mcu runs int8"):
        to_tflite(flatbuffer, device="mcu", **job)


def test_the_sensitivity_table_blames_the_right_layers(flatbuffer, digits):
    X, y = digits
    told = explain(
        flatbuffer,
        example=X[:300],
        held_out=X[HELD_OUT],
        truth=y[HELD_OUT].tolist(),
        labels=LABELS,
    )
    table = told.layers
    problems = [(one.layer, one.what.split()[0]) for one in told.findings]
    assert problems == [
        ("stem", "swish"), ("narrow", "swish"), ("excite", "squeeze-and-excite")
    ]  # fmt: skip
    assert all("ReLU6" in str(one) or "leave the block out" in str(one) for one in told.findings)
    assert {table[0].layer, table[1].layer} == {"wide", "narrow"}
    assert table[0].drop_alone > 0.1
    by_name = {one.layer: one for one in table}
    assert by_name["stem"].snr_db > table[0].snr_db + 10
    # Sparing a harmless layer leaves the collapse as it is.
    assert by_name["stem"].drop_spared > 0.3


def test_stretched_ranges_and_few_rows_are_warned_of(flatbuffer, digits):
    X, _ = digits
    tflite = flatbuffer.read_bytes()
    settled = calibrate(tflite, [X])
    assert settled.has_settled
    assert settled.row_count < len(X)
    few = calibrate(tflite, [X[:16]])
    assert (few.row_count, few.has_settled) == (16, False)
    assert "still grew after all 16" in few.warnings[0]
    blank = calibrate(tflite, [np.concatenate([np.zeros_like(X[:128]), X[:300]])])
    assert any("further rows lie outside" in text for text in blank.warnings)
    spiked = X[:300].copy()
    spiked[7, 3, 3, 0] = 500.0
    assert any("outliers stretch" in text for text in calibrate(tflite, [spiked]).warnings)
    assert few.sha256 != settled.sha256


@pytest.mark.parametrize("precision", ["dynamic", "float16", "int8", "int16x8"])
def test_requantized_files_answer_alike_in_the_oldest_runtime(
    nets, digits, flatbuffer, tflite214, precision
):
    X, _ = digits
    model = FloatModel(tflite=flatbuffer.read_bytes())
    made = Requantizer(model.tflite, (X[:300],)).run([Recipe(precision=precision)])
    compiled = to_tflite(flatbuffer, example=X[:50], labels=LABELS)
    here = type(compiled)(made.models[0], compiled.signature, compiled.evidence, precision)
    (old,) = tflite214.run(made.models[0], [X[:64]])
    new = here.run_encoded(X[:64])["probabilities"]
    assert np.abs(old[0] - new).max() < 0.1
    assert inspect(made.models[0]).min_runtime == "2.14.0"


def test_a_version_is_raised_to_what_the_types_need(flatbuffer):
    # By channel, as litert-quantizer does it by itself and says version 1: TFLite 2.14 would
    # load the file and answer nonsense.
    made = quantizer.Quantizer(bytearray(flatbuffer.read_bytes()))
    made.add_dynamic_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8)
    dishonest = bytes(made.quantize(enable_progress_report=False).quantized_model)
    assert inspect(dishonest).op_versions["FULLY_CONNECTED"] == 1
    facts = inspect(with_honest_versions(dishonest))
    assert facts.op_versions["FULLY_CONNECTED"] == 12
    assert facts.min_runtime != "2.14.0"
    ours = Requantizer(flatbuffer.read_bytes()).run([Recipe(precision="dynamic")]).models[0]
    assert inspect(ours).op_versions["FULLY_CONNECTED"] < 12


def test_a_lite_variant_has_no_open_range_and_stands_int8(nets, digits, tmp_path):
    X, y = digits
    assert json.loads((nets / "lite.json").read_text()) == [
        "stem: ReLU6 instead of silu",
        "narrow: ReLU6 instead of silu",
        "excite: squeeze-and-excite left out",
    ]
    made = to_tflite(
        nets / "lite.keras",
        example=X[:300],
        held_out=X[HELD_OUT],
        truth=y[HELD_OUT].tolist(),
        labels=LABELS,
        precision="int8",
        epsilon=0.03,
    )
    assert made.evidence.rungs[1].gate.verdict == "accepted"
    assert lint_flatbuffer(made.tflite) == ()
    said = made.run_encoded(X[HELD_OUT])["probabilities"].argmax(axis=1)
    assert np.mean(said == y[HELD_OUT]) > 0.85
    with pytest.raises(UnsupportedError, match="Lite already"):
        build_lite(nets / "lite.keras", tmp_path / "again.keras")
    assert not (tmp_path / "again.keras").exists()


def test_the_command_explains_and_compiles_for_a_device(flatbuffer, digits, tmp_path):
    X, y = digits
    np.savez(tmp_path / "calibration.npz", X=X[:300])
    np.savez(tmp_path / "held-out.npz", X=X[HELD_OUT], y=y[HELD_OUT])
    out = tmp_path / "made.tflite"
    told = fieldloop(
        "compile", flatbuffer, "--calibration", tmp_path / "calibration.npz",
        "--held-out", tmp_path / "held-out.npz", "--labels", ",".join(map(str, LABELS)),
        "--precision", "mixed", "--epsilon", "0.02", "--explain", "-o", out, "--json",
    ).result  # fmt: skip
    assert told["precision"] == "mixed"
    assert {"wide", "narrow"} <= set(told["evidence"]["kept_float"])
    assert told["explanation"]["layers"][0]["layer"] in {"wide", "narrow"}
    assert len(told["explanation"]["findings"]) == 3
    facts = fieldloop("inspect", out, "--json").result
    assert facts["arena_bytes"] > 0
    assert facts["op_versions"]["QUANTIZE"] == 1


def test_layers_have_the_nets_own_names(flatbuffer):
    layers = by_layer(ops(flatbuffer.read_bytes()))
    assert list(layers)[:3] == ["stem", "wide", "narrow"]
    assert {op.kind for op in layers["narrow"]} >= {"CONV_2D", "LOGISTIC", "MUL"}


@pytest.fixture(scope="module")
def aware(nets, digits):
    """The thin net, trained further with int8's rounding."""
    X, y = digits
    return train_aware(
        (nets / "thin.keras").read_bytes(),
        X[FIT],
        y[FIT],
        classes=10,
        settings=QatSettings(epochs=8, learning_rate=1e-3),
    )


def test_training_with_the_rounding_wins_back_what_rounding_lost(nets, digits, aware):
    """In the ladder itself: int8 is refused, training is asked for, and its net takes the place."""
    X, y = digits
    convert = compiler(nets / "thin.keras", ("float32", "int8"), example=X[:300], labels=LABELS)
    asked = []

    def train():
        asked.append("aware")
        return aware.tflite

    data = Dataset(
        name="digits", kind="image", task="classification", X=X, y=y, labels=LABELS,
        image=ImageSpec(height=8, width=8, channels=1),
    )  # fmt: skip
    bench = Bench(
        train=data.take(np.arange(1000)),
        validation=data.take(np.arange(1000, len(X))),
        target=load_target("mcu"),
        metric="accuracy",
        epsilon=0.03,
        seed=0,
        deadline=math.inf,
    )
    trained = Trained(
        name="thin",
        compile_to=convert,
        parameters={},
        train_s=1.0,
        model=b"net",
        calibration=X[:300],
    )
    without, _ = climb(trained, NET_LADDER, bench)
    with_training, skipped = climb(dataclasses.replace(trained, aware=train), NET_LADDER, bench)
    ptq, qat = without[1], with_training[1]
    assert skipped == []
    assert asked == ["aware"]
    assert [one.precision for one in with_training] == ["float32", "int8"]
    assert ptq.gate.verdict == "refused"
    assert ptq.gate.drop >= 0.02
    assert qat.quantizer == "quantization-aware training"
    assert qat.score >= ptq.score + 0.02
    assert qat.gate.drop < ptq.gate.drop - 0.02
    assert qat.calibration_sha256 == ""
    assert ptq.calibration_sha256 != ""
    assert qat.arena_bytes > 0
    facts = inspect(aware.tflite)
    # Integers from end to end: one step into them, one out.
    assert (facts.op_counts["QUANTIZE"], facts.op_counts["DEQUANTIZE"]) == (1, 1)
    assert facts.op_versions["CONV_2D"] == 3
    assert aware.losses[-1] < aware.losses[0]


def test_what_cannot_be_trained_with_the_rounding_is_refused(digits):
    X, y = digits
    with pytest.raises(DataError, match="0 rows and 0 targets"):
        train_aware(b"", X[:0], y[:0], classes=10)

    class GRU:
        name = "memory"

    graph = Graph(calls=(Call(0, GRU(), (-1,)),), outputs=(0,))
    with pytest.raises(UnsupportedError, match=r"does not know GRU \(layer memory\)"):
        qat._check(graph)


def test_a_quantizer_that_dies_costs_one_recipe_only(flatbuffer, digits, tmp_path, monkeypatch):
    X, _ = digits
    (tmp_path / "dying_worker.py").write_text(DYING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(requantize, "WORKER", "dying_worker")
    made = Requantizer(flatbuffer.read_bytes(), (X[:50],)).run(
        [Recipe(precision=precision) for precision in ("dynamic", "float16", "int8")]
    )
    assert made.models[0] is not None
    assert made.models[2] is not None
    assert made.models[1] is None
    assert "took its process down" in made.failures[1]


DYING = """
import os, signal, sys
from pathlib import Path
from fieldloop_cloud.compile import quantizer_worker
from fieldloop_cloud.compile.quantizers import LitertQuantizer

whole = LitertQuantizer.quantize

def quantize(self, model, recipe, calibration):
    if recipe.precision == "float16":
        os.kill(os.getpid(), signal.SIGSEGV)
    return whole(self, model, recipe, calibration)

LitertQuantizer.quantize = quantize
quantizer_worker.main(Path(sys.argv[1]))
"""


def test_a_file_that_kills_its_process_is_a_typed_error(flatbuffer, digits, tmp_path, monkeypatch):
    X, _ = digits
    (tmp_path / "killed_worker.py").write_text("import os, signal; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("fieldloop_cloud.compile.existing.WORKER", "killed_worker")
    with pytest.raises(ModelRuntimeError, match="does not run"):
        to_tflite(flatbuffer, example=X[:50], labels=LABELS)


def test_what_is_no_float_flatbuffer_is_refused(flatbuffer, digits, tmp_path):
    X, _ = digits
    model = FloatModel(tflite=flatbuffer.read_bytes())
    made = Requantizer(model.tflite, (X[:50],)).run([Recipe(precision="int8")])
    (tmp_path / "int8.tflite").write_bytes(made.models[0])
    with pytest.raises(UnsupportedError, match="quantized already"):
        to_tflite(tmp_path / "int8.tflite", example=X[:50])
    with pytest.raises(DataError, match="cannot be read"):
        to_tflite(tmp_path / "none.tflite", example=X[:50])
    with pytest.raises(DataError, match="do not fit"):
        to_tflite(flatbuffer, example=X[:50, :4])
    damaged = bytearray(model.tflite)
    damaged[40:400] = bytes(360)
    (tmp_path / "damaged.tflite").write_bytes(damaged)
    with pytest.raises((UnsupportedError, ModelRuntimeError)):
        to_tflite(tmp_path / "damaged.tflite", example=X[:50])
