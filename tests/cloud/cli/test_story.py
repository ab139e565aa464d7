"""The story by commands alone: train, bundle, provision, flash, serve, roll out, label, retrain."""

import csv
import io
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import SVC
from tests.support.commands import fieldloop
from tests.support.homes import free_port
from tests.support.releases import PROFILE, publish

from fieldloop.bundle import unpack
from fieldloop.histogram import pack_counts
from fieldloop.integrity import PublicKey, TrustPolicy
from fieldloop.state import ReportedState
from fieldloop.telemetry import CONFIDENCE_EDGES, Clock, FieldSample, Resources, TelemetryWindow
from fieldloop_cloud.cli.output import DURATION, plain, table
from fieldloop_cloud.compile.quantize import rows_needed
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.fleet.store import Store
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.train.run import Run
from fieldloop_device import Runtime

COMMAND = Path(sys.executable).parent / "fieldloop"
CLOCK = Clock(mono_ms=0, wall_ms=0)


def succeeded(*words):
    done = fieldloop(*words, "--json")
    assert done.code == 0, done.err
    return done.result


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A trained, released and flashed model in a home of its own."""
    path = tmp_path_factory.mktemp("story")
    trained = succeeded(
        "train", "sklearn:iris", "--candidate", "logistic", "--epsilon", "0.03", "-o",
        path / "runs" / "first",
    )  # fmt: skip
    made = succeeded(
        "bundle", path / "runs" / "first", "--name", "iris", "--home", path / "fleet", "-o",
        path / "iris.flb",
    )  # fmt: skip
    return path, trained, made


def test_a_run_its_bundle_and_the_flashed_device_are_one_model(released, tmp_path):
    path, trained, made = released
    run = Run.load(path / "runs" / "first")
    assert trained["chosen"] == run.chosen.name
    assert {item["name"] for item in trained["front"]} == {item.name for item in run.front}
    assert {item["gate"]["epsilon"] for item in trained["front"]} == {0.0, 0.03}
    assert Path(trained["report"]).is_file()
    home = Home(path / "fleet")
    trust = TrustPolicy(keys=(PublicKey.from_pem(home.public_key_file.read_bytes()),))
    content = unpack((path / "iris.flb").read_bytes(), trust=trust)
    assert content.sha256 == made["sha256"]
    device = succeeded(
        "provision", "pi-7", "--class", "x86", "--to", tmp_path / "dev", "--home", home.path
    )
    flashed = succeeded("flash", path / "iris.flb", "--to", device["root"])
    assert (flashed["device_id"], flashed["slot"], flashed["sha256"]) == (
        "pi-7", "a", made["sha256"]
    )  # fmt: skip


def test_inspect_tells_what_is_in_a_bundle_and_in_a_flatbuffer(released):
    path, _, made = released
    found = succeeded("inspect", path / "iris.flb", "--home", path / "fleet")
    assert found["sha256"] == made["sha256"]
    assert found["lineage"]["candidate"] == "logistic"
    facts = succeeded("inspect", path / "runs" / "first" / "models" / "logistic.float32.tflite")
    assert facts["op_versions"]["FULLY_CONNECTED"] >= 1
    public = path / "fleet" / "keys" / "release.pub.pem"
    done = fieldloop("inspect", path / "iris.flb", "--trusted", public, "--home", path / "none")
    assert (done.code, "logistic" in done.out) == (0, True)


def test_compile_writes_a_flatbuffer_and_its_signature(tmp_path):
    X, y = load_iris(return_X_y=True)
    joblib.dump(RandomForestClassifier(5, random_state=0).fit(X, y), tmp_path / "m.joblib")
    np.savez(tmp_path / "x.npz", X=X)
    words = ["compile", tmp_path / "m.joblib", "--trust", "--example", tmp_path / "x.npz", "-o",
             tmp_path / "m.tflite"]  # fmt: skip
    done = succeeded(*words)
    assert done["evidence"]["label_changes"] == 0
    assert (tmp_path / "m.tflite").stat().st_size == done["size_bytes"]
    assert json.loads((tmp_path / "m.signature.json").read_text())["task"] == "classification"
    again = fieldloop(*words)
    assert (again.code, "--force" in again.err) == (2, True)
    assert fieldloop(*words, "--force").code == 0


def test_a_model_of_ones_own_goes_from_a_file_to_a_device_by_commands(tmp_path):
    X, y = load_iris(return_X_y=True)
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"]).assign(batch=np.where(y == 1, "1", "2"))
    words = np.array(["setosa", "versicolor", "virginica"])[y]
    coded = ColumnTransformer([("batch", OneHotEncoder(), ["batch"])], remainder="passthrough")
    model = make_pipeline(coded, RandomForestClassifier(9, random_state=0)).fit(frame, words)
    joblib.dump(model, tmp_path / "m.joblib")
    frame.to_parquet(tmp_path / "example.parquet")
    succeeded("compile", tmp_path / "m.joblib", "--trust", "--example",
              tmp_path / "example.parquet", "-o", tmp_path / "m.tflite")  # fmt: skip
    shuffled = frame[["d", "batch", "c", "b", "a"]].assign(kind=words, note="x")
    shuffled.to_csv(tmp_path / "rows.csv", index=False)
    words_given = ["bundle", tmp_path / "m.tflite", "--home", tmp_path / "fleet", "--reference",
                   tmp_path / "rows.csv", "--target", "kind"]  # fmt: skip
    made = succeeded(*words_given, "--device-class", "x86", "-o", tmp_path / "m.flb")
    assert made["name"] == "m"
    found = succeeded("inspect", tmp_path / "m.flb", "--home", tmp_path / "fleet")
    assert found["manifest"]["variants"][0]["score"] == pytest.approx(model.score(frame, words))
    assert found["lineage"]["candidate"] == "Pipeline"
    home = Home(tmp_path / "fleet")
    trust = TrustPolicy(keys=(PublicKey.from_pem(home.public_key_file.read_bytes()),))
    with Runtime.open(tmp_path / "m.flb", trust=trust) as runtime:
        said = [runtime.predict(row).label for row in frame.to_dict("records")[::10]]
    assert said == model.predict(frame)[::10].tolist()
    for words, told in (
        ([*words_given], "which devices"),
        ([*words_given[:4], "--device-class", "x86"], "needs reference rows"),
        ([*words_given[:-1], "sort", "--device-class", "x86"], "no column 'sort'"),
    ):
        refused = fieldloop(*words)
        assert (refused.code, told in refused.err) == (2, True), refused.err
    (tmp_path / "m.tflite").write_bytes(b"another")
    assert "that of another one" in fieldloop(*words_given).err
    (tmp_path / "m.evidence.json").unlink()
    assert "fieldloop compile" in fieldloop(*words_given).err


def test_reference_rows_are_for_a_flatbuffer_only(released, tmp_path):
    path, _, _ = released
    np.savez(tmp_path / "x.npz", X=np.zeros((3, 4)))
    done = fieldloop("bundle", path / "runs" / "first", "--reference", tmp_path / "x.npz")
    assert (done.code, "its own reference rows" in done.err) == (2, True)


def test_compile_auto_shows_what_each_precision_reached(tmp_path):
    X, y = load_digits(return_X_y=True)
    joblib.dump(SVC(gamma=0.001).fit(X[::2], y[::2]), tmp_path / "m.joblib")
    np.savez(tmp_path / "x.npz", X=X[::2])
    np.savez(tmp_path / "held.npz", X=X[1::2])
    words = ["compile", tmp_path / "m.joblib", "--trust", "--example", tmp_path / "x.npz", "-o",
             tmp_path / "m.tflite", "--precision", "auto"]  # fmt: skip
    done = succeeded(*words, "--held-out", tmp_path / "held.npz")
    rungs = {item["precision"]: item for item in done["evidence"]["rungs"]}
    assert list(rungs) == ["float32", "float16", "int8"]
    assert done["precision"] != "float32"
    assert rungs[done["precision"]]["gate"]["verdict"] == "accepted"
    assert rungs["float16"]["gate"]["row_count"] == len(X[1::2])
    strict = fieldloop(*words, "--force", "--epsilon", "0.0001")
    assert strict.code == 0
    assert "→ float32" in strict.out
    assert "not proven" in strict.out
    assert f"at least {rows_needed(0.0001)} rows are needed" in strict.out


def test_network_settings_given_once_are_kept(tmp_path):
    home = tmp_path / "fleet"
    succeeded("provision", "pi-1", "--class", "x86", "--home", home, "--host", "gate.local",
              "--broker-port", "1999", "--http-port", "1998")  # fmt: skip
    succeeded("provision", "pi-2", "--class", "pi4", "--home", home)
    settings = Home(home).settings()
    assert (settings.broker.host, settings.broker.port, settings.http.port) == (
        "gate.local", 1999, 1998
    )  # fmt: skip
    assert 'host = "gate.local"' in (home / "devices" / "pi-2" / "device.toml").read_text()


@pytest.fixture
def fleet(tmp_path):
    """A home with two devices and a release."""
    home = Home(tmp_path / "fleet").create()
    for device in ("pi-1", "pi-2"):
        succeeded("provision", device, "--class", "x86", "--home", home.path)
    succeeded("provision", "board-1", "--class", "mcu", "--home", home.path)
    return home, publish(home)


def test_a_rollout_is_started_paused_resumed_and_aborted(fleet):
    home, bundle = fleet
    at_home = ("--home", home.path)
    started = succeeded("rollout", "start", bundle.stem[:12], "--deadline", "5m", *at_home)
    assert list(started["devices"]) == ["pi-1", "pi-2"], "the bundle is not for board-1"
    assert (started["stage"], started["deadline_s"]) == ("canary", 300.0)
    assert started["url"].endswith(f"/releases/{bundle.stem}.flb")
    assert succeeded("rollout", "pause", "--reason", "lunch", *at_home)["reason"] == "lunch"
    assert succeeded("rollout", "resume", *at_home)["stage"] == "canary"
    assert succeeded("rollout", "status", *at_home)["devices"]["pi-1"]["state"] == "updating"
    assert fieldloop("rollout", "start", bundle, *at_home).code == 2
    assert succeeded("rollout", "abort", *at_home)["stage"] == "aborted"
    assert "aborted" in fieldloop("rollout", "status", *at_home).out
    wrong = fieldloop("rollout", "start", bundle, "--device", "board-1", *at_home)
    assert (wrong.code, "board-1" in wrong.err) == (1, True)


def _window(seq, at_ms, counts):
    cells = len(CONFIDENCE_EDGES) + 1
    rows = sum(counts)
    confidence = pack_counts([0] * (cells - 1) + [rows // 2])
    clock = Clock(mono_ms=at_ms, wall_ms=at_ms, synchronized=True)
    return {
        "boot": 1, "seq": seq, "start": clock, "end": clock, "prediction_count": rows,
        "feature_counts": (tuple(pack_counts(counts)),),
        "confidence_counts": (tuple(confidence), tuple(confidence)),
    }  # fmt: skip


def test_fleet_commands_show_what_devices_said(fleet):
    home, bundle = fleet
    at_home = ("--home", home.path)
    now_ms = time.time_ns() // 1_000_000
    with Store(home.store_file) as store:
        for device in ("pi-1", "pi-2"):
            state = ReportedState(
                boot=1, running_sha256=bundle.stem, release=1, phase="committed", backend="b"
            )
            store.put_reported(device, state)
            for seq in range(1, 7):
                # The newest windows of two cycles; pi-2's sensor reads high in all of them.
                at_ms = now_ms - 1000 - (6 - seq) * 15 * 1000
                counts = [0, 0, 0, 60] if device == "pi-2" else [15, 15, 15, 15]
                window = TelemetryWindow(
                    model=bundle.stem[:16],
                    stuck_counts=(60,) if device == "pi-2" else (),
                    resources=Resources(rss_kib=50_000, cpu_ms=10, temperature_c=85.0),
                    **_window(seq, at_ms, counts),
                )
                store.record(device, "tel", window)
    found = succeeded("fleet", "drift", "--period", "45s", *at_home)[0]
    drifted = {(v["quantity"], v["device"]) for v in found["verdicts"] if v["drifted"]}
    assert ("current", "pi-2") in drifted
    assert ("current", "pi-1") not in drifted
    assert ("current", None) not in drifted
    assert 0.9 < found["estimated_accuracy"]["accuracy"] <= 1.0
    assert PROFILE.confidence_accuracy[0][-1] == 1.0
    status = succeeded("fleet", "status", *at_home)
    assert (status["provisioned"], status["stored"]) == (3, 12)
    assert status["running"] == {bundle.stem: 2}
    hot = ["85 °C"]
    assert status["warnings"] == {"pi-1": hot, "pi-2": ["current is stuck", *hot]}
    devices = {item["device"]: item for item in succeeded("fleet", "devices", *at_home)}
    assert devices["pi-1"]["condition"]["rss_bytes"] == 50_000 * 1024
    assert devices["pi-2"]["warnings"] == ["current is stuck", *hot]
    assert devices["pi-1"]["counts"]["windows"] == 6
    assert devices["board-1"]["running_sha256"] == ""
    for words in (["status"], ["devices"], ["drift", "--period", "45s", "--all"]):
        done = fieldloop("fleet", *words, *at_home)
        assert (done.code, "pi-2" in done.out) == (0, True)
    assert "check with labels" in fieldloop("fleet", "drift", "--period", "45s", *at_home).out
    assert fieldloop("fleet", "drift", "--model", "ffff", *at_home).code == 2


def test_labels_come_back_and_a_better_challenger_replaces_the_champion(released):
    path, _, made = released
    at_home = ("--home", path / "fleet")
    data = Dataset.load("sklearn:iris")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(data), 200)
    truth = {}
    with Store(path / "fleet" / "store.sqlite") as store:
        for number, row in enumerate(rows):
            values = data.X[row] + [0.0, 2.5, 2.0, 0.0] + rng.normal(scale=0.1, size=4)
            sample = FieldSample(
                boot=1, seq=number + 1, at=CLOCK, model=made["sha256"][:16],
                sample_id=f"s{number}", raw=[float(value) for value in values],
            )  # fmt: skip
            store.record("pi-1", "smp", sample)
            truth[sample.sample_id] = data.label(int(row))
    exported = path / "samples.csv"
    assert succeeded("label", "export", "-o", exported, *at_home)["sample_count"] == 200
    with exported.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with exported.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows({**line, "label": truth[line["sample_id"]]} for line in lines)
    assert succeeded("label", "import", exported, *at_home)["label_count"] == 200
    first, second = path / "runs" / "first", path / "runs" / "second"
    done = succeeded("retrain", first, "sklearn:iris", "--epsilon", "0.03", "-o", second, *at_home)
    assert 0.03 in {item["gate"]["epsilon"] for item in done["front"]}
    assert done["gate"]["accepted"]
    made = succeeded("bundle", second, *at_home)
    assert (made["release"], made["name"]) == (2, "second")
    refused = fieldloop("retrain", second, "sklearn:iris", "-o", path / "runs" / "third", *at_home)
    assert refused.code == 1
    assert "not shown to be better" in refused.err


@contextmanager
def _serving(home):
    """Start the server; yields its process and its release port."""
    for _ in range(3):
        ports = free_port(), free_port()
        command = [COMMAND, "serve", "--home", home, "--json", "--broker-port", str(ports[0]),
                   "--http-port", str(ports[1])]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            ready = json.loads(process.stdout.readline())
            # Another program on this machine may have taken a port since it was found free.
            if "cannot listen" in ready.get("what", ""):
                continue
            try:
                assert ready["ready"]
                yield process, ports[1]
            finally:
                process.kill()
            return


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_when_it_is_ready_and_ends_cleanly(tmp_path, number):
    with _serving(tmp_path / "fleet") as (process, port):
        process.send_signal(number)
        assert process.wait(30) == 0
    with socket.create_server(("127.0.0.1", port)):
        pass  # nothing of the server is left that would hold it


def test_ctrl_c_during_training_leaves_no_half_run(tmp_path):
    command = [COMMAND, "train", "sklearn:digits", "-o", "run"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "measuring" in line:
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.rstrip().endswith("error: interrupted")
    assert "Traceback" not in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_doctor_finds_a_key_that_others_can_read(fleet):
    home, _ = fleet
    found = {item["check"]: item["level"] for item in succeeded("doctor", "--home", home.path)}
    assert found["signing key"] == "ok"
    assert found["numpy"] == "ok"
    home.signing_key_file.chmod(0o644)
    done = fieldloop("doctor", "--home", home.path, "--json")
    assert done.code == 1
    bad = [item for item in done.result if item["level"] == "error"]
    assert [item["check"] for item in bad] == ["signing key"]
    assert "chmod 600" in bad[0]["remedy"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5h", 5400), ("10m", 600), ("2d", 172800)]
)
def test_durations_are_read_as_people_write_them(text, seconds):
    assert DURATION.convert(text, None, None) == seconds


def test_results_become_json_and_tables():
    result = plain({1: (np.float32(0.5), Path("a")), "nan": float("nan"), "set": {True}})
    assert json.loads(json.dumps(result)) == {"1": [0.5, "a"], "nan": None, "set": [True]}
    console = Console(record=True, width=60, file=io.StringIO())
    console.print(table("t", ("a", "b"), [(None, 1.23456789), ("x", True)]))
    assert "1.235" in console.export_text()
