import subprocess
import sys

SCRIPT = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tensorflow", "keras", "tf_keras"}:
            raise ImportError(f"{name} was imported")


sys.meta_path.insert(0, Blocked())
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import fieldloop_cloud.compile.api as api

X = np.random.default_rng(0).normal(size=(60, 4))
y = (X[:, 0] > 0).astype(int)
for last in (LogisticRegression(), RandomForestClassifier(5), SVC()):
    model = make_pipeline(StandardScaler(), last).fit(X, y)
    assert (api.to_tflite(model, example=X).run(X)["label"] == model.predict(X)).all()
print("done")
"""


def test_classical_models_compile_without_tensorflow():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.strip() == "done", done.stderr
