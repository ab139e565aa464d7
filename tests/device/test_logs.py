"""Log lines as systemd's journal wants them."""

import logging
import os
import subprocess
import sys

import pytest
from tests.support.devices import Device

from fieldloop_device.logs import JournalFormatter


def run_with_stderr(path, root, **environment):
    """Run the agent with a file as standard error; return what it wrote there."""
    with path.open("wb") as file:
        found = os.fstat(file.fileno())
        stream = environment.pop("stream", f"{found.st_dev}:{found.st_ino}")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "fieldloop_device.cli",
                "-v",
                "run",
                "--root",
                str(root),
                "--once",
            ],
            input=b'{"x": [1.0, 2.0]}\n',
            stdout=subprocess.DEVNULL,
            stderr=file,
            env={**os.environ, "JOURNAL_STREAM": stream},
            check=True,
        )
    assert done.returncode == 0
    return [line for line in path.read_text().splitlines() if "fieldloop_device" in line]


def test_in_the_journal_every_line_has_its_priority(tmp_path):
    device = Device(tmp_path / "device")
    lines = run_with_stderr(tmp_path / "stderr", device.path)
    assert any(line.startswith("<6>fieldloop_device") for line in lines)
    assert all(line.startswith("<") for line in lines)


def test_elsewhere_lines_are_for_people(tmp_path):
    device = Device(tmp_path / "device")
    lines = run_with_stderr(tmp_path / "stderr", device.path, stream="1:2")
    assert any(line.startswith("INFO fieldloop_device") for line in lines)


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
    ],
)
def test_priorities_are_syslogs(level, priority):
    record = logging.LogRecord("a", level, "", 0, "one\ntwo", None, None)
    assert JournalFormatter().format(record) == f"<{priority}>a: one\n<{priority}>two"
