"""The device runtime against the bare interpreter: the price of codec, telemetry and trust.

    python tools/bench/device.py [--soak N]

Contenders take turns. A prediction's figure is that of the fastest round, which is what it takes by
itself; a start's is the median. `--soak N` predicts N times through
the agent and shows how its memory grows. Writes a table to stdout.
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import asdict
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fieldloop_cloud as fl
from fieldloop import wire
from fieldloop.device_root import DeviceRoot
from fieldloop.interpreter import open_engine
from fieldloop.manifest import Precision
from fieldloop.telemetry import Ack, Clock, TelemetryWindow
from fieldloop.testing.clock import FakeClock
from fieldloop.testing.transport import InMemoryBroker, InMemoryTransport
from fieldloop.topics import down, parse, up_filter
from fieldloop.transport import Message
from fieldloop_device import Agent, Runtime
from fieldloop_device.config import load_config
from fieldloop_device.outbox import Outbox
from fieldloop_device.runtime import active_bundle
from fieldloop_device.stored_messages import KINDS

ROUNDS = 200
CALLS = 512
"""As many as the agent counts together, so that every round pays for it once."""
STARTS = 11
OUTBOX_ROWS = 2_000


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--soak", type=int, default=0, help="predictions of the soak; 0 for none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = [*_cases(Path(folder))]
        print(_table(_PREDICT, [_predict_row(*case) for case in cases]))
        print(_table(_START, _start_rows(cases[0][1])))
        print(_table(_OUTBOX, _outbox_rows(Path(folder))))
        print(_table(_FLASH, _flash_rows(cases[0][1])))
        if options.soak:
            print(_soak(cases[0][1], options.soak))


def _cases(folder: Path) -> Iterator[tuple[str, Path, Any]]:
    """Yield (name, device root, raw rows) of small provisioned devices."""
    iris, digits = load_iris(return_X_y=True), load_digits(return_X_y=True)
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(*iris)
    mlp = make_pipeline(StandardScaler(), MLPClassifier((64, 32), max_iter=60, random_state=0))
    mlp.fit(*digits)
    kinds: tuple[tuple[str, Any, Any, Precision], ...] = (
        ("iris, logistic", logistic, iris, "float32"),
        ("iris, logistic", logistic, iris, "int8"),
        ("digits, MLP 64-32", mlp, digits, "float32"),
        ("digits, MLP 64-32", mlp, digits, "int8"),
    )
    for name, model, (X, y), precision in kinds:
        rows = X.astype(np.float32)
        compiled = fl.to_tflite(model, example=rows, precision=precision)
        slug = f"{name.split(',')[0]}-{precision}"
        bundle = fl.bundle(
            compiled,
            name=slug,
            home=folder / "home",
            device_classes=["x86"],
            reference=rows,
            truth=y,
        )
        root = folder / slug
        program = Path(sys.executable).with_name("fieldloop")
        common = ["--home", str(folder / "home")]
        _quiet([program, "provision", slug, *common, "--to", root, "--no-samples"])
        _quiet([program, "flash", bundle.path, "--to", root])
        settings = (root / "device.toml").read_text()
        # No broker: what is measured is the device alone.
        head, _, rest = settings.partition("[broker]")
        (root / "device.toml").write_text(head + rest[rest.find("\n[") :])
        yield f"{name}, {precision}", root, rows


def _quiet(command: list[Any]) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


_PREDICT = (
    "predict",
    "bare set, invoke, get µs",
    "Runtime.predict µs",
    "Agent.predict µs",
    "telemetry on, over bare µs",
    "isolated, over Runtime.predict µs",
)


def _predict_row(name: str, root: Path, rows: Any) -> tuple[str, ...]:
    settings = asdict(load_config(DeviceRoot(root)).runtime) | {"isolation": "process"}
    with (
        Runtime.open_root(root) as runtime,
        Runtime.open(active_bundle(DeviceRoot(root)), device_root=root, **settings) as isolated,
        Agent(root) as agent,
    ):
        variant = runtime.content.models[runtime.precision]
        bare = open_engine(variant)
        # The bare thing is what we compare with.
        interpreter: Any = bare._interpreter  # type: ignore[attr-defined]  # noqa: SLF001 - it
        inputs = interpreter.get_input_details()[0]["index"]
        outputs = [item["index"] for item in interpreter.get_output_details()]
        tensor = runtime._codec.tensors(runtime._codec.encode_row(rows[0]))[0]  # noqa: SLF001 - the same tensor
        interpreter.resize_tensor_input(inputs, tensor.shape)
        interpreter.allocate_tensors()

        # One row after the other: a sensor that stands still would be counted as stuck.
        raw = itertools.cycle(list(rows))

        def call_bare() -> None:
            interpreter.set_tensor(inputs, tensor)
            interpreter.invoke()
            for index in outputs:
                interpreter.get_tensor(index)

        *times, apart = _in_turns(
            call_bare,
            lambda: runtime.predict(next(raw)),
            lambda: agent.predict(next(raw)),
            lambda: isolated.predict(next(raw)),
        )
        bare.close()
    over = (times[2] - times[0], apart - times[1])
    return name, *(f"{value:.1f}" for value in (*times, *over))


def _in_turns(*calls: Callable[[], object]) -> list[float]:
    """Return the microseconds of each, in the fastest of all rounds: what it takes by itself.

    A median over rounds says more about the other processes of a machine that is not idle.
    """
    seen: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, found in zip(calls, seen, strict=True):
            start = time.perf_counter_ns()
            for _ in range(CALLS):
                call()
            found.append((time.perf_counter_ns() - start) / CALLS / 1000)
    return [min(found) for found in seen]


_START = ("from nothing to the first answer", "median ms", "largest RSS MiB", "ratio")

_BARE_START = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_content=open(sys.argv[1], "rb").read(), num_threads=1)
interpreter.allocate_tensors()
details = interpreter.get_input_details()[0]
interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
interpreter.invoke()
print(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).size)
"""

