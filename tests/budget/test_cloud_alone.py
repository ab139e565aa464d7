"""The workstation package alone in a fresh environment: classical models need no TensorFlow."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMPILE = """
import json, sys, time
import fieldloop_cloud as fl
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

X, y = load_digits(return_X_y=True)
found = {}
for model in (RandomForestClassifier(20, random_state=0), make_pipeline(StandardScaler(), SVC())):
    model.fit(X[:1000], y[:1000])
    compiled = fl.to_tflite(model, example=X[:1000])
    same = compiled.run(X[1000:])["label"] == model.predict(X[1000:])
    found[type(model).__name__] = bool(same.all())
found["training frameworks"] = [name for name in ("tensorflow", "keras") if name in sys.modules]
print(json.dumps(found))
"""


def test_no_training_framework_for_nets_comes_along(workstation):
    assert not {"tensorflow", "keras", "torch"} & set(workstation.packages())


def test_classical_models_compile_and_agree(workstation):
    done = workstation.run("python", "-c", COMPILE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "RandomForestClassifier": True,
        "Pipeline": True,
        "training frameworks": [],
    }


def test_training_leaves_the_net_out_and_says_why(workstation, tmp_path):
    done = workstation.run(
        "fieldloop", "train", "sklearn:digits", "-o", tmp_path / "run",
        "--candidate", "logistic", "--candidate", "cnn", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    [reason] = [item["reason"] for item in result["skipped"] if item["name"] == "cnn"]
    assert "deep" in reason


def test_a_net_is_refused_with_the_way_to_compile_it(workstation, tmp_path):
    net = tmp_path / "net.keras"
    net.write_bytes(b"PK\x03\x04 not opened before TensorFlow is found missing")
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n1,2\n3,4\n")
    done = workstation.run(
        "fieldloop", "compile", net, "--example", rows, "-o", tmp_path / "net.tflite"
    )
    assert done.returncode in (1, 2)
    assert "fieldloop-cloud[deep]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "net.tflite").exists()
