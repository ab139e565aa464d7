"""The process that trains: takes orders as JSON lines, runs one trial at a time, can be killed.

It keeps the rows of the last order, so that a search pays for the start and the imports once. It
ends with its parent, and by itself after some idle time.
"""

import os
import queue
import sys
import threading
import time
from pathlib import Path

import msgspec

from fieldloop.errors import FieldloopError
from fieldloop_cloud.compile.worker import report
from fieldloop_cloud.select.candidates import portfolio
from fieldloop_cloud.select.scored import Measured
from fieldloop_cloud.select.search.files import load_bench, put, put_arrays
from fieldloop_cloud.select.search.fold_backend import folds_on
from fieldloop_cloud.select.search.orders import RESULT_MARK, Order, Outcome, Reply, Variant
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.measure import Answers
from fieldloop_cloud.train.trial import TrialEnd, run_trial, screen

IDLE_S = 120.0
"""After so long without an order the process ends; the next order starts another."""


def main() -> None:
    """Serve orders until the parent is gone or nothing is asked any more."""
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    shelf = _Shelf()
    while True:
        try:
            line = orders.get(timeout=IDLE_S)
        except queue.Empty:
            return
        reply = _answer(msgspec.json.decode(line, type=Order), shelf)
        sys.stdout.write(RESULT_MARK + msgspec.json.encode(reply).decode() + "\n")
        sys.stdout.flush()


def _listen(orders: "queue.SimpleQueue[bytes]") -> None:
    """Hand on lines; the end of the input is the end of the parent, and so of this process."""
    pending = b""
    # The raw descriptor: a thread inside sys.stdin would hold its lock at shutdown.
    while chunk := os.read(0, 1 << 16):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            orders.put(line)
    os._exit(3)


class _Shelf:
    """The bench of the last order."""

    def __init__(self) -> None:
        self._held: tuple[str, str, Bench] | None = None

    def bench(self, order: Order) -> Bench:
        """Return an order's bench with its own deadline."""
        if self._held is None or self._held[:2] != (order.files, order.bench_sha256):
            made = load_bench(Path(order.files) / "bench", order.bench_sha256, deadline=0.0)
            self._held = (order.files, order.bench_sha256, made)
        return self._held[2].until(time.monotonic() + order.left_s, progress=report)


def _answer(order: Order, shelf: _Shelf) -> Reply:
    try:
        candidate = portfolio((order.candidate,))[0]
        bench = shelf.bench(order)
        if order.row_count is not None:
            score = screen(candidate, order.settings, bench, row_count=order.row_count)
            return Reply(score=score)
        with folds_on(order.folds_on):
            end = run_trial(candidate, order.settings, bench, to_beat=order.to_beat)
        return Reply(outcome_sha256=_kept(end, Path(order.files)))
    except FieldloopError as error:
        return Reply(reason=str(error))
    except MemoryError:
        return Reply(reason="memory was exhausted")
    except Exception as error:  # noqa: BLE001 - a library's fault costs its trial, not the search
        return Reply(reason=f"the trial failed: {type(error).__name__}: {error}")


def _kept(end: TrialEnd, files: Path) -> str:
    held: tuple[Answers | None, ...] = end.held_out or (None,) * len(end.scored)
    variants = tuple(
        Variant(
            measured=Measured(**{name: getattr(item, name) for name in Measured.__struct_fields__}),
            signature=item.compiled.signature,
            evidence=item.compiled.evidence,
            tflite_sha256=put(files, item.compiled.tflite),
            held_out_sha256=put_arrays(files, said.arrays()) if said is not None else "",
        )
        for item, said in zip(end.scored, held, strict=True)
    )
    return put(files, msgspec.json.encode(Outcome(variants=variants, skipped=end.skipped)))


if __name__ == "__main__":
    main()
