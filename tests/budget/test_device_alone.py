"""The device package alone in a fresh environment: small, without training frameworks, exact."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fieldloop_cloud as fl
from fieldloop.bundle import pack, to_blob
from fieldloop.integrity import SigningKey, TrustPolicy
from fieldloop.manifest import GoldenSet, Lineage, Variant
from fieldloop.profile import ReferenceProfile
from fieldloop_device.runtime import Runtime

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MAX_DEVICE_WHEEL_BYTES = 200_000
MAX_SDK_WHEEL_BYTES = 150_000

TRAINING = {
    "tensorflow", "keras", "scikit-learn", "scipy", "pandas", "pyarrow", "matplotlib", "optuna",
    "litert-quantizer", "fieldloop-cloud", "amqtt", "pytest",
}  # fmt: skip

KEY = SigningKey.generate()
X, Y = load_wine(return_X_y=True)
MODELS = {
    "forest": lambda: RandomForestClassifier(20, random_state=0).fit(X, Y),
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y),
}


@pytest.fixture(scope="module", params=[("forest", "float32"), ("logistic", "int8")], ids=str)
def bundle(request, tmp_path_factory):
    """A bundle made on the workstation, with its public key beside it."""
    name, precision = request.param
    compiled = fl.to_tflite(MODELS[name](), example=X, precision=precision)
    golden = GoldenSet(
        precision=precision,
        inputs=tuple(to_blob(tensor) for tensor in compiled.codec.tensors(X[:8].astype("float32"))),
        outputs=tuple(to_blob(array) for array in compiled.run(X[:8]).values()),
        tolerance=1e-4,
    )
    data = pack(
        name="wine",
        release=1,
        device_classes=("x86",),
        variants=[
            # The claim under test: tflite-runtime 2.14 has every op.
            Variant(precision=precision, min_runtime="2.14.0", op_versions={})
        ],
        models={precision: compiled.tflite},
        signature=compiled.signature,
        profile=ReferenceProfile(quantities=()),
        golden=[golden],
        lineage=Lineage(
            data_sha256="0" * 64, split_sha256="0" * 64, candidate=name, metric="accuracy"
        ),
        key=KEY,
    )
    directory = tmp_path_factory.mktemp("bundle")
    (directory / "trusted.pem").write_bytes(KEY.public.to_pem())
    (directory / "wine.flb").write_bytes(data)
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in X.tolist()))
    return directory


@pytest.fixture(params=["litert", "tflite"])
def environment(request):
    return request.getfixturevalue(request.param)


def test_the_wheels_are_small_and_hold_only_the_packages(wheels):
    assert wheels["fieldloop_device"].stat().st_size <= MAX_DEVICE_WHEEL_BYTES
    assert wheels["fieldloop"].stat().st_size <= MAX_SDK_WHEEL_BYTES
    for package, path in wheels.items():
        with zipfile.ZipFile(path) as archive:
            folders = {name.split("/")[0] for name in archive.namelist()}
            assert folders == {package, f"{package}-0.1.0.dist-info"}
            assert f"{package}/py.typed" in archive.namelist()


def test_no_training_framework_comes_along(environment):
    assert not TRAINING & set(environment.packages())


def test_the_runtimes_are_the_ones_asked_for(litert, tflite):
    assert "tflite-runtime" not in litert.packages()
    assert litert.packages()["numpy"].startswith("2.")
    assert tflite.packages()["tflite-runtime"] == "2.14.0"
    assert tflite.packages()["numpy"] == "1.26.4"
    code = "from fieldloop.backends import choose_backend; print(choose_backend().name)"
    assert litert.run("python", "-c", code).stdout.strip() == "ai-edge-litert"
    assert tflite.run("python", "-c", code).stdout.strip() == "tflite-runtime"


def test_a_bundle_from_the_workstation_gives_the_same_answers(environment, bundle):
    done = environment.run(
        "fieldloop-device", "predict", bundle / "wine.flb", bundle / "rows.jsonl",
        "--trusted", bundle / "trusted.pem", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]

    trust = TrustPolicy(keys=(KEY.public,))
    with Runtime.open(bundle / "wine.flb", trust=trust) as runtime:
        expected = runtime.predict_batch(X)
    assert [answer["label"] for answer in answers] == [item.label for item in expected]
    np.testing.assert_allclose(
        [answer["probabilities"] for answer in answers],
        [item.probabilities for item in expected],
        atol=1e-5,
    )
    # Not one label for all: the comparison above says something.
    assert len({answer["label"] for answer in answers}) == 3


def test_a_forged_bundle_is_refused_without_a_traceback(environment, bundle, tmp_path):
    data = bytearray((bundle / "wine.flb").read_bytes())
    data[-1] ^= 1
    forged = tmp_path / "forged.flb"
    forged.write_bytes(data)
    done = environment.run(
        "fieldloop-device", "predict", forged, bundle / "rows.jsonl",
        "--trusted", bundle / "trusted.pem",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "changed after signing" in done.stderr
    assert "Traceback" not in done.stderr


def test_tflite_runtime_beside_numpy_2_says_what_to_do(tflite, bundle, tmp_path):
    # The same environment as if somebody had upgraded NumPy in it.
    site = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        (tmp_path / name).symlink_to(site / name)
    command = (
        "fieldloop-device", "predict", bundle / "wine.flb", bundle / "rows.jsonl",
        "--trusted", bundle / "trusted.pem",
    )  # fmt: skip
    asked = tflite.run(*command, PYTHONPATH=str(tmp_path), FIELDLOOP_BACKEND="tflite-runtime")
    assert asked.returncode == 1
    assert "pip install 'numpy<2'" in asked.stderr
    assert "Traceback" not in asked.stderr
    # Left to itself it takes the runtime that works.
    assert tflite.run(*command, PYTHONPATH=str(tmp_path)).returncode == 0


def test_the_doctor_finds_the_runtime_and_misses_nothing(environment):
    done = environment.run("fieldloop-device", "doctor", "--json")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    packages = environment.packages()
    runtime = "tflite-runtime" if "tflite-runtime" in packages else "ai-edge-litert"
    details = {item["check"]: item["detail"] for item in findings}
    assert details[f"backend {runtime}"] == packages[runtime]
    # Whether a clock is synchronised is a matter of the machine, not of the installation.
    assert {item["check"] for item in findings if not item["is_fine"]} <= {"clock"}
