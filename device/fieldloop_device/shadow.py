"""A challenger in the champion's shadow: it answers some of the same inputs and is not heard.

It lives in a process of its own (`shadow_process`), fed by a thread of its own with a mailbox for
one input. The champion's thread looks at one flag; only while the challenger is hungry does it
leave a copy of its input behind. After each answer the challenger rests until its share of one
processor core is kept, the start included. The rests vary at random, so that no rhythm of the
inputs decides which are compared; after a rest the next input is taken.
"""

import logging
import pickle
import random
import threading
import time
from collections.abc import Callable

from fieldloop.codec import Prediction
from fieldloop.device_root import DeviceRoot
from fieldloop.errors import FieldloopError, GateError, ModelRuntimeError
from fieldloop.telemetry import ShadowCounts
from fieldloop_device.monitor import MODEL_ID_DIGITS
from fieldloop_device.runtime import Runtime
from fieldloop_device.shadow_process import Hello, ShadowProcess
from fieldloop_device.shadow_tally import Said, ShadowTally, question, said

logger = logging.getLogger(__name__)

MAX_CRASHES = 3
"""After so many the challenger is given up until the next start or wish."""

_LOOK_S = 0.5

Announce = Callable[[str, str], None]
"""Sends an event home: kind and detail."""


class Shadow:
    """Runs the challenger that lies in a device root's shadow place, if there is one.

    Args:
        root: The device's root.
        cpu_share: Most processor time, as a share of one core.
        announce: Told when it starts, fails or stops.

    Attributes:
        is_hungry: Whether `offer` is welcome now.
        sha256: Hash of the challenger that runs; empty without one.
        error: Why the challenger that lies there does not run; empty if it does.
        cpu_s: Processor time that it has cost, its process and its thread together.
    """

    def __init__(self, root: DeviceRoot, *, cpu_share: float, announce: Announce) -> None:
        self._root = root
        self._cpu_share = cpu_share
        self._announce = announce
        self._lock = threading.Lock()
        self._champion: Runtime | None = None
        self._tally: ShadowTally | None = None
        self._pair = ("", "")
        self._hello: Hello | None = None
        self._process: ShadowProcess | None = None
        self._item: tuple[bytes, list[Said], ShadowTally] | None = None
        self._given = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._random = random.Random()  # noqa: S311 - sampling, not secrecy
        self.is_hungry = False
        self.sha256 = ""
        self.error = ""
        self.cpu_s = 0.0

    # Called by the champion's side, under its lock

    def follow(self, champion: Runtime | None) -> None:
        """Compare with this model from now on."""
        with self._lock:
            self.is_hungry = False
            self._champion = champion
            if champion is None:
                self._tally = None
            self._begin_tally()

    def offer(self, raw: object, prediction: Prediction) -> None:
        """Leave a copy of an answered input for the challenger; ask `is_hungry` first."""
        with self._lock:
            if self._tally is None:
                return
            self.is_hungry = False
            try:
                self._item = pickle.dumps(raw, protocol=5), said(prediction), self._tally
            except Exception as error:  # noqa: BLE001 - an input of any kind; the champion has answered
                self._tally.fail(type(error).__name__)
                self._item = None
        self._given.set()

    def cut(self) -> ShadowCounts | None:
        """Return what was counted since the last call; None if nothing."""
        with self._lock:
            return self._tally.cut() if self._tally is not None else None

    # Life

    def start(self) -> None:
        """Run what lies in the shadow place; nothing happens without one."""
        self.stop()
        if not self._root.shadow.exists():
            return
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="fieldloop-shadow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the challenger; waits for its process, not for an answer."""
        self._stopping.set()
        self._given.set()
        with self._lock:
            if self._process is not None:
                self._process.interrupt()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.error = ""

    # The thread

    def _run(self) -> None:
        for _ in range(MAX_CRASHES):
            try:
                self._live()
            except ModelRuntimeError as error:
                if self._stopping.is_set():
                    return
                logger.warning("%s", error)
                failure: FieldloopError = error
            except FieldloopError as error:
                failure = error
                break
            else:
                if not self._stopping.is_set():
                    self._announce("shadow-stopped", "the challenger is the running model now")
                return
        self.error = str(failure)
        self._announce("shadow-failed", self.error)

    def _live(self) -> None:
        """One life of the challenger's process, from its start to its end."""
        process = ShadowProcess(self._root)
        try:
            with self._lock:
                self._process = process
            if self._stopping.is_set():
                return
            hello = process.open()
            self._welcome(hello)
            self._rest(hello.cpu_s)
            self._answer_all(process, hello)
        finally:
            with self._lock:
                self._process = self._hello = None
                self.is_hungry = False
            self.sha256 = ""
            process.close()

    def _welcome(self, hello: Hello) -> None:
        with self._lock:
            self._hello = hello
            self._begin_tally()
        self.sha256, self.error = hello.sha256, ""
        self._announce("shadow-started", f"release {hello.release} answers beside the running one")

    def _begin_tally(self) -> None:
        """Begin anew if the pair of models is another; after a crash the counting goes on."""
        if self._champion is None or self._hello is None:
            return
        pair = self._champion.sha256, self._hello.sha256
        if self._tally is None or pair != self._pair:
            model = self._hello.sha256[:MODEL_ID_DIGITS]
            self._tally = ShadowTally(self._champion.signature, model)
            self._pair = pair

    def _answer_all(self, process: ShadowProcess, hello: Hello) -> None:
        cpu_s = hello.cpu_s
        while not self._stopping.is_set():
            if self._is_promoted(hello):
                return
            item = self._next_item()
            if item is None:
                continue
            started_s = time.thread_time()
            request, champion, tally = item
            try:
                reply = process.ask(request)
            except ModelRuntimeError:
                with self._lock:
                    tally.fail("Crash")
                raise
            with self._lock:
                if reply.error:
                    tally.fail(reply.error)
                else:
                    tally.record(champion, reply.said, reply.latency_ms)
            cost_s = reply.cpu_s - cpu_s + time.thread_time() - started_s
            cpu_s = reply.cpu_s
            self._rest(cost_s)

    def _is_promoted(self, hello: Hello) -> bool:
        """Say whether the challenger has become the running model.

        Raises:
            GateError: The two answer different questions.
        """
        champion = self._champion
        if champion is None:
            return False
        if champion.sha256 == hello.sha256:
            return True
        if question(champion.signature) != hello.question:
            raise GateError(
                "the challenger has other targets than the running model",
                advice="Compare models that predict the same.",
            )
        return False

    def _next_item(self) -> tuple[bytes, list[Said], ShadowTally] | None:
        """Be hungry until an input comes; None after a while without one."""
        with self._lock:
            self.is_hungry = self._champion is not None
        self._given.wait(_LOOK_S)
        self._given.clear()
        with self._lock:
            self.is_hungry = False
            item, self._item = self._item, None
        return item

    def _rest(self, cost_s: float) -> None:
        self.cpu_s += cost_s
        # Never shorter than the share asks for: it is a limit, not a mean.
        self._stopping.wait(cost_s / self._cpu_share * self._random.uniform(1.0, 2.0))
