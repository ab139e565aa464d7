"""From a data set and a device to a run."""

import dataclasses
import importlib
import re

import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix

from fieldloop.codec import Codec, dequantize
from fieldloop.errors import ConfigError, EnvironmentFaultError, GateError
from fieldloop.interpreter import open_engine
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.sources import from_arrays
from fieldloop_cloud.data.split import split
from fieldloop_cloud.data.tables import dataset_from_frame
from fieldloop_cloud.release.targets import load_target
from fieldloop_cloud.select.advice import advise
from fieldloop_cloud.train.measure import answers, rows_for
from fieldloop_cloud.train.reference import TOLERANCE
from fieldloop_cloud.train.trainer import train


def named(run, name):
    return next(item for item in run.front if item.name == name)


def test_every_candidate_is_compiled_and_measured_in_every_precision(digits_run):
    run, _ = digits_run
    names = {item.name for item in run.front}
    for candidate in ("logistic", "random-forest", "svm-rbf"):
        assert {f"{candidate}.{p}" for p in ("float32", "float16", "int8")} <= names
    assert {f"cnn.{p}" for p in ("float32", "float16", "dynamic", "int8")} <= names
    assert [item.score for item in run.front] == sorted(
        (item.score for item in run.front), reverse=True
    )


def test_scores_are_those_of_the_flatbuffer_on_rows_never_trained_on(digits_run):
    run, _ = digits_run
    data = Dataset.load("sklearn:digits")
    parts = split(data, seed=0)
    assert parts.sha256 == run.split.sha256 == run.lineage.split_sha256
    codec = Codec(run.signature)
    engine = open_engine(run.chosen.compiled.tflite)
    raw = [data.raw(int(row)) for row in parts.test]
    rows = codec.encode_rows(raw)
    predictions = codec.decode(engine.run(codec.tensors(rows)))
    truth = [data.label(int(row)) for row in parts.test]
    said = [prediction.label for prediction in predictions]
    assert run.score(run.chosen.precision) == pytest.approx(accuracy_score(truth, said))
    np.testing.assert_array_equal(run.confusion, confusion_matrix(truth, said))
    assert all(0 < prediction.confidence <= 1 for prediction in predictions)


def test_digits_are_learned_well_by_all(digits_run):
    run, _ = digits_run
    assert run.score(run.chosen.precision) > 0.96
    for name, at_least in (
        ("svm-rbf.float32", 0.97),
        ("cnn.float32", 0.95),
        ("random-forest.float32", 0.94),
        ("logistic.float32", 0.94),
    ):
        item = named(run, name)
        assert item.score > at_least
        assert item.score_low < item.score < item.score_high
        assert item.size_bytes == len(item.compiled.tflite)
        assert 0 < item.latency_p50_ms <= item.latency_p90_ms


def test_quantized_variants_are_smaller_and_gated_against_their_reference(digits_run):
    run, _ = digits_run
    for candidate in ("cnn", "svm-rbf", "random-forest"):
        reference, small = named(run, f"{candidate}.float32"), named(run, f"{candidate}.int8")
        assert small.size_bytes < 0.8 * reference.size_bytes
        assert reference.gate.verdict == "reference"
        assert small.gate.row_count == run.split.validation_count
        assert small.gate.reason.startswith(small.gate.verdict)
        assert len(small.calibration_sha256) == 64


def test_every_variant_gives_the_same_answers_on_tflite_runtime_214(digits_run, tflite214):
    run, _ = digits_run
    data = Dataset.load("sklearn:digits").take(np.arange(100))
    for item in run.front:
        assert item.min_runtime == "2.14.0"
        signature = item.compiled.signature
        here = answers(item.compiled.tflite, signature, data.X)
        tensors = Codec(signature).tensors(rows_for(signature, data.X))
        there = tflite214.run(item.compiled.tflite, tensors)[0]
        for spec, wanted, got in zip(signature.outputs, here.outputs, there, strict=True):
            real = dequantize(spec, got)
            if real.dtype.kind == "f":
                size = max(1.0, float(np.abs(wanted).max()))
                assert np.abs(real - wanted).max() <= TOLERANCE[item.precision] * size, item.name
            else:
                assert np.mean(real == wanted) >= 0.99, item.name


def test_the_chosen_passed_its_gate_and_leads_the_variants_to_ship(digits_run):
    run, _ = digits_run
    assert run.chosen.gate.passed
    assert not run.chosen.over_budget
    assert run.chosen_variants[0] is run.chosen
    assert {item.candidate for item in run.chosen_variants} == {run.chosen.candidate}
    assert run.chosen.name in run.why


