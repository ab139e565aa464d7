"""Workers: killed at the timeout, on any exception, and with their parent."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from fieldloop_cloud.compile.worker import run_worker


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Write a worker module and return its name and a job directory."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = tmp_path / "job"
    job.mkdir()

    def write(body):
        (tmp_path / "own_worker.py").write_text(textwrap.dedent(body))
        return "own_worker", job

    return write


SLEEPER = """
    import os, subprocess, sys, time
    from pathlib import Path
    from fieldloop_cloud.compile.worker import die_with_parent, report
    die_with_parent()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(sys.argv[1], "pids").write_text(f"{os.getpid()} {child.pid}")
    report("sleep", 0.5, "asleep")
    time.sleep(600)
"""


def gone(job, *, within_s=20.0):
    """Whether the worker and what it started end in time."""
    pids = [int(pid) for pid in (job / "pids").read_text().split()]
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        alive = [
            pid
            for pid in pids
            if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        ]
        if not alive:
            return True
        time.sleep(0.05)
    return False


def test_progress_comes_back_and_other_output_is_ignored(worker):
    module, job = worker("""
        import sys
        from fieldloop_cloud.compile.worker import report
        print("a library talks")
        print("fieldloop-progress {broken")
        report("train", 0.25, "epoch 1")
        sys.stderr.write("the last words")
        sys.exit(7)
    """)
    said = []
    end = run_worker(module, job, progress=lambda *report: said.append(report))
    assert said == [("train", 0.25, "epoch 1")]
    assert (end.code, end.timed_out, end.tail) == (7, False, "the last words")


def test_a_worker_is_killed_at_its_timeout_with_all_it_started(worker):
    module, job = worker(SLEEPER)
    end = run_worker(module, job, timeout_s=3.0)
    assert end.timed_out
    assert end.code == -signal.SIGKILL
    assert gone(job)


def test_an_interrupt_in_the_parent_kills_the_worker(worker):
    module, job = worker(SLEEPER)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(module, job, progress=interrupt)
    assert gone(job)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_worker_does_not_survive_its_parent(worker, how):
    module, job = worker("""
        import os, sys, time
        from pathlib import Path
        from fieldloop_cloud.compile.worker import die_with_parent
        die_with_parent()
        Path(sys.argv[1], "pids").write_text(str(os.getpid()))
        time.sleep(600)
    """)
    code = (
        "import pathlib, sys; from fieldloop_cloud.compile.worker import run_worker; "
        "run_worker(sys.argv[1], pathlib.Path(sys.argv[2]))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, module, str(job)], stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 30
    while not (job / "pids").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(parent.pid, how)
    parent.wait()
    assert gone(job)


def test_a_finished_worker_ends_cleanly_although_it_watches_its_parent(worker):
    module, job = worker("""
        import json, sys
        from pathlib import Path
        from fieldloop_cloud.compile.worker import die_with_parent
        from fieldloop_cloud.files import write_file
        die_with_parent()
        write_file(Path(sys.argv[1], "out.json"), json.dumps([1]).encode())
    """)
    end = run_worker(module, job)
    assert (end.code, end.tail) == (0, "")
    assert json.loads((job / "out.json").read_text()) == [1]
    assert {path.name for path in job.iterdir()} == {"out.json", "stderr.txt"}
