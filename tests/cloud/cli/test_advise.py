"""`fieldloop advise` and what `train` takes of it: groups, times, and a reason to go on."""

import json

import numpy as np
import pandas as pd
import pytest
from tests.support.commands import fieldloop

from fieldloop_cloud.train.run import Run


@pytest.fixture
def readings(tmp_path):
    random = np.random.default_rng(0)
    heat = random.normal(size=240)
    frame = pd.DataFrame(
        {
            "heat": heat,
            "hum": random.normal(size=240),
            "machine": np.repeat([f"m{number}" for number in range(24)], 10),
            "at": pd.date_range("2026-01-01", periods=240, freq="min").astype(str),
            "state": np.where(heat + random.normal(size=240) * 0.6 > 0, "hot", "cold"),
        }
    )
    path = tmp_path / "readings.csv"
    frame.to_csv(path, index=False)
    return path


def test_advice_in_words_and_as_a_page(tmp_path, readings):
    page = tmp_path / "advice.html"
    done = fieldloop(
        "advise", readings, "--target", "state", "--drop", "at", "--group", "machine", "-o", page
    )
    assert done.code == 0, done.err
    for said in (
        "240 rows, tabular classification: train a classical model, choose by accuracy",
        "Groups stay whole",
        "what cheap models reach",
        "more labels ≈",
        "Rows for an interval of so many points",
        "--target state --drop at --group machine --split auto",
    ):
        assert said in done.out
    assert "<h2>What more labels would buy</h2>" in page.read_text()
    again = fieldloop("advise", readings, "--target", "state", "--drop", "at", "-o", page)
    assert again.code == 2
    assert "--force" in again.err


def test_advice_for_machines(readings):
    options = ("--target", "state", "--drop", "machine", "--time", "at", "--points", "10", "--json")
    done = fieldloop("advise", readings, *options)
    told = json.loads(done.out)
    assert told["kept"] == "time"
    assert told["route"]["name"] == "classical"
    assert told["split"]["wanted_width"] == pytest.approx(0.2)
    assert told["curve"]["points"][0]["row_count"] >= 10
    assert len(told["purchases"]) == len(told["curve"]["purchases"])


def test_training_heeds_groups_and_says_so(tmp_path, readings):
    out = tmp_path / "run"
    options = ("--target", "state", "--drop", "at", "--group", "machine", "--split", "80-20")
    done = fieldloop("train", readings, *options, "--candidate", "logistic", "-o", out)
    assert done.code == 0, done.err
    run = Run.load(out)
    assert (run.split.kept, run.split.fold_count) == ("groups", 5)
    assert run.split.test_count % 10 == 0
    assert (out / "model-card.md").exists()


def test_a_leak_stops_the_command_and_a_reason_lets_it_on(tmp_path, readings):
    frame = pd.read_csv(readings)
    frame["alarm"] = np.where(frame["state"] == "hot", "on", "off")
    frame.to_csv(readings, index=False)
    options = ("--target", "state", "--drop", "at", "--drop", "machine", "--candidate", "logistic")
    done = fieldloop("train", readings, *options, "-o", tmp_path / "run")
    assert done.code == 2
    assert "column 'alarm' corresponds one to one to the target" in done.err
    assert "--allow-leakage REASON" in done.err
    assert not (tmp_path / "run").exists()
    reason = "the alarm is what we imitate"
    done = fieldloop("train", readings, *options, "--allow-leakage", reason, "-o", tmp_path / "run")
    assert done.code == 0, done.err
    assert Run.load(tmp_path / "run").leakage_allowed == reason
    assert reason in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "stat"), "Did you mean state"),
        (("--target", "state", "--group", "machin"), "Did you mean machine"),
        (("--target", "state", "--points", "90"), "--points"),
        (("--target", "state"), "--time"),
    ],
)
def test_wrong_input_is_refused_in_words(readings, options, said):
    done = fieldloop("advise", readings, *options)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