def test_the_test_set_was_opened_once(digits_run):
    run, _ = digits_run
    assert [(opening.purpose, opening.forced) for opening in run.openings] == [
        ("the final evaluation of the chosen candidate", False)
    ]
    assert set(run.test) == {item.precision for item in run.chosen_variants}
    assert {item.metric for item in run.test[run.chosen.precision]} == {
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
        "f1_weighted",
    }


def test_progress_is_told_and_nothing_else(digits_run, capfd):
    _, said = digits_run
    stages = [stage for stage, _, _ in said]
    assert stages[0] == "split"
    assert stages[-1] == "done"
    assert {"train", "convert", "measure", "choose", "test"} <= set(stages)
    assert all(0.0 <= fraction <= 1.0 for _, fraction, _ in said)
    train(Dataset.load("sklearn:iris"), candidates=["logistic"])
    assert capfd.readouterr().out == ""


def test_the_same_seed_gives_the_same_models():
    data = Dataset.load("sklearn:iris")
    first, second = (train(data, seed=4, candidates=["logistic", "svm-rbf"]) for _ in range(2))
    assert [(item.name, item.score) for item in first.front] == [
        (item.name, item.score) for item in second.front
    ]
    assert [item.compiled.tflite for item in first.front] == [
        item.compiled.tflite for item in second.front
    ]


def test_a_regression_is_chosen_by_r2():
    run = train(Dataset.load("sklearn:diabetes"), device="pi4")
    assert (run.task, run.metric) == ("regression", "r2")
    assert 0.2 < run.score(run.chosen.precision) < 0.7
    assert run.signature.output("value") is not None
    assert run.confusion == ()
    assert run.profile.class_counts == ()
    assert len(run.profile.quantities) == 10


def test_a_table_with_gaps_and_categories_runs_from_raw_rows_to_labels():
    random = np.random.default_rng(0)
    rows = 300
    speed = random.normal(size=rows)
    fuel = random.integers(0, 3, rows).astype(float)
    y = ((speed > 0) & (fuel != 1)).astype(int)
    speed[::17] = np.nan
    data = mixed(speed, fuel, y)
    run = train(data, candidates=["logistic", "random-forest", "svm-rbf"])
    assert {item.candidate for item in run.front} == {"logistic", "random-forest", "svm-rbf"}
    reasons = {item.name: item.reason for item in run.skipped}
    assert "no code for a missing value" in reasons["logistic.int8"]
    for item in run.front:
        codec = Codec(item.compiled.signature)
        rows = codec.encode_rows([{"speed": 1.5, "fuel": "gas"}, [None, "electric"]])
        engine = open_engine(item.compiled.tflite)
        predictions = codec.decode(engine.run(codec.tensors(rows)))
        assert predictions[0].label == "stop"
        assert predictions[1].label in {"go", "stop"}


def test_a_gap_among_the_validation_rows_alone_costs_only_the_integer_variant():
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 3))
    y = (X[:, 0] > 0).astype(int)
    X[split(from_arrays(X, y), seed=0).validation[0], 1] = np.nan
    run = train(from_arrays(X, y), candidates=["logistic"])
    assert "logistic.float32" in {item.name for item in run.front}
    reasons = {item.name: item.reason for item in run.skipped}
    assert "no code for a missing value" in reasons["logistic.int8"]


