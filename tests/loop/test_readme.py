"""The README's commands, run as written, in one folder, in their order."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.support.brokers import needs_mosquitto
from tests.support.homes import make_home
from tests.support.waiting import wait_until

import fieldloop_cloud as fl
from fieldloop_cloud.fleet.simulate import DeviceProcess

README = Path(__file__).parents[2] / "README.md"

WINDOW_S = 0.5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280), needs_mosquitto]


def blocks(heading: str, language: str) -> list[str]:
    """Code blocks of one language under one heading."""
    section = README.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who reads the README and types what stands there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        beside = str(Path(sys.executable).parent)
        self.environment = {**os.environ, "PATH": f"{beside}:{os.environ['PATH']}"}

    def shell(self, text: str) -> str:
        done = self._run(["bash", "-e", "-c", text])
        return done.stdout

    def python(self, text: str) -> str:
        return self._run([sys.executable, "-c", text]).stdout

    def json(self, *words: str) -> dict:
        return json.loads(self._run([*words, "--json"]).stdout)

    def serve(self) -> subprocess.Popen:
        [text] = blocks("For the operator", "sh")[:1]
        return subprocess.Popen(text.split(), cwd=self.folder, env=self.environment)

    def _run(self, words: list[str]) -> subprocess.CompletedProcess:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture
def reader(tmp_path):
    # Ports of this test's own; everything else is as the README has it.
    make_home(tmp_path / "fleet")
    return Reader(tmp_path)


def test_the_three_users_paths_work_as_written(reader):
    for text in blocks("For the ML engineer", "sh"):
        reader.shell(text)
    for text in blocks("For the ML engineer", "python"):
        reader.python(text)
    answers = "".join(reader.shell(text) for text in blocks("For the integrator", "sh"))
    assert '"label": "setosa"' in answers
    for text in blocks("For the integrator", "python"):
        assert "setosa" in reader.python(text)
    server = reader.serve()
    try:
        _, looking, learning = blocks("For the operator", "sh")
        root = reader.folder / "devices" / "scope-1"
        send_everything_home(root)
        with DeviceProcess(root, name="scope-1") as device:
            truth = live(device, "inches", rounds=2)
            # The rate falls a little with what is spent of the day's budget.
            wait_until(
                lambda: len(samples(reader)) > 0.9 * len(truth), what="samples", timeout_s=60
            )
            reader.shell(looking)
            fill_in(reader.folder / "samples.csv", truth)
            reader.shell(learning)
            end = time.monotonic() + 60
            turn = 0
            while reader.json("fieldloop", "rollout", "status")["stage"] != "done":
                assert time.monotonic() < end, reader.json("fieldloop", "rollout", "status")
                live(device, f"trial{turn}", rounds=1)
                turn += 1
            after = live(device, "after", rounds=1)
            assert accuracy(device, after) > accuracy(device, truth) + 0.2
    finally:
        server.terminate()
        code = server.wait(30)
    assert code == 0


def send_everything_home(root: Path) -> None:
    """Have the device send all inputs for labelling, as an operator may set it."""
    with (root / "device.toml").open("a") as file:
        file.write(f"\n[telemetry]\nwindow_s = {WINDOW_S}\n")
        file.write("sample_random_rate = 1.0\nsample_budget_per_day = 9999\n")


def live(device: DeviceProcess, name: str, *, rounds: int) -> dict[str, str]:
    """Let a careless gardener measure petals in inches; returns the truth by row id."""
    data = fl.Dataset.load("sklearn:iris")
    noise = np.random.default_rng(len(name)).normal(0.0, 0.02, (rounds, *data.X.shape))
    truth = {}
    for number in range(rounds):
        rows = []
        for index, row in enumerate(data.X + noise[number]):
            row_id = f"{name}-{number}-{index}"
            measured = np.where(np.arange(len(row)) >= 2, row / 2.54, row)
            rows.append((row_id, [float(value) for value in measured]))
            truth[row_id] = str(data.labels[int(data.y[index])])
        device.feed(rows)
        device.wait_for([row_id for row_id, _ in rows], timeout_s=30)
        # A device sends a limited number of samples with each window.
        time.sleep(2 * WINDOW_S)
    return truth


def accuracy(device: DeviceProcess, truth: dict[str, str]) -> float:
    return float(np.mean([device.answers[row]["label"] == label for row, label in truth.items()]))


def samples(reader: Reader) -> list[dict[str, str]]:
    out = reader.folder / "look.csv"
    reader.json("fieldloop", "label", "export", "-o", str(out), "--force")
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def fill_in(path: Path, truth: dict[str, str]) -> None:
    """Write the labels into the exported file, as a person with a spreadsheet does."""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["label"] = truth.get(line["sample_id"], "")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
