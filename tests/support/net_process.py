"""One process that does the work of many net workers, so that TensorFlow is imported once.

`run_worker` stands in for `fieldloop_cloud.compile.worker.run_worker`: the same module's `main`
gets the same job directory, in a process that is kept. A job that ends its process (a kill, an
abort) takes the process along, as it should; the next job gets a new one.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

from fieldloop_cloud.compile import worker

ROOT = Path(__file__).parents[2]


class NetProcess:
    """Runs jobs one after the other."""

    def __init__(self):
        self._process = None

    def run_worker(self, module, job, *, timeout_s=None, progress=worker.quiet):
        assert timeout_s is None or timeout_s > 0
        process = self._started()
        process.stdin.write(json.dumps([module, str(job)]).encode() + b"\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith(b"job-ended "):
                code, tail = json.loads(line.removeprefix(b"job-ended "))
                return worker.WorkerEnd(code=code, timed_out=False, tail=tail)
            worker.forward(line, progress)
        self.close()
        return worker.WorkerEnd(code=process.returncode, timed_out=False, tail="")

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _started(self):
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.support.net_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    "TF_CPP_MIN_LOG_LEVEL": "3",
                    "CUDA_VISIBLE_DEVICES": "-1",
                    "KERAS_BACKEND": "tensorflow",
                },
            )
        return self._process


def serve():
    """Do jobs until the parent is gone."""
    for line in sys.stdin:
        module, job = json.loads(line)
        run = importlib.import_module(module)
        run.die_with_parent = lambda: None  # standard input brings the jobs here
        code, tail = 0, ""
        try:
            run.main(Path(job))
        except Exception:  # noqa: BLE001 - as a worker that ends with a traceback
            code, tail = 1, traceback.format_exc()[-400:]
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(f"job-ended {json.dumps([code, tail])}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    serve()
