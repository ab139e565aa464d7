"""The rows' way to the net: `tf.data` pipelines that hold a few batches at a time.

The order of every epoch and the variation of every batch follow from (seed, epoch, batch) alone,
so a training that goes on from a checkpoint sees what it would have seen. Rows come from a memory
map, or from image files through the device's own codec.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import FieldloopError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.data.streamed import StreamedImages
from fieldloop_cloud.train.nets.augmentation import Vary


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a job.

    Attributes:
        X: (n, …), read where it is asked for: a memory map or image files.
        y: (n,): class indices, int64, or standardised values, float32.
        weights: (n,): each row's weight in the loss.
        fit: Numbers of the rows that weights are fitted on.
        held_out: Numbers of the rows that early stopping watches.
        faults: What could not be read; TensorFlow would tell only that something was.
    """

    X: Any
    y: NDArray[Any]
    weights: NDArray[np.float32]
    fit: NDArray[np.int64]
    held_out: NDArray[np.int64]
    faults: list[FieldloopError] = field(default_factory=list)

    def read(self, numbers: NDArray[np.int64]) -> tuple[Any, Any, Any]:
        """Return (X, y, weights) of the rows with these numbers."""
        try:
            rows = np.asarray(self.X[numbers], dtype=np.float32)
        except FieldloopError as error:
            self.faults.append(error)
            raise
        return rows, self.y[numbers], self.weights[numbers]


def open_images(paths: list[str], image: ImageSpec) -> StreamedImages:
    """Open a job's image files."""
    return StreamedImages(tuple(Path(path) for path in paths), image)


def training_batches(
    rows: Rows,
    *,
    batch_size: int,
    seed: int,
    first_epoch: int,
    end_epoch: int,
    vary: Vary | None,
    replicas: tuple[int, ...] = (0,),
    replica_count: int = 1,
) -> Any:
    """Stream the batches of epochs `first_epoch` … `end_epoch - 1`, one after the other.

    Args:
        rows: Where from.
        batch_size: Rows per step, over all replicas; an epoch's last step may have fewer.
        seed: Of order and variation.
        first_epoch: Counted from 0, over the whole training.
        end_epoch: One past the last.
        vary: Augmentation.
        replicas: The replicas that this pipeline feeds, in turn.
        replica_count: Replicas in all. With several, each gets as many rows as the others; what
            is missing is filled up with rows of weight 0.

    Returns:
        A `tf.data.Dataset` of (X, y, weights), one element for each replica and step.
    """
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    count = len(rows.fit)
    numbers = tf.constant(rows.fit, tf.int64)

    def epoch(number: Any) -> Any:
        key = tf.stack([tf.constant(seed, tf.int64), number])
        order = tf.gather(numbers, tf.random.experimental.stateless_shuffle(tf.range(count), key))
        steps = tf.data.Dataset.from_tensor_slices(order).batch(batch_size).enumerate()
        return steps.flat_map(lambda step, part: shares(number, step, part))

    def shares(number: Any, step: Any, part: Any) -> Any:
        share = -(-tf.shape(part)[0] // replica_count)
        padding = tf.fill([share * replica_count - tf.shape(part)[0]], tf.constant(-1, tf.int64))
        table = tf.reshape(tf.concat([part, padding], 0), [replica_count, share])
        mine = tf.constant(replicas, tf.int64)
        base = (number * (1 << 32) + step) * replica_count
        return tf.data.Dataset.from_tensor_slices((tf.gather(table, mine), base + mine))

    def load(part: Any, key: Any) -> Any:
        X, y, weights = _read(tf, rows, tf.maximum(part, 0))
        weights = tf.where(part < 0, 0.0, weights)
        if vary is not None:
            X = vary(X, tf.stack([tf.constant(seed, tf.int64), key]))
        return X, y, weights

    stream = tf.data.Dataset.range(first_epoch, end_epoch).flat_map(epoch)
    return _unsharded(tf, stream.map(load, num_parallel_calls=2, deterministic=True).prefetch(2))


def held_out_batches(rows: Rows, *, batch_size: int) -> Any:
    """Stream the rows that early stopping watches, in order; elements as in training."""
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    parts = tf.data.Dataset.from_tensor_slices(rows.held_out).batch(batch_size)
    return _unsharded(tf, parts.map(lambda part: _read(tf, rows, part)).prefetch(2))


def _read(tf: Any, rows: Rows, part: Any) -> tuple[Any, Any, Any]:
    types = [tf.float32, tf.as_dtype(rows.y.dtype), tf.float32]
    X, y, weights = tf.numpy_function(rows.read, [part], types, stateful=False)
    X.set_shape((None, *rows.X.shape[1:]))
    y.set_shape((None,))
    weights.set_shape((None,))
    return X, y, weights


def _unsharded(tf: Any, stream: Any) -> Any:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return stream.with_options(options)
