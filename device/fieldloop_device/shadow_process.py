"""The process in which a challenger lives: whatever it does there, the champion goes on.

A model is code, and one that passed its golden replay can still crash on some later input. So the
challenger has a process of its own, at the lowest priority and with limits on memory and files. It
ends with its parent.

Run as `python -m fieldloop_device.shadow_process ROOT DESCRIPTOR`; requests come and replies go
over the socket of that number. The parent's requests are pickles, because a raw input may be any
object; the replies come from the model's side and are plain MessagePack.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from fieldloop.device_root import DeviceRoot
from fieldloop.errors import FieldloopError, GateError, ModelRuntimeError
from fieldloop.signature import Category
from fieldloop_device.config import load_config, read_trust
from fieldloop_device.runtime import Runtime, read_bundle
from fieldloop_device.selftest import child_environment, limit_process, replay
from fieldloop_device.shadow_tally import question, said

_HEAD = struct.Struct(">I")
_MAX_REPLY_BYTES = 1 << 20
_START_TIMEOUT_S = 120.0
_ANSWER_TIMEOUT_S = 30.0
_PR_SET_PDEATHSIG = 1
_LOWEST_PRIORITY = 19

ReplyT = TypeVar("ReplyT", bound=msgspec.Struct)


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The challenger's first word.

    Attributes:
        sha256: Hash of its bundle.
        release: Its release counter.
        question: As `shadow_tally.question`.
        cpu_s: Processor time that the start took.
        failure: Why it does not run; empty if it does.
    """

    sha256: str = ""
    release: int = 0
    question: list[bool] = []
    cpu_s: float = 0.0
    failure: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One answer.

    Attributes:
        said: Label and value of each target; empty with an error.
        latency_ms: How long the answer took.
        error: Type name of what went wrong; empty if nothing.
        cpu_s: Processor time of the process since its start.
    """

    said: list[tuple[Category | None, float | None]] = []
    latency_ms: float = 0.0
    error: str = ""
    cpu_s: float = 0.0


class ShadowProcess:
    """The parent's end; `open` it, `ask` it, `close` it from any thread.

    Args:
        root: The device's root; its `shadow` is the challenger.
    """

    def __init__(self, root: DeviceRoot) -> None:
        ours, theirs = socket.socketpair()
        self._channel = ours
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "fieldloop_device.shadow_process"),
                    *(str(root.path), str(theirs.fileno())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=child_environment(),
            )

    def open(self) -> Hello:
        """Wait until the challenger is loaded and has replayed its golden inputs.

        Raises:
            GateError: It cannot run here.
            ModelRuntimeError: Its process ended or hung.
        """
        hello = self._receive(Hello, _START_TIMEOUT_S)
        if hello.failure:
            raise GateError(hello.failure, advice="Build the challenger anew.")
        return hello

    def ask(self, request: bytes) -> Reply:
        """Let it answer a pickled raw input.

        Raises:
            ModelRuntimeError: Its process ended or hung.
        """
        try:
            self._channel.settimeout(_ANSWER_TIMEOUT_S)
            self._channel.sendall(_HEAD.pack(len(request)) + request)
        except OSError as error:
            raise self._death() from error
        return self._receive(Reply, _ANSWER_TIMEOUT_S)

    def interrupt(self) -> None:
        """Let whoever waits for an answer wait no longer."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def _receive(self, kind: type[ReplyT], timeout_s: float) -> ReplyT:
        try:
            self._channel.settimeout(timeout_s)
            body = _receive(self._channel, limit=_MAX_REPLY_BYTES)
            if body is not None:
                return msgspec.msgpack.decode(body, type=kind)
        except (OSError, msgspec.DecodeError) as error:
            raise self._death() from error
        raise self._death()

    def _death(self) -> ModelRuntimeError:
        code = self._process.poll()
        how = "hung" if code is None else f"died with {-code if code < 0 else code}"
        return ModelRuntimeError(
            f"the challenger's process {how}", advice="Build the challenger anew."
        )


def _receive(channel: socket.socket, *, limit: int | None = None) -> bytes | None:
    """Return the next message; None at the end."""
    head = _exactly(channel, _HEAD.size)
    if head is None:
        return None
    (size,) = _HEAD.unpack(head)
    if limit is not None and size > limit:
        raise OSError(f"a message of {size} bytes")
    return _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    received = bytearray()
    while len(received) < size:
        chunk = channel.recv(size - len(received))
        if not chunk:
            return None
        received += chunk
    return bytes(received)


# The child


def main(arguments: list[str]) -> int:
    """Be the child: limit ourselves, verify, replay, answer until the parent goes."""
    _end_with_parent()
    os.nice(_LOWEST_PRIORITY)
    root = DeviceRoot(Path(arguments[0]))
    with socket.socket(fileno=int(arguments[1])) as channel:
        try:
            with _opened(root) as runtime:
                replay(runtime)
                hello = Hello(
                    sha256=runtime.sha256,
                    release=runtime.release,
                    question=question(runtime.signature),
                    cpu_s=time.process_time(),
                )
                _send(channel, hello)
                while (request := _receive(channel)) is not None:
                    _send(channel, _answer(runtime, pickle.loads(request)))  # noqa: S301 - our parent's
        except FieldloopError as error:
            _send(channel, Hello(failure=str(error)))
            return 1
        except MemoryError:
            _send(channel, Hello(failure="it needs more memory than a challenger may have"))
            return 1
    return 0


def _opened(root: DeviceRoot) -> Runtime:
    config = load_config(root)
    backend = config.runtime.backend
    trust = read_trust(root.trusted, device_class=config.device.device_class, backend=backend)
    data = read_bundle(root.shadow)
    limit_process(config.update.self_test_memory_bytes)
    return Runtime.open(data, trust=trust, backend=backend, num_threads=1)


def _answer(runtime: Runtime, raw: object) -> Reply:
    try:
        prediction = runtime.predict(raw)
    except Exception as error:  # noqa: BLE001 - counted by the parent, and the next input comes
        return Reply(error=type(error).__name__, cpu_s=time.process_time())
    return Reply(said=said(prediction), latency_ms=prediction.latency_ms, cpu_s=time.process_time())


def _send(channel: socket.socket, message: msgspec.Struct) -> None:
    body = msgspec.msgpack.encode(message)
    channel.sendall(_HEAD.pack(len(body)) + body)


def _end_with_parent() -> None:
    """Ask the kernel to end us with our parent, even if the model hangs; Linux only."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
