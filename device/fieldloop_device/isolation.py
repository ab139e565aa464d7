"""A model in a process of its own, so that a crash of the interpreter is an error and no more.

Tensors travel through shared memory, and a socket says when: a call costs tens of microseconds
more than in the agent's process. A child that dies or hangs is started anew by the next call, at
once the first time, after a growing pause when it dies again and again.

Run as `python -m fieldloop_device.isolation SOCKET MEMORY` (two file descriptors) by
`IsolatedEngine`.
"""

import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop import errors
from fieldloop.errors import FieldloopError, ModelCrashError, ModelRuntimeError
from fieldloop.interpreter import TensorInfo, check_tensors, empty_shape, open_engine
from fieldloop_device.shared_memory import Parts, SharedMemory

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 120
"""A board with a slow card takes its time to import the runtime."""
RUN_TIMEOUT_S = 60
_END_TIMEOUT_S = 2.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_MAX_MESSAGE_BYTES = 1 << 16


class _Setup(msgspec.Struct, frozen=True, tag="setup"):
    """What the child opens; the model's bytes lie in the memory."""

    size_bytes: int
    backend: str | None
    num_threads: int
    xnnpack: bool
    delegate: str


class _Ready(msgspec.Struct, frozen=True, tag="ready"):
    backend: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class _Tensors(msgspec.Struct, frozen=True, tag="tensors"):
    """Tensors that lie in the memory."""

    parts: Parts


class _Failure(msgspec.Struct, frozen=True, tag="failure"):
    error: str
    what: str
    where: str
    advice: str


_Reply = _Ready | _Tensors | _Failure
_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(_Setup | _Tensors).decode
_decode_reply = msgspec.msgpack.Decoder(_Reply).decode


