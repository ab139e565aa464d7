"""Choosing a runtime and loading models that it cannot run."""

import ctypes
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from tests.support import runtimes, tiny_models
from tests.support.foreign_ops import custom_op, newer_op
from tests.support.parts import missing

from fieldloop import backends
from fieldloop.backends import available_backends, choose_backend
from fieldloop.errors import (
    CompatibilityError,
    ConfigError,
    EnvironmentFaultError,
    ModelRuntimeError,
)
from fieldloop.interpreter import open_engine

MODEL = tiny_models.build("sum")


@pytest.fixture
def installed(monkeypatch):
    """Pretend that exactly these backends are installed, beside this NumPy."""

    def pretend(*names, numpy="1.26.4"):
        packages = {backends._PACKAGES[name] for name in names}
        monkeypatch.delenv(backends.BACKEND_VARIABLE, raising=False)
        monkeypatch.setattr(
            backends.importlib.util, "find_spec", lambda name: name in packages or None
        )
        monkeypatch.setattr(backends, "_version", lambda _name, _package: "2.14.0")
        monkeypatch.setattr(backends.np, "__version__", numpy)

    return pretend


@pytest.mark.parametrize(
    ("names", "numpy", "chosen"),
    [
        (["ai-edge-litert"], "2.4.0", "ai-edge-litert"),
        (["tflite-runtime"], "1.26.4", "tflite-runtime"),
        (["tflite-runtime", "ai-edge-litert", "tensorflow"], "1.26.4", "tflite-runtime"),
        (["tflite-runtime", "ai-edge-litert", "tensorflow"], "2.0.0", "ai-edge-litert"),
        (["tflite-runtime", "tensorflow"], "2.0.0", "tensorflow"),
        (["tensorflow"], "2.4.0", "tensorflow"),
    ],
)
def test_the_preferred_usable_backend_is_chosen(installed, names, numpy, chosen):
    installed(*names, numpy=numpy)
    assert choose_backend().name == chosen


def test_an_argument_goes_before_the_variable_and_that_before_the_preference(
    installed, monkeypatch
):
    installed("tflite-runtime", "ai-edge-litert", "tensorflow")
    monkeypatch.setenv(backends.BACKEND_VARIABLE, "ai-edge-litert")
    assert choose_backend().name == "ai-edge-litert"
    assert choose_backend("tensorflow").name == "tensorflow"
    monkeypatch.setenv(backends.BACKEND_VARIABLE, "")
    assert choose_backend().name == "tflite-runtime"


def test_tflite_runtime_beside_numpy_2_is_recognised_before_it_breaks(installed):
    installed("tflite-runtime", numpy="2.1.0")
    described = next(item for item in available_backends() if item.name == "tflite-runtime")
    assert not described.usable
    assert "numpy<2" in described.remedy
    for choose in (choose_backend, lambda: choose_backend("tflite-runtime")):
        with pytest.raises(EnvironmentFaultError, match=r"NumPy 2\.1\.0.*numpy<2"):
            choose()


def test_a_broken_installation_is_described_and_passed_over(installed, monkeypatch):
    def broken(name, _package):
        if name == "tflite-runtime":
            raise ImportError("libfoo.so is missing")
        return "2.3.0"

    installed("tflite-runtime", "ai-edge-litert")
    monkeypatch.setattr(backends, "_version", broken)
    assert choose_backend().name == "ai-edge-litert"
    assert "libfoo" in available_backends()[0].reason
    with pytest.raises(EnvironmentFaultError, match=r"libfoo.*Install it again"):
        choose_backend("tflite-runtime")


def test_without_any_runtime_the_way_out_is_named(installed):
    installed()
    with pytest.raises(EnvironmentFaultError, match="Install ai-edge-litert"):
        open_engine(MODEL)
    with pytest.raises(EnvironmentFaultError, match=r"fieldloop-device\[tflite\]"):
        open_engine(MODEL, backend="tflite-runtime")


def test_an_unknown_backend_is_refused_with_the_known_ones(monkeypatch):
    with pytest.raises(ConfigError, match="tflite-runtime, ai-edge-litert, tensorflow"):
        open_engine(MODEL, backend="onnx")
    monkeypatch.setenv(backends.BACKEND_VARIABLE, "onnx")
    with pytest.raises(ConfigError, match="onnx"):
        open_engine(MODEL)


def test_versions_compare_as_tflites(installed):
    installed("tflite-runtime", "ai-edge-litert")
    versions = {item.name: item.tflite_version for item in available_backends()}
    assert versions["tflite-runtime"] == "2.14.0"
    assert versions["ai-edge-litert"] is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"TFL3",
        b"not a model at all",
        MODEL[:4] + b"TFL2" + MODEL[8:],
        MODEL[: len(MODEL) // 2],
        MODEL[:8] + bytes(len(MODEL) - 8),
        MODEL[:8] + b"\xff" * 200,
    ],
    ids=range(7),
)
def test_bytes_that_are_no_model_are_refused(content):
    with pytest.raises(ModelRuntimeError) as caught:
        open_engine(content)
    assert caught.value.advice


