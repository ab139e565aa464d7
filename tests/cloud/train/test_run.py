"""Runs on disk: whole, without pickles, and read back as they were."""

import json
from pathlib import Path

import numpy as np
import pytest

import fieldloop_cloud
from fieldloop.bundle import from_blob
from fieldloop.codec import dequantize
from fieldloop.errors import DataError, EnvironmentFaultError
from fieldloop.interpreter import open_engine
from fieldloop.profile import IMAGE_QUANTITIES
from fieldloop.telemetry import CONFIDENCE_EDGES
from fieldloop_cloud.train.run import Run


def test_a_saved_run_reads_back_as_it_was(digits_run):
    run, _ = digits_run
    again = Run.load(run.path)
    assert again.chosen.name == run.chosen.name
    assert [item.name for item in again.front] == [item.name for item in run.front]
    for mine, theirs in zip(again.front, run.front, strict=True):
        assert mine.compiled.tflite == theirs.compiled.tflite
        assert mine.compiled.signature == theirs.compiled.signature
        assert mine.compiled.evidence == theirs.compiled.evidence
        assert (mine.score, mine.gate, mine.latency_p90_ms) == (
            theirs.score,
            theirs.gate,
            theirs.latency_p90_ms,
        )
    assert (again.profile, again.golden, again.lineage) == (run.profile, run.golden, run.lineage)
    assert (again.openings, again.test, again.why) == (run.openings, run.test, run.why)


def test_a_run_holds_no_pickle_and_no_half_written_file(digits_run):
    run, _ = digits_run
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".tflite", ".html", ".md"}
    assert sum(path.suffix == ".tflite" for path in files) == len(run.front)


def test_a_missing_changed_or_hostile_run_is_refused(digits_run, tmp_path):
    run, _ = digits_run
    with pytest.raises(DataError, match="not a whole run"):
        Run.load(tmp_path)
    run.save(tmp_path)
    model = tmp_path / "models" / f"{run.chosen.name}.tflite"
    model.write_bytes(b"short")
    with pytest.raises(DataError, match="5 bytes instead of"):
        Run.load(tmp_path)
    run.save(tmp_path)
    document = json.loads((tmp_path / "run.json").read_text())
    document["front"][0]["measured"]["candidate"] = "../../etc/passwd"
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="no variant's name"):
        Run.load(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match="not a whole run"):
        Run.load(tmp_path)


def test_a_place_where_nobody_may_write_is_an_environment_fault(digits_run):
    run, _ = digits_run
    with pytest.raises(EnvironmentFaultError, match="cannot be written"):
        run.save(Path("/proc/run"))  # not even root may


def test_a_file_in_the_way_is_an_environment_fault(digits_run, tmp_path):
    run, _ = digits_run
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(EnvironmentFaultError, match="cannot be written"):
        run.save(tmp_path / "run")


def test_golden_answers_replay_on_their_flatbuffers(digits_run):
    run, _ = digits_run
    assert [item.precision for item in run.golden] == [v.precision for v in run.chosen_variants]
    for golden, scored in zip(run.golden, run.chosen_variants, strict=True):
        engine = open_engine(scored.compiled.tflite)
        outputs = engine.run([from_blob(blob) for blob in golden.inputs])
        for spec, output, blob in zip(
            scored.compiled.signature.outputs, outputs, golden.outputs, strict=True
        ):
            wanted = from_blob(blob)
            assert len(wanted) == 16
            real = dequantize(spec, output)
            if real.dtype.kind == "f":
                assert np.abs(real - wanted).max() <= golden.tolerance
            else:
                np.testing.assert_array_equal(real, wanted)
                assert len(np.unique(wanted)) == 10  # every label is exercised


def test_the_profile_describes_training_rows_and_held_out_answers(digits_run):
    run, _ = digits_run
    profile = run.profile
    assert tuple(quantity.name for quantity in profile.quantities) == IMAGE_QUANTITIES
    assert profile.row_count == run.split.train_count
    for quantity in profile.quantities:
        assert sum(quantity.counts) == run.split.train_count
        assert len(quantity.counts) == quantity.bins.cell_count
        assert quantity.low <= quantity.high
    assert sum(profile.class_counts) == run.split.validation_count
    counts = np.asarray(profile.confidence_counts)
    assert counts.shape == (10, len(CONFIDENCE_EDGES) + 1)
    assert counts.sum() == run.split.validation_count
    accuracy = np.asarray(profile.confidence_accuracy)
    assert accuracy.shape == counts.shape
    assert (np.diff(accuracy, axis=1) >= 0).all()
    # Calibrated: the shares give back the accuracy on the rows that they were made from.
    assert (accuracy * counts).sum() / counts.sum() == pytest.approx(run.chosen.score, abs=0.01)


def test_the_lineage_says_where_the_model_comes_from(digits_run):
    run, _ = digits_run
    lineage = run.lineage
    assert (lineage.data_sha256, lineage.candidate) == (run.data_sha256, run.chosen.candidate)
    assert {"baseline", "test", f"precision {run.chosen.precision}"} <= lineage.gate.keys()
    assert {"python", "numpy", "scikit-learn"} <= lineage.tools.keys()


def test_public_names_come_on_first_use():
    assert fieldloop_cloud.Run is Run
    assert {"Dataset", "train", "to_tflite", "bundle"} <= set(dir(fieldloop_cloud))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = fieldloop_cloud.trian