_OUR_START = """
import json, sys
from fieldloop_device import Runtime
with Runtime.open_root(sys.argv[1]) as runtime:
    print(runtime.predict(json.loads(sys.argv[2])))
"""


def _start_rows(root: Path) -> list[tuple[str, ...]]:
    with Runtime.open_root(root) as runtime:
        model = runtime.content.models[runtime.precision]
        width = len(runtime.signature.features)
    file = root / "bare.tflite"
    file.write_bytes(model)
    commands = {
        "import NumPy and LiteRT, allocate, invoke": [_BARE_START, str(file)],
        "Runtime.open_root, predict": [_OUR_START, str(root), json.dumps([0.0] * width)],
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(STARTS + 1):
        for name, arguments in commands.items():
            found = _start([sys.executable, "-c", *arguments])
            if turn:  # the first start compiles
                seen[name].append(found)
    medians = {
        name: tuple(statistics.median(column) for column in zip(*found, strict=True))
        for name, found in seen.items()
    }
    base = next(iter(medians.values()))
    return [
        (name, f"{ms:.0f}", f"{mib:.1f}", f"{ms / base[0]:.2f} time, {mib / base[1]:.2f} memory")
        for name, (ms, mib) in medians.items()
    ]


# As installed: both sides import bytecode, which a checkout may not be allowed to keep.
_COMPILED = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / f"fieldloop-bench-{os.getuid()}"),
}


def _start(command: list[str]) -> tuple[float, float]:
    """Run a program of its own process group; return milliseconds and its largest RSS."""
    probe = (
        "import resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, "
        "stderr=subprocess.DEVNULL)\n"
        "took = time.perf_counter() - start\n"
        "print(took * 1000, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    made = subprocess.run(
        [sys.executable, "-c", probe, *command],
        env=_COMPILED,
        capture_output=True,
        text=True,
        check=True,
    )
    took_ms, mib = made.stdout.split()
    return float(took_ms), float(mib)


_OUTBOX = ("outbox, WAL and FULL", "rows/s one by one", "rows/s by 50")


def _outbox_rows(folder: Path) -> list[tuple[str, ...]]:
    now = Clock(mono_ms=0, wall_ms=0)
    cells = tuple(range(100))
    window = TelemetryWindow(
        boot=0, seq=0, model="0" * 16, start=now, end=now, prediction_count=1, latency_counts=cells
    )
    rates: dict[str, list[list[float]]] = {"raw SQLite": [[], []], "Outbox": [[], []]}
    for turn in range(3):
        for column, batch in enumerate((1, 50)):
            rows = OUTBOX_ROWS if batch > 1 else OUTBOX_ROWS // 10
            path = folder / f"outbox-{turn}-{batch}"
            rates["raw SQLite"][column].append(_raw_rate(path.with_suffix(".raw"), rows, batch))
            rates["Outbox"][column].append(_our_rate(path.with_suffix(".own"), rows, batch, window))
    return [
        (name, *(f"{statistics.median(column):,.0f}" for column in columns))
        for name, columns in rates.items()
    ]


