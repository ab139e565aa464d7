"""C source for microcontrollers: compiled with a C compiler, compared byte by byte."""

import re
import shutil
import subprocess

import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.support.commands import fieldloop
from tests.support.parts import missing

import fieldloop_cloud as fl
from fieldloop.codec import Codec
from fieldloop.errors import ConfigError, GateError, UnsupportedError
from fieldloop.interpreter import open_engine
from fieldloop.signature import FeatureSpec
from fieldloop_cloud.compile.micro.source import identifier
from fieldloop_cloud.compile.saved import save_compiled
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.microcontroller import export_c

X, Y = load_iris(return_X_y=True)
NASTY = ['quote " and \\ back', "trigraph ??/", "line\nbreak */ // é", "50 °C"]


@pytest.fixture(scope="module")
def linear():
    """A classical model with awkward labels, and features with units and categories."""
    features = [FeatureSpec(name=name, unit="cm") for name in NASTY]
    names = np.array(NASTY[:3], dtype=object)[Y]
    fitted = LogisticRegression(max_iter=500).fit(X, names)
    return fl.to_tflite(fitted, example=X, features=features, precision="int8")


@pytest.fixture
def run_c(tmp_path):
    """Compile a main file with a model's C source as strictly as can be, and run it."""
    compiler = shutil.which("gcc") or missing("no C compiler")

    def run(folder, name, body):
        main = tmp_path / "main.c"
        main.write_text(
            f'#include <stdio.h>\n#include "{name}.h"\nint main(void) {{\n{body}\nreturn 0;\n}}\n'
        )
        program = tmp_path / "program"
        flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{folder}"]
        files = [str(main), str(folder / f"{name}.c")]
        subprocess.run([compiler, *flags, *files, "-o", str(program), "-lm"], check=True)
        return subprocess.run([str(program)], check=True, capture_output=True).stdout

    return run


def test_the_array_holds_the_model_byte_by_byte_on_its_border(linear, tmp_path, run_c):
    made = export_c(linear, tmp_path / "c", name="flowers", allow_float=True)
    said = run_c(
        tmp_path / "c",
        "flowers",
        "if ((uintptr_t)flowers_model % 16) return 1;\n"
        "if (flowers_model_bytes != FLOWERS_MODEL_BYTES) return 2;\n"
        "fwrite(flowers_model, 1, flowers_model_bytes, stdout);",
    )
    assert said == (tmp_path / "c" / "flowers.tflite").read_bytes()
    assert made.size_bytes == len(said)


def test_labels_and_features_survive_any_character(linear, tmp_path, run_c):
    export_c(linear, tmp_path / "c", name="flowers", allow_float=True)
    said = run_c(
        tmp_path / "c",
        "flowers",
        "for (int i = 0; i < FLOWERS_FEATURE_COUNT; ++i)\n"
        '  printf("%s%c", flowers_feature_names[i], 0);\n'
        "for (int i = 0; i < FLOWERS_LABELS_COUNT; ++i)\n"
        '  printf("%s%c", flowers_labels[i], 0);',
    )
    texts = said.decode().split("\0")[:-1]
    assert texts == [*linear.signature.feature_names, *map(str, linear.signature.labels)]


def test_the_firmware_quantizes_as_the_codec_does(linear, tmp_path, run_c):
    export_c(linear, tmp_path / "c", name="flowers", allow_float=True)
    rows = np.concatenate([X[::10], X[:2] * 100, -X[:2] * 100]).astype(np.float32)
    values = ", ".join(f"{float(value)!r}" for value in rows.ravel())
    said = run_c(
        tmp_path / "c",
        "flowers",
        f"static const double rows[] = {{{values}}};\n"
        "for (unsigned i = 0; i < sizeof rows / sizeof *rows; ++i)\n"
        '  printf("%d ", flowers_quantize_input(rows[i], (int)(i % 4)));',
    )
    wanted = Codec(linear.signature).tensors(rows)[0]
    assert [int(word) for word in said.split()] == wanted.ravel().tolist()


def test_the_exported_flatbuffer_answers_as_the_compiled_one(linear, tmp_path):
    export_c(linear, tmp_path, name="flowers", allow_float=True)
    engine = open_engine((tmp_path / "flowers.tflite").read_bytes())
    codes = Codec(linear.signature).tensors(X.astype(np.float32))[0]
    said = [[answer.tolist() for answer in engine.run([row[np.newaxis]])] for row in codes[:20]]
    wanted = open_engine(linear.tflite).run([codes[:20]])
    for index, answer in enumerate(wanted):
        np.testing.assert_allclose([row[index][0] for row in said], answer, rtol=1e-6)


