"""The workstation's engines are quiet about themselves, and about nothing else."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fieldloop.errors import ModelRuntimeError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.engine import _without_announcements, open_engine

OPEN = """
import sys
from pathlib import Path
from fieldloop_cloud.engine import open_engine
model = Path(sys.argv[1]).read_bytes()
for _ in range(2):
    open_engine(model).close()
print("still heard", file=sys.stderr)
"""


def test_opening_a_model_says_nothing(tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 3))
    made = to_tflite(LogisticRegression().fit(X, X[:, 0] > 0), example=X)
    (tmp_path / "model.tflite").write_bytes(made.tflite)
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "model.tflite")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "still heard\n"


def test_what_is_no_announcement_is_passed_on(capfd):
    with _without_announcements():
        os.write(2, b"INFO: Created a delegate.\nERROR: the model is odd\n")
    assert capfd.readouterr().err == "ERROR: the model is odd\n"


def test_what_is_no_model_is_refused_as_ever():
    with pytest.raises(ModelRuntimeError, match="not a TFLite model"):
        open_engine(b"no model at all")
