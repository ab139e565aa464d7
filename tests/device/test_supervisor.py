import importlib.resources
import shutil
import socket
import subprocess

import pytest
from tests.support.devices import Device
from tests.support.waiting import wait_until

from fieldloop_device.agent import Agent


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield server


def heard(server):
    messages = []
    while True:
        try:
            messages.append(server.recv(100).decode())
        except BlockingIOError:
            return messages


def test_an_agent_under_systemd_says_how_it_is(systemd, tmp_path, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    messages = []
    with Agent(Device(tmp_path / "device").path) as agent:
        assert agent.predict([1.0, 2.0]).label == "bad"
        wait_until(lambda: messages.extend(heard(systemd)) or messages.count("WATCHDOG=1") >= 3)
    messages += heard(systemd)
    assert "READY=1" in messages[:2]
    assert "STOPPING=1" in messages


def test_an_agent_that_no_longer_records_is_not_alive(systemd, tmp_path, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    agent = Agent(Device(tmp_path / "device").path)
    calls = []

    def broken(**_options):
        calls.append(1)
        raise RuntimeError("a bug")

    with agent, monkeypatch.context() as patch:
        patch.setattr(agent.recorder, "record", broken)
        wait_until(lambda: calls)
        heard(systemd)
        wait_until(lambda: len(calls) >= 2)
        assert "WATCHDOG=1" not in heard(systemd)


def test_without_a_watchdog_there_is_no_beat(systemd, tmp_path, monkeypatch):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    with Agent(Device(tmp_path / "device").path):
        pass
    assert heard(systemd) == ["READY=1", "STOPPING=1"]


def test_a_supervisor_that_is_gone_disturbs_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with Agent(Device(tmp_path / "device").path) as agent:
        assert agent.predict([1.0, 2.0]).label == "bad"


def test_the_unit_travels_with_the_package():
    unit = importlib.resources.files("fieldloop_device") / "fieldloop-device.service"
    text = unit.read_text("utf-8")
    assert "Type=notify" in text
    assert "fieldloop-device run --root" in text
    if shutil.which("systemd-analyze"):
        with importlib.resources.as_file(unit) as path:
            done = subprocess.run(
                ["systemd-analyze", "verify", str(path)],
                capture_output=True,
                text=True,
                check=False,
            )
        assert "Unknown" not in done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_the_unit_may_do_little():
    unit = importlib.resources.files("fieldloop_device") / "fieldloop-device.service"
    with importlib.resources.as_file(unit) as path:
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-200:]