def test_a_run_that_fails_leaves_nothing_where_it_was_to_be_written(tmp_path):
    random = np.random.default_rng(0)
    noise = from_arrays(random.normal(size=(60, 2)), random.integers(0, 2, 60))
    with pytest.raises(GateError):
        train(noise, candidates=["logistic"], out=tmp_path / "runs" / "noise")
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_writing_fails_midway_is_taken_away(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise EnvironmentFaultError("the disk is full")

    trainer = importlib.import_module("fieldloop_cloud.train.trainer")
    monkeypatch.setattr(trainer, "write_run_report", full)
    with pytest.raises(EnvironmentFaultError):
        train(Dataset.load("sklearn:iris"), candidates=["logistic"], out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def mixed(speed, fuel, y):
    names = np.asarray(["diesel", "petrol", "gas"])
    frame = pd.DataFrame(
        {
            "speed": speed,
            "fuel": names[fuel.astype(int)],
            "command": np.asarray(["go", "stop"])[y],
        }
    )
    return dataset_from_frame(frame, "command", name="mixed", where="mixed")


def test_a_folder_of_pictures_becomes_a_model_that_takes_files(tmp_path):
    random = np.random.default_rng(0)
    for label, column in (("left", 2), ("right", 9)):
        (tmp_path / label).mkdir()
        for number in range(40):
            pixels = random.integers(0, 60, (12, 12), dtype=np.uint8)
            pixels[:, column : column + 2] += 150
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    run = train(Dataset.load(tmp_path), candidates=["logistic"])
    codec = Codec(run.signature)
    rows = codec.encode_row(tmp_path / "right" / "0.png")
    outputs = open_engine(run.chosen.compiled.tflite).run(codec.tensors(rows))
    assert codec.decode(outputs)[0].label == "right"


def test_a_candidate_that_cannot_be_fitted_is_skipped_with_its_reason():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [60, 60, 2])
    X = random.normal(size=(122, 2)) + 5 * y[:, np.newaxis]
    data = replace_dataset(Dataset.load("sklearn:iris"), X, y)
    run = train(
        data, candidates=["logistic", "svm-rbf"], allow_leakage="points drawn at random come close"
    )
    assert "a single training row" in {s.name: s.reason for s in run.skipped}["svm-rbf"]
    assert {item.candidate for item in run.front} == {"logistic"}


def replace_dataset(like, X, y):
    """Rows that came together by `concat`, past the checks of loading."""
    return dataclasses.replace(
        like, X=X.astype(np.float32), y=y.astype(np.int64), features=like.features[:2]
    )


def test_an_imbalanced_set_is_judged_by_balanced_accuracy():
    random = np.random.default_rng(0)
    y = (np.arange(600) % 10 == 0).astype(int)
    X = random.normal(size=(600, 3))
    X[:, 0] += 3 * y
    run = train(from_arrays(X, y), candidates=["logistic"])
    assert run.metric == "balanced_accuracy"
    assert run.baseline.value == pytest.approx(0.5)


def test_noise_beats_no_dummy():
    random = np.random.default_rng(0)
    data = from_arrays(random.normal(size=(300, 3)), random.integers(0, 2, 300))
    with pytest.raises(GateError, match="no model beats guessing"):
        train(data, candidates=["logistic"])


def test_a_device_that_fits_nothing_says_by_how_much():
    tiny = replace(load_target("x86"), name="tiny", max_model_bytes=500)
    with pytest.raises(GateError, match=r"no variant fits tiny.*bytes of 500"):
        train(Dataset.load("sklearn:iris"), device=tiny, candidates=["logistic"])


def test_a_spent_budget_skips_what_comes_later_and_says_so():
    run = train(Dataset.load("sklearn:digits"), budget_s=15.0, candidates=["logistic", "cnn"])
    skipped = {item.name: item.reason for item in run.skipped}
    assert re.search("a net needs at least|used up before its turn", skipped["cnn"])
    assert {item.candidate for item in run.front} == {"logistic"}
    with pytest.raises(GateError, match=r"could be trained.*cnn: .* s were left"):
        train(Dataset.load("sklearn:digits"), budget_s=5.0, candidates=["cnn"])


def test_labels_of_any_kind_come_back_as_written():
    data = Dataset.load("sklearn:wine")
    run = train(data, candidates=["random-forest"])
    said = answers(run.chosen.compiled.tflite, run.signature, data.X)
    assert run.signature.labels == ("class_0", "class_1", "class_2")
    assert np.mean(said.predicted == data.y) > 0.9
    assert run.chosen.compiled.run(data.X[:1])["label"].tolist() == ["class_0"]


def test_a_place_that_cannot_be_written_is_found_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = []
    with pytest.raises(EnvironmentFaultError, match="cannot be written"):
        train(
            Dataset.load("sklearn:iris"),
            out=tmp_path / "file" / "run",
            progress=lambda *report: said.append(report),
        )
    assert said == []


@pytest.mark.parametrize(("data", "said"), [("d/img", "not 'd/img'"), (3, r"\(int\)")])
def test_what_is_no_data_set_yet_is_to_be_loaded_first(data, said):
    for step in (train, advise):
        with pytest.raises(ConfigError, match=rf"a Dataset is needed here.*{said}.*Dataset\.load"):
            step(data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "toaster"}, "toaster"),
        ({"candidates": ["gpt"]}, "no candidate gpt"),
        ({"metric": "loss"}, "'loss' cannot decide"),
        ({"budget_s": 0.0}, "is no time"),
        ({"epsilon": 0.0}, "no share"),
        ({"epsilon": 1.0}, "no share"),
        ({"floor": 1.1}, "no accuracy reaches a floor of 1.1"),
        ({"floor": float("nan")}, "no accuracy reaches a floor of nan"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(options, said):
    with pytest.raises(ConfigError, match=said):
        train(Dataset.load("sklearn:iris"), **options)
