"""The process that exports untrained nets: build, convert to float32, count.

Run as `python -m fieldloop_cloud.train.nets.costing_worker JOB_DIR`.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np

from fieldloop_cloud.compile.quantizers import convert
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.train.nets.build import build
from fieldloop_cloud.train.nets.plans import NetPlan
from fieldloop_cloud.train.transfer.plan import TransferPlan


def main(job: Path) -> None:
    """Export what `plans.json` lists to `<number>.tflite`, or `<number>.error`."""
    die_with_parent()
    plans = msgspec.json.decode((job / "plans.json").read_bytes(), type=tuple[NetPlan, ...])
    report("estimate", 0.0, "starting TensorFlow")
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    for number, plan in enumerate(plans):
        report("estimate", number / len(plans), f"net {number + 1} of {len(plans)}")
        try:
            model = build(plan.drawn() if isinstance(plan, TransferPlan) else plan)
            count = sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)
            (job / f"{number}.parameters").write_text(str(count))
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
            tflite = convert(converter, "float32", ())
        except Exception as error:  # noqa: BLE001 - the converter raises what it likes; the parent types it
            (job / f"{number}.error").write_text(f"{type(error).__name__}: {error}")
            continue
        (job / f"{number}.tflite").write_bytes(tflite)
    (job / "done").write_text("")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
