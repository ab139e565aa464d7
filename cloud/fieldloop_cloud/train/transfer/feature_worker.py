"""The process that turns images into rows of features, and exports what does it.

Run as `python -m fieldloop_cloud.train.transfer.feature_worker JOB_DIR`.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np

from fieldloop.errors import FieldloopError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.keras_worker import convert_all
from fieldloop_cloud.compile.worker import die_with_parent, report
from fieldloop_cloud.train.nets.job import tell_error
from fieldloop_cloud.train.transfer.build import extractor
from fieldloop_cloud.train.transfer.plan import TransferPlan

_BATCH = 64


class FeatureJob(msgspec.Struct, frozen=True, kw_only=True):
    """What `features.json` says: the plan, and what to convert to."""

    plan: TransferPlan
    precisions: tuple[Precision, ...]


def main(job: Path) -> None:
    """Answer `train.npy` and `probes.npy` with `<name>_features.npy`, and convert."""
    die_with_parent()
    order = msgspec.json.decode((job / "features.json").read_bytes(), type=FeatureJob)
    report("features", 0.0, "starting TensorFlow")
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    try:
        net = extractor(order.plan)
    except FieldloopError as error:
        tell_error(job, error)
        return
    for name in ("train", "probes"):
        report("features", 0.5, f"features of the {name} rows")
        rows = np.load(job / f"{name}.npy", allow_pickle=False)
        made = net.predict(rows, batch_size=_BATCH, verbose=0)
        np.save(job / f"{name}_features.npy", np.asarray(made, dtype=np.float32))
    net.save(job / "model.keras")
    (job / "features.done").touch()
    convert_all(
        job,
        order.precisions,
        np.load(job / "calibration.npy", allow_pickle=False),
        lambda: tf.lite.TFLiteConverter.from_keras_model(net),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