def test_the_resolver_registers_each_op_once(linear, tmp_path):
    made = export_c(linear, tmp_path, name="flowers", allow_float=True)
    text = (tmp_path / "flowers_ops.h").read_text()
    assert tuple(re.findall(r"resolver\.(\w+)\(\)", text)) == made.methods
    assert f"MicroMutableOpResolver<{len(made.methods)}>" in text
    assert "AddFullyConnected" in made.methods


def test_a_forest_is_refused_with_the_ops_that_micro_lacks(tmp_path):
    forest = RandomForestClassifier(5, max_depth=4, random_state=0).fit(X, Y)
    compiled = fl.to_tflite(forest, example=X, precision="int8")
    with pytest.raises(UnsupportedError, match=r"GATHER of int32") as caught:
        export_c(compiled, tmp_path / "c", allow_float=True)
    assert "SUM of int32 (once)" in caught.value.what
    assert "distill" in caught.value.advice
    assert not (tmp_path / "c").exists()


def test_floating_point_needs_consent_and_is_named(linear, tmp_path):
    with pytest.raises(UnsupportedError, match=r"FULLY_CONNECTED of float32 \(once\)") as caught:
        export_c(linear, tmp_path)
    assert "device='mcu'" in caught.value.advice


def test_a_pipeline_runs_as_firmware_in_integers_alone(tmp_path, run_c):
    X, y = load_digits(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=100))
    pipeline.fit(X[:1200], y[:1200])
    compiled = fl.to_tflite(pipeline, example=X[:1200], precision="int8", device="mcu")
    made = export_c(compiled, tmp_path, name="digits")
    assert made.methods == ("AddArgMax", "AddFullyConnected", "AddSoftmax")
    assert made.size_bytes < 4000
    assert {spec.name: spec.dtype for spec in made.signature.outputs} == {
        "label": "int32",
        "probabilities": "int8",
        "decision": "int8",
    }
    rows = X[1200:1500]
    values = ", ".join(f"{float(value)!r}" for value in rows.ravel())
    # The firmware's author quantizes a row, runs the model, and dequantizes what it says.
    said = run_c(
        tmp_path,
        "digits",
        f"static const double rows[] = {{{values}}};\n"
        "for (unsigned i = 0; i < sizeof rows / sizeof *rows; ++i)\n"
        '  printf("%d ", digits_quantize_input(rows[i], (int)(i % 64)));\n'
        'for (int q = -128; q < 128; ++q) printf("%.9g ", digits_dequantize_output1((int8_t)q));',
    ).split()
    codes = np.array(said[:-256], dtype=np.int8).reshape(-1, 1, 64)
    real = np.array(said[-256:], dtype=np.float64)
    engine = open_engine((tmp_path / "digits.tflite").read_bytes())
    answers = [engine.run([row]) for row in codes]
    labels = np.array([answer[0][0] for answer in answers])
    chances = real[np.array([answer[1][0] for answer in answers]).astype(int) + 128]
    assert np.mean(labels == pipeline.predict(rows)) > 0.98
    assert np.mean(labels == y[1200:1500]) >= pipeline.score(rows, y[1200:1500]) - 0.01
    assert np.abs(chances - pipeline.predict_proba(rows)).mean() < 0.005


TARGET = """
name = "tiny"
runtime = "tflite-micro"
runtime_version = "2.14.0"
precisions = ["int8"]
ram_bytes = {ram}
flash_bytes = 100000
max_model_bytes = {flash}
latency_budget_ms = 5.0
"""


@pytest.mark.parametrize(
    ("ram", "flash", "what"), [(1000, 90000, "arena"), (90000, 1000, "flatbuffer")]
)
def test_what_does_not_fit_is_refused_by_how_much(linear, tmp_path, ram, flash, what):
    target = tmp_path / "tiny.toml"
    target.write_text(TARGET.format(ram=ram, flash=flash))
    with pytest.raises(GateError, match=what) as caught:
        export_c(linear, tmp_path / "c", target=target, allow_float=True)
    needed, over = re.findall(r"([\d,]+)(?: bytes, | more)", caught.value.what)[:2]
    assert int(needed.replace(",", "")) - int(over.replace(",", "")) == 1000
    assert not (tmp_path / "c").exists()


def test_a_target_that_is_no_microcontroller_is_refused(linear, tmp_path):
    with pytest.raises(ConfigError, match="runs ai-edge-litert"):
        export_c(linear, tmp_path, target="pi4")


def test_a_file_that_is_no_flatbuffer_or_is_missing_is_refused(linear, tmp_path):
    save_compiled(linear, tmp_path / "flowers.tflite")
    (tmp_path / "flowers.joblib").write_bytes(b"another file beside the same signature")
    for name, said in (("flowers.joblib", "no TFLite model"), ("none.tflite", "does not exist")):
        done = fieldloop("export", tmp_path / name, "-o", tmp_path / "c")
        assert done.code == 2
        assert said in done.err
    assert not (tmp_path / "c").exists()


