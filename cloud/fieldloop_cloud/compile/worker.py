"""Work that may abort or hang, in a child process that can be killed.

TensorFlow takes seconds to import and its converter can take the whole process down, so training
and conversion run as `python -m MODULE JOB_DIR`. Data go through files in the job's directory;
progress comes back as JSON lines. The child dies with its parent: it watches its standard input,
which closes however the parent ends.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[str, float, str], None]
"""Called with the stage's name, the fraction done (0 … 1), and a sentence for people."""

_MARK = "fieldloop-progress "
_TAIL_CHARS = 400


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker ended.

    Attributes:
        code: Exit code; negative for a signal.
        timed_out: Whether it was killed because its time was up.
        tail: The end of what it wrote to standard error.
    """

    code: int
    timed_out: bool
    tail: str


def quiet(stage: str, fraction: float, text: str) -> None:
    """Ignore progress."""


def run_worker(
    module: str, job: Path, *, timeout_s: float | None = None, progress: Progress = quiet
) -> WorkerEnd:
    """Run a worker to its end; it is killed at the timeout and on any exception here.

    Args:
        module: Module to run; its only argument is `job`.
        job: Directory with the job's files; `stderr.txt` is written there.
        timeout_s: Hard limit in seconds.
        progress: Receives what the worker reports.
    """
    log = job / "stderr.txt"
    process = start(module, job, log)
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        kill(process)

    timer = threading.Timer(timeout_s, expire) if timeout_s is not None else None
    try:
        if timer is not None:
            timer.daemon = True
            timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            forward(line, progress)
        process.wait()
    finally:
        if timer is not None:
            timer.cancel()
        kill(process)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
    tail = log.read_text(errors="replace")[-_TAIL_CHARS:].strip()
    return WorkerEnd(code=process.returncode, timed_out=expired.is_set(), tail=tail)


def start(module: str, job: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start a worker in a process group of its own; its standard error goes to `log`."""
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",  # a worker's warnings go to its log, never stop it
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "-1"),
        "KERAS_BACKEND": "tensorflow",
    }
    with log.open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
        )


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a worker and what it started."""
    # The worker leads its own group, so what it started goes with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def forward(line: bytes, progress: Progress) -> None:
    """Pass on a line if it is progress."""
    text = line.decode(errors="replace")
    if not text.startswith(_MARK):
        return  # libraries print too
    try:
        stage, fraction, sentence = json.loads(text.removeprefix(_MARK))
    except ValueError:
        return
    progress(str(stage), float(fraction), str(sentence))


def report(stage: str, fraction: float, text: str) -> None:
    """Send progress from inside a worker."""
    sys.stdout.write(_MARK + json.dumps([stage, fraction, text]) + "\n")
    sys.stdout.flush()


def die_with_parent() -> None:
    """End this worker as soon as its parent is gone, however that came about."""

    def watch() -> None:
        # The raw descriptor: a thread inside sys.stdin would hold its lock at shutdown.
        while os.read(0, 1):
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()


def last_line(text: str) -> str:
    """Return the last line that says something, at most 300 characters of it."""
    lines: list[Any] = [line.strip() for line in text.splitlines() if line.strip()]
    return str(lines[-1])[:300] if lines else "no message"
