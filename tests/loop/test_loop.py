"""The whole loop as a user plays it: the real command, real devices, a real broker."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.support.brokers import needs_mosquitto
from tests.support.waiting import wait_until

from fieldloop_cloud.loop import LoopSettings, run_loop

FIELDLOOP = Path(sys.executable).with_name("fieldloop")

pytestmark = pytest.mark.slow


def start_demo(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(FIELDLOOP), "demo", "--out", str(out), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of(out: Path) -> list[psutil.Process]:
    """Every living process that has the demo's directory on its command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(out) in word for word in process.info["cmdline"] or ())
    ]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    process = start_demo(out)
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr
    return out, json.loads(stdout)


@needs_mosquitto
def test_accuracy_falls_with_the_change_and_comes_back(demo):
    _, result = demo
    before, under, after = (phase["accuracy"] for phase in result["phases"])
    assert under["high"] < before["low"]
    assert after["low"] > under["high"]
    assert after["value"] > 0.85


@needs_mosquitto
def test_the_change_is_noticed_and_nothing_before_it(demo):
    _, result = demo
    assert result["false_alarm_count"] == 0
    assert any(verdict["device"] is None for verdict in result["drift"])


@needs_mosquitto
def test_nothing_is_lost_though_the_broker_was_away_and_a_device_was_killed(demo):
    _, result = demo
    assert result["broker"] == "mosquitto"
    assert result["lost"] == 0
    assert len(result["counts"]) >= 3
    assert all(item["windows"] > 0 for item in result["counts"])
    told = " ".join(text for _, text in result["events"])
    assert "the broker is away" in told
    assert "SIGKILL" in told


@needs_mosquitto
def test_every_device_reports_the_second_release(demo):
    _, result = demo
    second = result["releases"][1]
    assert result["rollout"] == "done"
    assert set(result["running"].values()) == {second["sha256"]}
    assert second["release"] > result["releases"][0]["release"]


@needs_mosquitto
def test_the_report_is_one_file_with_plots(demo):
    out, _ = demo
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") >= 3
    assert 'src="http' not in page
    assert "<script" not in page


@needs_mosquitto
def test_no_process_is_left_behind(demo):
    out, _ = demo
    assert processes_of(out) == []


@pytest.mark.parametrize("stage", ["train", "field"])
def test_ctrl_c_leaves_no_process_behind(tmp_path, stage):
    out = tmp_path / "out"
    process = start_demo(out)
    try:
        if stage == "train":
            wait_until(lambda: len(processes_of(out)) > 0, what="the demo", timeout_s=60)
            time.sleep(2.0)
        else:
            devices = out / "devices"
            wait_until(
                lambda: len(list(devices.glob("*/status.json"))) >= 3,
                what="three devices",
                timeout_s=200,
            )
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    wait_until(lambda: processes_of(out) == [], what="the end of all children", timeout_s=20)


def test_ctrl_c_while_it_trains_ends_the_demo_and_not_the_training_alone(tmp_path):
    def progress(stage: str, _fraction: float, text: str) -> None:
        if stage == "trial" and text.startswith("trial 2:"):
            raise KeyboardInterrupt

    settings = LoopSettings(candidates=("naive-bayes", "logistic"))
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path / "out", settings=settings, progress=progress)
    assert (tmp_path / "out" / "runs" / "first" / "run.json").exists()
    assert not (tmp_path / "out" / "devices").exists()


def test_a_foreign_directory_is_not_touched(tmp_path):
    treasure = tmp_path / "thesis.txt"
    treasure.write_text("years of work")
    process = start_demo(tmp_path)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--out" in stderr + stdout
    assert "Traceback" not in stderr
    assert treasure.read_text() == "years of work"
