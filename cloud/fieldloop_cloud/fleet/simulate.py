"""A field on one's desk: real device processes, and a sensor whose picture of the world changes.

`DeviceProcess` runs the real `fieldloop-device` in a process of its own, feeds it raw values and
collects its answers; it can be killed like a device that loses power. `SensorChange` alters images
as an ageing or displaced camera does. Nothing here knows the answers: who feeds, compares.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fieldloop.device_root import DeviceRoot
from fieldloop.errors import EnvironmentFaultError, NotConnectedError

STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorChange:
    """A change of a camera's picture.

    Attributes:
        contrast: Factor on the distance from the dark end; below 1 the picture fades.
        brightness: Added afterwards, in units of the value range.
        shift_rows: Pixels down (negative: up); what leaves the frame is lost.
        shift_columns: Pixels to the right.
        noise: Standard deviation of Gaussian noise, in units of the value range.
    """

    contrast: float = 1.0
    brightness: float = 0.0
    shift_rows: int = 0
    shift_columns: int = 0
    noise: float = 0.0

    def apply(
        self, images: NDArray[np.float32], *, max_value: float, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Return the changed images, clipped to 0 … `max_value`.

        Args:
            images: Shape (n, height, width, channels), float32, in the range 0 … `max_value`.
            max_value: Upper end of the range.
            rng: Source of the noise.
        """
        moved = np.zeros_like(images)
        height, width = images.shape[1:3]
        to_rows, from_rows = _overlap(self.shift_rows, height)
        to_columns, from_columns = _overlap(self.shift_columns, width)
        moved[:, to_rows, to_columns] = images[:, from_rows, from_columns]
        changed = moved * self.contrast + self.brightness * max_value
        changed += rng.normal(0.0, self.noise * max_value, size=images.shape)
        clipped: NDArray[np.float32] = np.clip(changed, 0.0, max_value).astype(np.float32)
        return clipped


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    if shift >= 0:
        return slice(shift, size), slice(0, size - shift)
    return slice(0, size + shift), slice(-shift, size)


class DeviceProcess:
    """One real device process under a root directory, as a context manager.

    Args:
        root: The device's root directory, provisioned and flashed.
        name: For messages; the device id.

    Attributes:
        answers: By row id, of all its lives.
        answer_count: Answers of the present life.

    Example:
        with DeviceProcess(root, name="pi-1") as device:
            device.feed([("row-1", [5.1, 3.5, 1.4, 0.2])])
            answers = device.wait_for(1, timeout_s=10)
    """

    def __init__(self, root: Path, *, name: str) -> None:
        self.root = root
        self.name = name
        self.answers: dict[str, dict[str, Any]] = {}
        self.answer_count = 0
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; answers of an earlier life are kept.

        Raises:
            EnvironmentFaultError: `fieldloop-device` is not installed beside this Python.
        """
        command = [_device_command(), "run", "--root", str(self.root), "--source", "stdin"]
        self.answer_count = 0
        log = (self.root / "log.txt").open("a", encoding="utf-8")
        with log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                # Ctrl-C belongs to us; we stop the device in order.
                start_new_session=True,
            )
        self._reader = threading.Thread(
            target=self._collect, args=(self._process,), name=f"{self.name}-answers", daemon=True
        )
        self._reader.start()

    def feed(self, rows: Sequence[tuple[str, Any]]) -> None:
        """Give raw rows as (id, raw value) pairs.

        Raises:
            NotConnectedError: The process is gone; the end of its log is in the error.
        """
        process = self._running()
        assert process.stdin is not None
        try:
            for row_id, raw in rows:
                process.stdin.write(json.dumps({"id": row_id, "x": raw}) + "\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise self._gone() from error

    def wait_for(self, row_ids: Sequence[str], *, timeout_s: float) -> list[dict[str, Any]]:
        """Return the answers to these rows, in their order.

        Raises:
            NotConnectedError: The process ended, or did not answer in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not all(row_id in self.answers for row_id in row_ids):
                left = deadline - time.monotonic()
                if left <= 0 or self._running().poll() is not None:
                    raise self._gone()
                self._changed.wait(min(left, 0.2))
        return [self.answers[row_id] for row_id in row_ids]

    def kill(self) -> None:
        """Take the power away: SIGKILL, no goodbye."""
        if self._process is not None:
            self._process.kill()
        self._reap()

    def status(self) -> dict[str, Any]:
        """Return what the agent last wrote to its `status.json`; empty before the first time."""
        path = DeviceRoot(self.root).status
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        return found

    def stop(self) -> None:
        """Ask the process to end (SIGTERM) and wait; kill it when it does not."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def _reap(self) -> None:
        if self._process is None:
            return
        self._process.wait()
        if self._reader is not None:
            self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        self._process = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise self._gone()
        return self._process

    def _gone(self) -> NotConnectedError:
        log = self.root / "log.txt"
        tail = log.read_text(encoding="utf-8")[-500:].strip() if log.exists() else ""
        return NotConnectedError(
            f"device {self.name} does not answer{': ' + tail if tail else ''}",
            where=str(self.root),
            advice="Look into its log.txt and run `fieldloop-device doctor` on its root.",
        )

    def _collect(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                answer = json.loads(line)
            except json.JSONDecodeError:
                # The last line of a killed process may be cut short; it was never an answer.
                continue
            with self._changed:
                self.answers[str(answer.get("id"))] = answer
                self.answer_count += 1
                self._changed.notify_all()


def _device_command() -> str:
    beside = Path(sys.executable).parent / "fieldloop-device"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("fieldloop-device")
    if found is None:
        raise EnvironmentFaultError(
            "the command fieldloop-device is not installed",
            advice="Install it beside the workstation: pip install fieldloop-device.",
        )
    return found
