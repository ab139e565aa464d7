"""The keeper of a trial process: orders, waits, kills.

A search needs one; it is kept warm for the next search of the same program.
"""

import atexit
import contextlib
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fieldloop_cloud.compile.worker import Progress, forward, kill, last_line, quiet, start
from fieldloop_cloud.select.search.orders import RESULT_MARK, Order, Reply

_MODULE = "fieldloop_cloud.select.search.child"
_GRACE_S = 0.2
"""A trial that stops by itself at its deadline gets this long to say so."""


class Evaluator:
    """One trial process, started when it is first needed and again after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None

    def warm_up(self) -> None:
        """Start the process without waiting for it."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            handle, name = tempfile.mkstemp(prefix="fieldloop-trials-", suffix=".log")
            os.close(handle)
            self._log = Path(name)
            self._process = start(_MODULE, Path("-"), self._log)

    def evaluate(self, order: Order, *, progress: Progress = quiet) -> Reply:
        """Run a trial; the process is killed when the order's time is up.

        Whatever happens there comes back as a reply, never as an exception.
        """
        for _ in range(2):
            self.warm_up()
            reply = self._ordered(order, progress)
            if reply is not None:
                return reply
        return Reply(reason=f"the trial process does not start: {self._said()}")

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        kill(process)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if self._log is not None:
            self._log.unlink(missing_ok=True)

    def _ordered(self, order: Order, progress: Progress) -> Reply | None:
        """Return the reply; None if the process had ended before it took the order."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            kill(process)

        timer = threading.Timer(max(0.0, order.left_s) + _GRACE_S, expire)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            process.stdin.flush()
            return self._awaited(process, progress, expired, order.left_s)
        except BrokenPipeError:
            return None
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()

    def _awaited(
        self,
        process: "subprocess.Popen[bytes]",
        progress: Progress,
        expired: threading.Event,
        left_s: float,
    ) -> Reply | None:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode(errors="replace")
            if text.startswith(RESULT_MARK):
                return msgspec.json.decode(text.removeprefix(RESULT_MARK), type=Reply)
            forward(line, progress)
        code = process.wait()
        if expired.is_set():
            return Reply(reason=f"it was stopped when its {left_s:.0f} s were used up")
        if code == 0:
            return None  # it had been idle for too long
        return Reply(reason=f"its process ended with code {code}: {self._said()}")

    def _said(self) -> str:
        return last_line(self._log.read_text(errors="replace")) if self._log else "no message"


_idle: list[Evaluator] = []
_lock = threading.Lock()


@contextlib.contextmanager
def leased_evaluator() -> Iterator[Evaluator]:
    """Yield an evaluator that nobody else uses meanwhile; its process stays for the next."""
    atexit.register(close_idle)
    with _lock:
        evaluator = _idle.pop() if _idle else Evaluator()
    evaluator.warm_up()
    try:
        yield evaluator
    finally:
        with _lock:
            _idle.append(evaluator)


def close_idle() -> None:
    """End the processes that nobody uses."""
    with _lock:
        while _idle:
            _idle.pop().close()
