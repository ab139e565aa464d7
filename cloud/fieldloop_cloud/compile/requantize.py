"""From a float32 flatbuffer to quantized ones: litert-quantizer's process, seen from outside."""

import importlib.util
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.compile.calibration import Calibration
from fieldloop_cloud.compile.conversion import gather
from fieldloop_cloud.compile.quantizer_worker import RANGES, QuantizeJob
from fieldloop_cloud.compile.quantizers import Recipe
from fieldloop_cloud.compile.worker import Progress, WorkerEnd, quiet, run_worker
from fieldloop_cloud.files import write_file

WORKER = "fieldloop_cloud.compile.quantizer_worker"
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, eq=False)
class Requantized:
    """What came back: flatbuffers and failures, each in the recipes' order.

    Attributes:
        models: The flatbuffer of each recipe; None where it failed.
        failures: The reason of each that failed; empty where it did not.
        calibration: The ranges that were used; None if there were no rows.
    """

    models: tuple[bytes | None, ...]
    failures: tuple[str, ...]
    calibration: Calibration | None


@dataclass(eq=False)
class Requantizer:
    """Quantizes one float32 flatbuffer by many recipes; measures its ranges once.

    Args:
        tflite: The float32 flatbuffer.
        inputs: Calibration rows, one array for each input tensor; empty for none.
        progress: Receives what the worker reports.
        timeout_s: The worker is killed then.
    """

    tflite: bytes = field(repr=False)
    inputs: tuple[NDArray[Any], ...] = field(repr=False, default=())
    progress: Progress = quiet
    timeout_s: float = TIMEOUT_S
    calibration: Calibration | None = None

    def run(self, recipes: Sequence[Recipe]) -> Requantized:
        """Quantize by each recipe; what fails, even by taking its process down, is a reason."""
        if not is_installed():
            missing = "litert-quantizer is not installed"
            return Requantized((None,) * len(recipes), (missing,) * len(recipes), None)
        job = Path(tempfile.mkdtemp(prefix="fieldloop-quantize-"))
        try:
            return self._run_in(job, {str(n): recipe for n, recipe in enumerate(recipes)})
        finally:
            shutil.rmtree(job, ignore_errors=True)

    def _run_in(self, job: Path, recipes: dict[str, Recipe]) -> Requantized:
        write_file(job / "model.tflite", self.tflite)
        if self.calibration is not None:
            write_file(job / RANGES, msgspec.json.encode(self.calibration))
        for number, rows in enumerate(self.inputs):
            np.save(job / f"x{number}.npy", rows)

        def work(steps: tuple[str, ...]) -> WorkerEnd:
            order = QuantizeJob(
                recipes={step: recipes[step] for step in steps}, input_count=len(self.inputs)
            )
            write_file(job / "job.json", msgspec.json.encode(order))
            return run_worker(WORKER, job, timeout_s=self.timeout_s, progress=self.progress)

        steps = tuple(recipes)
        models, failures = gather(
            job, steps, who="litert-quantizer", first=work(steps), restart=work
        )
        if (job / RANGES).exists():
            self.calibration = msgspec.json.decode((job / RANGES).read_bytes(), type=Calibration)
        return Requantized(
            models=tuple(models.get(step) for step in steps),
            failures=tuple(failures.get(step, "") for step in steps),
            calibration=self.calibration,
        )


def is_installed() -> bool:
    """Whether litert-quantizer can be imported here."""
    return importlib.util.find_spec("litert_quantizer") is not None