def test_nothing_is_overwritten_unasked(linear, tmp_path):
    export_c(linear, tmp_path, allow_float=True)
    with pytest.raises(ConfigError, match="exist already"):
        export_c(linear, tmp_path, allow_float=True)
    assert export_c(linear, tmp_path, allow_float=True, force=True).name == "model"


def test_the_command_takes_a_file_with_its_signature(linear, tmp_path):
    save_compiled(linear, tmp_path / "my flowers.tflite")
    done = fieldloop(
        "export", tmp_path / "my flowers.tflite", "-o", tmp_path / "c", "--allow-float", "--json"
    )
    assert done.code == 0, done.err
    assert done.result["name"] == "my_flowers"
    assert (tmp_path / "c" / "my_flowers.h").exists()
    assert done.result["signature"]["features"][0]["name"] == NASTY[0]
    again = fieldloop("export", tmp_path / "my flowers.tflite", "-o", tmp_path / "d")
    assert again.code == 2
    assert "floating point" in again.err


def test_a_signed_bundle_is_opened_with_the_home_s_key_and_its_int8_variant_taken(linear, tmp_path):
    home = Home(tmp_path / "fleet")
    made = fl.bundle(linear, name="flowers-7", home=home, device_classes=["mcu"], reference=X)
    words = ["export", made.path, "-o", tmp_path / "c", "--allow-float", "--json"]
    done = fieldloop(*words, "--home", home.path)
    assert done.code == 0, done.err
    assert done.result["name"] == "flowers_7"
    assert (
        "extern const char *const flowers_7_labels" in (tmp_path / "c" / "flowers_7.h").read_text()
    )
    stranger = fieldloop(*words, "--home", tmp_path / "nobody")
    assert stranger.code == 2


def test_names_in_c_are_identifiers():
    for text in ("7", "", "é", "a b", "_x", "A-1"):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", identifier(text))


def test_two_targets_have_two_tables_of_labels(linear, tmp_path):
    signature = linear.signature
    target = type(signature.targets[0])
    several = msgspec.structs.replace(
        signature,
        targets=(target(name="kind", labels=("a", "b")), target(name="size", labels=("s", "m"))),
    )
    compiled = type(linear)(linear.tflite, several, linear.evidence, linear.precision)
    export_c(compiled, tmp_path, allow_float=True)
    text = (tmp_path / "model.c").read_text()
    assert "model_kind_labels[2]" in text
    assert "model_size_labels[2]" in text


@pytest.mark.slow
def test_a_quantized_net_loses_its_float_ends_and_answers_as_before(sparse_nets, tmp_path, run_c):
    original = (sparse_nets / "int8.tflite").read_bytes()
    made = export_c(sparse_nets / "int8.tflite", tmp_path, name="digits")
    inner = (tmp_path / "digits.tflite").read_bytes()
    assert made.methods == (
        "AddConv2D",
        "AddFullyConnected",
        "AddMaxPool2D",
        "AddReshape",
        "AddSoftmax",
    )
    assert made.size_bytes == len(inner) < len(original)
    spec, answer = made.signature.inputs[0], made.signature.outputs[0]
    assert (spec.dtype, answer.dtype, answer.shape) == ("int8", "int8", (1, 10))
    rows = np.load(sparse_nets / "digits.npz")["X"][:40]
    before, after = open_engine(original), open_engine(inner)
    values = ", ".join(f"{float(value)!r}" for value in rows[:5].ravel())
    said = run_c(
        tmp_path,
        "digits",
        f"static const double rows[] = {{{values}}};\n"
        "for (unsigned i = 0; i < sizeof rows / sizeof *rows; ++i)\n"
        '  printf("%d ", digits_quantize_input(rows[i]));\n'
        'printf("%.9g", digits_dequantize_output(42));',
    ).split()
    codes = np.array(said[:-1], dtype=np.int8).reshape(5, 8, 8, 1)
    assert float(said[-1]) == pytest.approx((42 - answer.zero_point[0]) * answer.scale[0])
    for row, code in zip(rows, codes, strict=False):
        wanted = before.run([row[np.newaxis]])[0]
        made_answer = after.run([code[np.newaxis]])[0].astype(np.float64)
        real = (made_answer - answer.zero_point[0]) * answer.scale[0]
        np.testing.assert_allclose(real, wanted, atol=1e-6)


@pytest.mark.slow
def test_the_arena_of_a_net_is_its_two_largest_neighbours(sparse_nets, tmp_path):
    made = export_c(sparse_nets / "int8.tflite", tmp_path, name="digits")
    # The first convolution's 8 x 8 x 16 values and the pooled 4 x 4 x 16, or its input.
    assert made.arena.tensor_bytes == 8 * 8 * 16 + 4 * 4 * 16
    assert made.arena.total_bytes > made.arena.tensor_bytes + made.arena.scratch_bytes