def _raw_rate(path: Path, rows: int, batch: int) -> float:
    payload = b"x" * 420
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute(
            "CREATE TABLE message (boot INT, seq INT, stream TEXT, payload BLOB, "
            "PRIMARY KEY (boot, seq)) WITHOUT ROWID"
        )
        start = time.perf_counter()
        for first in range(0, rows, batch):
            database.execute("BEGIN IMMEDIATE")
            for number in range(first, first + batch):
                database.execute(
                    "INSERT INTO message VALUES (?, ?, ?, ?)", (1, number, "tel", payload)
                )
            database.execute("COMMIT")
        return rows / (time.perf_counter() - start)


def _our_rate(path: Path, rows: int, batch: int, window: TelemetryWindow) -> float:
    outbox = Outbox(path, max_bytes=1 << 30)
    outbox.begin(1)
    start = time.perf_counter()
    for _ in range(0, rows, batch):
        outbox.append([window] * batch)
    rate = rows / (time.perf_counter() - start)
    outbox.close()
    return rate


_FLASH = (
    "written in a day, windows of 60 s, one input a second",
    "messages",
    "by write calls MB",
    "to the disk MB",
)
FLASH_WINDOWS = 120
_DAY_WINDOWS = 1440


def _flash_rows(root: Path) -> list[tuple[str, ...]]:
    """Return what the agent writes, from a part of a day; the disk's own journal comes on top."""
    return [
        _flash_row(root, "home acknowledges", acknowledges=True),
        _flash_row(root, "home is away", acknowledges=False),
    ]


def _flash_row(root: Path, name: str, *, acknowledges: bool) -> tuple[str, ...]:
    broker, clock, stored = InMemoryBroker(), FakeClock(), []
    home = InMemoryTransport(broker, "home")

    def hear(message: Message) -> None:
        message.ack()
        address = parse(message.topic)
        if address.channel not in KINDS:
            return
        item = wire.decode(KINDS[address.channel], message.payload)
        stored.append(item)
        ack = Ack(boot=item.boot, ranges=((item.seq, item.seq),))
        home.publish(down(address.device, "ack"), wire.encode(ack))

    if acknowledges:
        home.subscribe(up_filter(), hear)
        home.connect()
    agent = Agent(
        root,
        clock=clock,
        make_transport=lambda will: InMemoryTransport(broker, "device", will=will),
    ).start(threads=False)
    rows = np.random.default_rng(0).normal(3.0, 2.0, size=(60, 4)).tolist()
    begin = _written()
    for _ in range(FLASH_WINDOWS):
        for row in rows:
            agent.predict(row)
            clock.advance(1_000)
        agent.record()
        if acknowledges:
            while agent.pump():
                pass
    end = _written()
    count = len(stored) if acknowledges else agent.outbox.count
    agent.stop()
    scale = _DAY_WINDOWS / FLASH_WINDOWS
    written = (
        f"{(after - before) * scale / 1e6:.1f}" for before, after in zip(begin, end, strict=True)
    )
    return name, f"{count * scale:,.0f}", *written


def _written() -> tuple[int, int]:
    """Return the bytes that this process has given to write calls, and to block devices."""
    lines = Path("/proc/self/io").read_text().splitlines()
    found = {key: int(value) for key, value in (line.split(": ") for line in lines)}
    return found["wchar"], found["write_bytes"]


def _soak(root: Path, count: int) -> str:
    raw = [5.1, 3.5, 1.4, 0.2]
    marks = []
    with Agent(root) as agent:
        start = time.perf_counter()
        for number in range(count):
            agent.predict(raw)
            if number % max(1, count // 10) == count // 20:
                marks.append(_rss_mib())
        took_s = time.perf_counter() - start
    shown = ", ".join(f"{mib:.1f}" for mib in marks)
    return (
        f"{count:,} predictions through the agent in {took_s:.0f} s; resident memory along the "
        f"way, MiB: {shown}\n"
    )


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" if not i else "---:" for i in range(len(head))), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    if shutil.which("fieldloop", path=str(Path(sys.executable).parent)) is None:
        sys.exit("error: run it with the Python that fieldloop is installed in")
    main()
