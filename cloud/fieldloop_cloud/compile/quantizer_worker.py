"""litert-quantizer's own process: a float32 flatbuffer to one recipe after another.

Run as `python -m fieldloop_cloud.compile.quantizer_worker JOB_DIR`. A recipe that fails leaves
`<number>.error`; one that takes the process down leaves nothing, which the parent notices.
"""

import sys
import warnings
from pathlib import Path

import msgspec
import numpy as np

from fieldloop_cloud.compile.calibration import Calibration, calibrate
from fieldloop_cloud.compile.quantizers import FloatModel, LitertQuantizer, Recipe, quantized
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.files import write_file

RANGES = "ranges.json"
"""The calibration: read if it is there, else measured and written."""


class QuantizeJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `job.json` says: the recipes by their number, and how many inputs have rows."""

    recipes: dict[str, Recipe]
    input_count: int


def main(job: Path) -> None:
    """Quantize `model.tflite` by the recipes of `job.json`."""
    die_with_parent()
    warnings.simplefilter("ignore")  # a library's warnings go to no one here
    order = msgspec.json.decode((job / "job.json").read_bytes(), type=QuantizeJob)
    model = FloatModel(tflite=(job / "model.tflite").read_bytes())
    calibration = _calibration(job, model, order.input_count)
    quantizer = LitertQuantizer()
    for done, (number, recipe) in enumerate(order.recipes.items()):
        report("quantize", done / len(order.recipes), f"quantizing to {recipe.precision}")
        try:
            flatbuffer = quantized(quantizer, model, recipe, calibration)
        except Exception as error:  # noqa: BLE001 - the library raises what it likes; the parent types it
            write_file(job / f"{number}.error", f"{type(error).__name__}: {error}".encode())
            continue
        write_file(job / f"{number}.tflite", flatbuffer)


def _calibration(job: Path, model: FloatModel, input_count: int) -> Calibration | None:
    path = job / RANGES
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    if not input_count:
        return None
    report("calibrate", 0.0, "measuring the ranges of the activations")
    inputs = [np.load(job / f"x{i}.npy", allow_pickle=False) for i in range(input_count)]
    calibration = calibrate(model.tflite, inputs)
    write_file(path, msgspec.json.encode(calibration))
    return calibration


if __name__ == "__main__":
    main(Path(sys.argv[1]))