def test_an_op_version_that_the_runtime_lacks_is_named():
    with pytest.raises(CompatibilityError, match=r"op ADD in version 99.*ai-edge-litert"):
        open_engine(newer_op(MODEL), backend="ai-edge-litert")


@pytest.mark.parametrize(("name", "said"), [(b"MyOp", "MyOp"), (b"FlexErf", "Select TensorFlow")])
def test_a_custom_op_is_named(name, said):
    with pytest.raises(CompatibilityError, match=said):
        open_engine(custom_op(MODEL, name), backend="ai-edge-litert")


@pytest.fixture
def asked(monkeypatch):
    """What the runtime's own class was asked for."""
    seen = []
    original = litert.Interpreter

    def remember(**options):
        seen.append(options)
        return original(**options)

    monkeypatch.setattr(litert, "Interpreter", remember)
    return seen


def test_threads_are_at_least_one_and_never_more_than_cores(asked, caplog):
    with pytest.raises(ConfigError, match="one thread"):
        open_engine(MODEL, num_threads=0)
    open_engine(MODEL, num_threads=1)
    assert not caplog.text
    open_engine(MODEL, num_threads=10_000)
    cores = len(os.sched_getaffinity(0))
    assert [item["num_threads"] for item in asked] == [1, cores]
    assert f"10000 threads were asked for, {cores} cores" in caplog.text


def test_xnnpack_can_be_switched_off(asked):
    ones = np.ones((2, 3), dtype=np.float32)
    answers = [open_engine(MODEL, xnnpack=on).run([ones, ones])[0] for on in (True, False)]
    np.testing.assert_array_equal(*answers)
    kinds = litert.OpResolverType
    assert [item["experimental_op_resolver_type"] for item in asked] == [
        kinds.AUTO,
        kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    ]


# As in tensorflow/lite/delegates/external: what a runtime needs of a delegate's library.
DELEGATE = r"""
#include <stdint.h>
struct Delegate {
  void* data;
  int (*prepare)(void*, struct Delegate*);
  void* copying[3];
  int64_t flags;
  void* builder;
};
static int prepared_count = 0;
int prepared(void) { return prepared_count; }
static int prepare(void* context, struct Delegate* self) { ++prepared_count; return RESULT; }
static struct Delegate only = {0, prepare, {0, 0, 0}, 0, 0};
void* tflite_plugin_create_delegate(char** keys, char** values, int count, void (*report)(char*)) {
  return &only;
}
void tflite_plugin_destroy_delegate(void* delegate) {}
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Shared libraries: a delegate that takes over nothing, one that fails, and no delegate."""
    if shutil.which("gcc") is None:
        missing("gcc is not installed")
    folder = tmp_path_factory.mktemp("delegates")
    sources = {
        "idle": DELEGATE.replace("RESULT", "0"),
        "failing": DELEGATE.replace("RESULT", "1"),
        "none": "int tflite_plugin_create_delegate(void) { return 0; }",
    }
    for name, source in sources.items():
        (folder / f"{name}.c").write_text(source)
        command = ["gcc", "-shared", "-fPIC", "-o", f"{name}.so", f"{name}.c"]
        subprocess.run(command, cwd=folder, check=True)
    return folder


def test_an_external_delegate_is_asked(libraries):
    path = str(libraries / "idle.so")
    ones = np.ones((2, 3), dtype=np.float32)
    engine = open_engine(MODEL, delegate=path)
    assert ctypes.CDLL(path).prepared() >= 1
    assert engine.run([ones, ones])[0].tolist() == [[2.0] * 3] * 2
    engine.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.so", "lacks tflite_plugin_destroy_delegate"),
        ("missing.so", "cannot open shared object"),
        ("none.c", "invalid ELF header|file too short"),
    ],
)
def test_a_library_that_is_no_delegate_is_refused(libraries, name, said):
    with pytest.raises(EnvironmentFaultError, match=said) as caught:
        open_engine(MODEL, delegate=str(libraries / name))
    assert caught.value.where.endswith(name)


def test_a_delegate_that_fails_is_an_error(libraries):
    with pytest.raises(ModelRuntimeError, match=r"ai-edge-litert.*failed"):
        open_engine(MODEL, delegate=str(libraries / "failing.so"))


def test_a_failing_invoke_is_an_error_and_the_engine_goes_on():
    engine = open_engine(MODEL, backend="ai-edge-litert")
    ones = np.ones((2, 3), dtype=np.float32)
    engine.run([ones, ones])
    # What the runtime says while somebody holds a view of its memory.
    held = engine._interpreter.tensor(engine._input_indexes[0])()
    with pytest.raises(ModelRuntimeError, match="reference to internal data"):
        engine.run([ones, ones])
    del held
    assert engine.run([ones, ones])[0].tolist() == [[2.0] * 3] * 2


def test_nothing_is_imported_before_an_engine_is_opened():
    code = (
        "import sys, fieldloop.interpreter, fieldloop.codec, fieldloop.bundle; "
        "fieldloop.backends.available_backends(); "
        "print([name for name in ('tensorflow', 'PIL', 'paho', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(runtimes.ROOT / "sdk")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
