"""tflite-runtime 2.14 beside the tests: an environment of its own and a long-lived worker in it.

tflite-runtime needs NumPy 1, the tests run with NumPy 2. The environment is made once, in the
repository's root, and found again by later runs. The worker opens models with the SDK's own engine.
"""

import fcntl
import io
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PACKAGES = ("tflite-runtime==2.14.0", "numpy==1.26.4")
ENVIRONMENT = ROOT / ".venv-tflite-2.14"
_INSTALL_TIMEOUT_S = 300


class RuntimeUnavailableError(Exception):
    """The environment cannot be made here; says why."""


def environment() -> Path:
    """Return the environment's Python; make the environment if it is not there."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / "complete"
    with Path(tempfile.gettempdir(), "fieldloop-tflite-2.14.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests may run side by side
        if not done.exists():
            venv.create(ENVIRONMENT, clear=True, with_pip=True)
            command = [str(python), "-m", "pip", "install", "-q", *PACKAGES]
            made = subprocess.run(
                command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
            )
            if made.returncode:
                reason = made.stderr.strip().splitlines()[-1:]
                raise RuntimeUnavailableError(f"tflite-runtime 2.14 cannot be installed: {reason}")
            done.touch()
    return python


class Worker:
    """Runs models in the other environment.

    One line of JSON announces each message, its arrays follow as one .npz.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(environment()), __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT / "sdk")},
        )

    def run(self, model: bytes, batches):
        """Return for each input array the list of output arrays.

        Raises:
            RuntimeError: The runtime refused the model or a batch.
        """
        arrays = {f"x{i}": batch for i, batch in enumerate(batches)}
        arrays["model"] = np.frombuffer(model, np.uint8)
        _send(self._process.stdin, {}, arrays)
        head, got = _receive(self._process.stdout)
        if "error" in head:
            raise RuntimeError(head["error"])
        return [[got[f"y{i}_{j}"] for j in range(head["outputs"])] for i in range(len(batches))]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


def _send(stream, head, arrays) -> None:
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    line = json.dumps({**head, "size": packed.tell()}).encode() + b"\n"
    stream.write(line + packed.getvalue())
    stream.flush()


def _receive(stream):
    line = stream.readline()
    if not line:
        raise EOFError
    head = json.loads(line)
    with np.load(io.BytesIO(stream.read(head["size"]))) as packed:
        return head, {name: packed[name] for name in packed.files}


def _serve() -> None:
    from fieldloop.interpreter import open_engine  # noqa: PLC0415 - only the worker needs it

    while True:
        try:
            _, arrays = _receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            engine = open_engine(arrays.pop("model").tobytes(), backend="tflite-runtime")
            made = {}
            for i in range(len(arrays)):
                outputs = engine.run([arrays[f"x{i}"]])
                made.update({f"y{i}_{j}": array for j, array in enumerate(outputs)})
            _send(sys.stdout.buffer, {"outputs": len(engine.outputs)}, made)
            engine.close()
        except Exception as error:  # noqa: BLE001 - told to the test
            _send(sys.stdout.buffer, {"error": f"{type(error).__name__}: {error}"}, {})


if __name__ == "__main__":
    _serve()
