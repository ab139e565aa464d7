"""Training rows of whole numbers take a byte a number, and lose nothing."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fieldloop_cloud.compile.api import to_tflite

DIGITS, DIGIT = load_digits(return_X_y=True)
TRAIN, TEST, TARGET = DIGITS[:600], DIGITS[600:800], DIGIT[:600]


MODELS = {
    "svm": SVC(C=10, gamma=1e-3),
    "scaled svm": make_pipeline(StandardScaler(), SVC(C=10)),
    "neighbors": KNeighborsClassifier(),
    "scaled neighbors": make_pipeline(StandardScaler(), KNeighborsRegressor(weights="distance")),
}


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("name", MODELS)
def test_whole_numbers_answer_as_reals_do_in_a_byte_each(name, kind, tflite214):
    rows = TEST.astype(kind) + 0.25  # rows need not be whole
    model = MODELS[name].fit(TRAIN.astype(kind), TARGET)
    whole = to_tflite(model, example=TRAIN.astype(kind), held_out=rows)
    made = whole.run(rows)
    label = "value" if "value" in made else "label"
    assert np.abs(made[label] - model.predict(rows)).max() <= 1e-5
    if "decision" in made:
        assert np.abs(made["decision"] - model.decision_function(rows)).max() <= 2e-5
    (there, *_), *_ = tflite214.run(whole.tflite, [rows.astype(np.float32)])
    assert np.allclose(there, made[label], atol=1e-4)
    real = (TRAIN + 0.3).astype(kind)
    last = model[-1] if hasattr(model, "steps") else model
    count = len(last.support_) if hasattr(last, "support_") else len(TRAIN)
    saved = len(to_tflite(MODELS[name].fit(real, TARGET), example=real).tflite) - len(whole.tflite)
    assert saved > 2.8 * 64 * count


def test_numbers_beyond_a_byte_take_two_and_fractions_four():
    def size(table):
        return len(to_tflite(KNeighborsRegressor().fit(table, TARGET), example=table).tflite)

    byte, half, single = size(TRAIN), size(TRAIN * 100), size(TRAIN * 100 + 0.3)
    assert half - byte == pytest.approx(TRAIN.size, rel=0.02)
    assert single - half == pytest.approx(2 * TRAIN.size, rel=0.02)


def test_whole_numbers_that_two_bytes_cannot_hold_are_not_rounded():
    table = np.vstack([TRAIN * 1000.0 + 1, TRAIN * 1000.0 + 2])
    model = KNeighborsRegressor(1).fit(table, np.arange(1200.0))
    assert np.array_equal(to_tflite(model, example=table).run(table)["value"], np.arange(1200.0))
