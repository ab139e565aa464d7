"""`precision="auto"` takes the smallest precision that is proven, and says what each reached."""

import dataclasses

import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from fieldloop.errors import ConfigError
from fieldloop_cloud.compile.api import to_tflite
from fieldloop_cloud.compile.auto import smallest_proven
from fieldloop_cloud.compile.quantize import calibration_sha256
from fieldloop_cloud.compile.rungs import compiled_directly
from fieldloop_cloud.compile.weighing import MAX_ROWS

DIGITS, DIGIT = load_digits(return_X_y=True)
PATIENTS, PROGRESS = load_diabetes(return_X_y=True)


@pytest.fixture(scope="module")
def svm():
    return make_pipeline(StandardScaler(), SVC()).fit(DIGITS[::2], DIGIT[::2])


def verdicts(compiled):
    return {
        rung.precision: rung.gate.verdict if rung.gate else "none"
        for rung in compiled.evidence.rungs
    }


def test_the_smallest_proven_precision_is_taken_with_what_each_reached(svm):
    held_out = DIGITS[1::2]
    compiled = to_tflite(svm, example=DIGITS[::2], held_out=held_out, precision="auto")
    alone = to_tflite(svm, example=DIGITS[::2], held_out=held_out, precision="int8")
    assert (compiled.precision, compiled.tflite) == ("int8", alone.tflite)
    assert verdicts(compiled) == {
        "float32": "reference", "float16": "accepted", "int8": "accepted"
    }  # fmt: skip
    sizes = [rung.size_bytes for rung in compiled.evidence.rungs]
    assert sizes == sorted(sizes, reverse=True)
    gate = compiled.evidence.rungs[2].gate
    said = compiled.run(held_out)["label"]
    assert gate.agreement == pytest.approx(np.mean(said == svm.predict(held_out)))
    assert gate.row_count == len(held_out)
    assert compiled.evidence.calibration_sha256 == calibration_sha256(
        DIGITS[::2].astype(np.float32)
    )


def test_without_proof_it_stays_float32_and_says_how_many_rows_are_needed(svm):
    few = {"example": DIGITS[::2], "held_out": DIGITS[1:200:2], "precision": "auto"}
    compiled = to_tflite(svm, **few)
    assert compiled.precision == "float32"
    assert verdicts(compiled)["int8"] == "not proven"
    assert "at least 268 rows are needed" in compiled.evidence.rungs[2].reason
    assert to_tflite(svm, **few, epsilon=0.1).precision == "int8"


def test_a_precision_that_cannot_be_had_is_told_and_the_next_one_is_tried():
    rows = DIGITS[:600].copy()
    rows[::7, 20] = np.nan
    model = HistGradientBoostingClassifier(max_iter=5).fit(rows, DIGIT[:600])
    compiled = to_tflite(model, example=rows, precision="auto")
    by_name = {rung.precision: rung for rung in compiled.evidence.rungs}
    assert "missing value" in by_name["int8"].reason
    assert by_name["int8"].size_bytes is None
    assert compiled.precision in {"float32", "float16"}
    assert by_name["float16"].gate.passed


def impostor(original, other, precision="int8"):
    """A compiler whose smaller precision is another model, and smaller."""
    small = dataclasses.replace(other, precision=precision)
    assert len(other.tflite) < len(original.tflite)
    return lambda wanted: original if wanted == "float32" else small


def test_other_labels_are_refused_however_small():
    original = to_tflite(
        make_pipeline(StandardScaler(), SVC()).fit(DIGITS, DIGIT), example=DIGITS[:300]
    )
    other = to_tflite(
        make_pipeline(StandardScaler(), SVC()).fit(DIGITS[:60], DIGIT[:60]), example=DIGITS[:300]
    )
    compiled = smallest_proven(
        compiled_directly(impostor(original, other)),
        lambda: DIGITS.astype(np.float32),
        ("float32", "int8"),
        epsilon=0.01,
    )
    assert compiled.tflite == original.tflite
    assert verdicts(compiled)["int8"] == "refused"
    assert "rows lost" in compiled.evidence.rungs[1].reason


def test_of_several_values_the_worst_decides():
    twice = np.column_stack([PROGRESS, PROGRESS])
    original = to_tflite(Ridge().fit(PATIENTS, twice), example=PATIENTS)
    wrong = twice * [1.0, 0.0]
    other = to_tflite(Ridge().fit(PATIENTS, wrong), example=PATIENTS)
    tiny = dataclasses.replace(original, tflite=other.tflite)

    def judged(variant):
        found = smallest_proven(
            compiled_directly(lambda wanted: original if wanted == "float32" else variant),
            lambda: PATIENTS.astype(np.float32),
            ("float32", "int8"),
            epsilon=0.01,
        )
        return found.evidence.rungs[1].gate.verdict

    assert judged(original) == "accepted"
    assert judged(tiny) == "refused"


@pytest.mark.parametrize("model", [Ridge(), PCA(3)])
def test_values_are_judged_by_the_spread_they_keep(model):
    model.fit(PATIENTS, PROGRESS)
    compiled = to_tflite(model, example=PATIENTS, precision="auto")
    assert verdicts(compiled)["int8"] == "accepted"
    # What is accepted but larger is not taken.
    sizes = {rung.precision: rung.size_bytes for rung in compiled.evidence.rungs}
    assert sizes[compiled.precision] == min(sizes.values())
    few = to_tflite(model, example=PATIENTS, held_out=PATIENTS[:20], precision="auto")
    assert verdicts(few)["int8"] == "not proven"
    assert few.precision == "float32"


def test_a_constant_is_judged_by_the_rows_that_moved():
    constant = to_tflite(Ridge().fit(PATIENTS, np.full(len(PATIENTS), 7.0)), example=PATIENTS)
    other = to_tflite(Ridge().fit(PATIENTS, PROGRESS), example=PATIENTS)
    for variant, verdict in ((constant, "accepted"), (other, "refused")):
        found = smallest_proven(
            compiled_directly(
                lambda wanted, variant=variant: constant if wanted == "float32" else variant
            ),
            lambda: PATIENTS.astype(np.float32),
            ("float32", "int8"),
            epsilon=0.01,
        )
        assert found.evidence.rungs[1].gate.verdict == verdict


def test_many_rows_are_thinned_out():
    model = Ridge().fit(PATIENTS, PROGRESS)
    rows = np.tile(PATIENTS, (12, 1))
    compiled = to_tflite(model, example=PATIENTS, held_out=rows, precision="auto")
    assert compiled.evidence.rungs[1].gate.row_count == MAX_ROWS < len(rows)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 1.0, float("nan")])
def test_an_epsilon_that_is_no_share_is_refused(epsilon):
    with pytest.raises(ConfigError, match="no share"):
        to_tflite(Ridge().fit(PATIENTS, PROGRESS), example=PATIENTS, epsilon=epsilon)


def test_the_evidence_survives_as_json(svm):
    evidence = to_tflite(svm, example=DIGITS[:300], precision="auto").evidence
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=type(evidence)) == evidence