class IsolatedEngine:
    """An `interpreter.Engine` whose interpreter lives in a child process.

    Args:
        model: The flatbuffer's bytes, verified.
        backend: As for `open_engine`.
        num_threads: As for `open_engine`.
        xnnpack: As for `open_engine`.
        delegate: As for `open_engine`.

    Raises:
        FieldloopError: As `open_engine`.
        ModelCrashError: The child died while it loaded the model.
    """

    def __init__(
        self,
        model: bytes,
        *,
        backend: str | None = None,
        num_threads: int = 1,
        xnnpack: bool = True,
        delegate: str = "",
    ) -> None:
        self._model = model
        self._setup = _Setup(len(model), backend, num_threads, xnnpack, delegate)
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._is_closed = False
        self._crash_count = 0
        self._not_before = 0.0
        ready = self._start()
        self.backend = ready.backend
        self.inputs = ready.inputs
        self.outputs = ready.outputs

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._child.pid if self._child is not None else None

    def run(self, tensors: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """See `Engine.run`.

        Raises:
            ModelCrashError: The child died or hung, or is not started again yet.
        """
        with self._lock:
            if self._is_closed:
                raise ModelRuntimeError("this model is closed", advice="Open it again.")
            check_tensors(self.inputs, tensors)
            if any(tensor.size == 0 for tensor in tensors):
                return tuple(
                    np.empty(empty_shape(info.shape), dtype=np.dtype(info.dtype))
                    for info in self.outputs
                )
            if self._child is None:
                self._start_again()
            assert self._child is not None
            try:
                outputs = self._child.run(tensors)
            except ModelCrashError:
                self._note_crash()
                raise
            self._crash_count = 0
            return outputs

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._is_closed = True
            if self._child is not None:
                self._child.close()
                self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> _Ready:
        child = _Child()
        try:
            ready = child.open(self._setup, self._model)
        except FieldloopError:
            child.close()
            raise
        self._child = child
        return ready

    def _start_again(self) -> None:
        wait_s = self._not_before - time.monotonic()
        if wait_s > 0:
            raise ModelCrashError(
                f"the model's process died {self._crash_count} times in a row and is started "
                f"again in {wait_s:.0f} s",
                advice="Report the inputs that it died of; roll back to another model.",
            )
        try:
            self._start()
        except FieldloopError:
            self._note_crash()
            raise

    def _note_crash(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None
        self._crash_count += 1
        if self._crash_count > 1:
            pause_s = min(_FIRST_PAUSE_S * 2 ** (self._crash_count - 2), _LONGEST_PAUSE_S)
            self._not_before = time.monotonic() + pause_s


class _Child:
    """The parent's end of one child process."""

    def __init__(self) -> None:
        self._memory = SharedMemory.create()
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "fieldloop_device.isolation"]
        with other:
            descriptors = (other.fileno(), self._memory.descriptor)
            self._process = subprocess.Popen(
                [*command, *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=descriptors,
            )
        self.pid = self._process.pid

    def open(self, setup: _Setup, model: bytes) -> _Ready:
        self._memory.write([np.frombuffer(model, np.uint8)])
        reply = self._ask(setup, timeout_s=START_TIMEOUT_S)
        assert isinstance(reply, _Ready)
        self._set_timeout(RUN_TIMEOUT_S)
        return reply

    def run(self, tensors: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        reply = self._ask(_Tensors(self._memory.write(tensors)))
        assert isinstance(reply, _Tensors)
        return tuple([view.copy() for view in self._memory.views(reply.parts)])

    def close(self) -> None:
        self._socket.close()  # the child ends by itself when nobody is there any more
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._memory.close()

    def _set_timeout(self, timeout_s: int) -> None:
        # By the kernel: Python's own timeout costs another system call each time.
        value = struct.pack("ll", timeout_s, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def _ask(self, request: _Setup | _Tensors, *, timeout_s: int | None = None) -> _Reply:
        if timeout_s is not None:
            self._set_timeout(timeout_s)
        try:
            self._socket.send(_encode(request))
            answer = self._socket.recv(_MAX_MESSAGE_BYTES)
        except BlockingIOError:
            self._process.kill()
            raise self._crash("hung and was killed") from None
        except OSError:
            answer = b""
        if not answer:
            raise self._crash(f"died by {self._cause()}")
        reply: _Reply = _decode_reply(answer)
        if isinstance(reply, _Failure):
            kind = getattr(errors, reply.error)
            raise kind(reply.what, where=reply.where, advice=reply.advice)
        return reply

    def _crash(self, how: str) -> ModelCrashError:
        logger.error("the model's process %d %s", self.pid, how)
        return ModelCrashError(
            f"the model's process {how}",
            advice="It is started again; roll back to another model if that goes on.",
        )

    def _cause(self) -> str:
        try:
            code = self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "closing its connection"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _serve(connection: socket.socket, memory: SharedMemory) -> None:
    """Be the child: open the model, answer until nobody asks."""
    setup = _decode_request(connection.recv(_MAX_MESSAGE_BYTES))
    assert isinstance(setup, _Setup)
    model = memory.views(((("uint8", (setup.size_bytes,))),))[0].tobytes()
    try:
        engine = open_engine(
            model,
            backend=setup.backend,
            num_threads=setup.num_threads,
            xnnpack=setup.xnnpack,
            delegate=setup.delegate,
        )
    except FieldloopError as error:
        connection.send(_encode(_failure(error)))
        return
    connection.send(_encode(_Ready(engine.backend, engine.inputs, engine.outputs)))
    while message := connection.recv(_MAX_MESSAGE_BYTES):
        request = _decode_request(message)
        assert isinstance(request, _Tensors)
        try:
            reply: _Reply = _Tensors(memory.write(engine.run(memory.views(request.parts))))
        except FieldloopError as error:
            reply = _failure(error)
        connection.send(_encode(reply))


def _failure(error: FieldloopError) -> _Failure:
    return _Failure(type(error).__name__, error.what, error.where, error.advice)


def main(arguments: list[str]) -> int:
    """Be the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the agent says when it ends
    connection = socket.socket(fileno=int(arguments[0]))
    memory = SharedMemory(int(arguments[1]))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        _serve(connection, memory)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
