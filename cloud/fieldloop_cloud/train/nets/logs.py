"""TensorBoard's logs, written by TensorFlow's own ops: the package tensorboard is not needed.

Only workers call this.
"""

from collections.abc import Callable

from fieldloop_cloud.train.nets.job import Epoch

Log = Callable[[Epoch], None]

_CURVES = ("loss", "held_out_loss", "held_out_score", "learning_rate", "gradient_norm")


def open_log(directory: str | None) -> Log:
    """Return what takes every epoch; None for a directory keeps nothing."""
    if directory is None:
        return lambda _: None
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    writer = tf.raw_ops.SummaryWriter(shared_name="fieldloop", container="")
    tf.raw_ops.CreateSummaryFileWriter(
        writer=writer, logdir=directory, max_queue=10, flush_millis=1000, filename_suffix=".net"
    )

    def write(epoch: Epoch) -> None:
        for name in _CURVES:
            tf.raw_ops.WriteScalarSummary(
                writer=writer, step=epoch.number, tag=f"epoch/{name}", value=getattr(epoch, name)
            )
        tf.raw_ops.FlushSummaryWriter(writer=writer)

    return write
