"""`fieldloop-device run` as a real process that is fed over its standard input."""

import json
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self


class DeviceProcess:
    """One start of the agent.

    Attributes:
        answers: Lines it has answered, in order.
        errors: What it wrote to standard error; complete when it has ended.
    """

    def __init__(self, root: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fieldloop_device.cli", "run", "--root", str(root), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._queue: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.answered_count = 0
        self.errors = ""
        self._readers = [
            threading.Thread(target=self._read_answers),
            threading.Thread(target=self._read_errors),
        ]
        for reader in self._readers:
            reader.start()

    def ask(self, raw: object, *, timeout_s: float = 30.0) -> dict[str, Any]:
        """Give one input and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"x": raw}) + "\n")
        answer = self._queue.get(timeout=timeout_s)
        self.answered_count += 1
        return answer

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, nobody is told."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        code = self._process.wait(timeout=60)
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:  # a line that the killed process never read
                continue
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._queue.put(json.loads(line))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self.errors = self._process.stderr.read()
