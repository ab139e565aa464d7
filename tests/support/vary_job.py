"""A worker's module for the tests: varies the rows in a job's directory, once for each setting."""

from pathlib import Path

import msgspec
import numpy as np

from fieldloop_cloud.train.nets.augmentation import vary_rows
from fieldloop_cloud.train.nets.scaling import Scaling
from fieldloop_cloud.train.nets.settings import Augmentation


def main(job: Path) -> None:
    """Write `<number>.npy` for each of the settings in `settings.json`."""
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    settings = msgspec.json.decode((job / "settings.json").read_bytes(), type=list[Augmentation])
    seeds = np.load(job / "seeds.npy")
    for number, (one, seed) in enumerate(zip(settings, seeds, strict=True)):
        rows = np.load(job / f"rows{number}.npy")
        scaling = Scaling(mean=(0.0,) * rows.shape[-1], std=(2.0,) * rows.shape[-1])
        varied = vary_rows(one, scaling, rows.ndim)(tf.constant(rows), tf.constant(seed, tf.int64))
        np.save(job / f"{number}.npy", varied.numpy())
