"""Training on several devices or machines with `tf.distribute`.

`mirrored` uses every device of this machine (or splits the processor, `logical_devices`).
`multi_worker` uses several machines: the same program runs on each, with the same data and
settings, a job directory of its own, and `TF_CONFIG` naming all of them and its own place:

    # on 192.0.2.10; on 192.0.2.11 the same with "index": 1
    export TF_CONFIG='{"cluster": {"worker": ["192.0.2.10:4711", "192.0.2.11:4711"]},
                       "task": {"type": "worker", "index": 0}}'
    python train.py    # fl.train_net(plan, data, settings=NetSettings(strategy="multi_worker"))

`batch_size` counts the rows of a step over all replicas, and every step sums the gradients of all
rows, so one process and several learn the same up to rounding. All end with the same weights. The
machines talk unencrypted: keep them on a network of their own.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

from fieldloop.errors import ConfigError
from fieldloop_cloud.train.nets.settings import NetSettings


@dataclass(frozen=True, slots=True)
class Replicas:
    """Where a net is trained.

    Attributes:
        strategy: The `tf.distribute` strategy.
        count: Replicas on all machines.
        machines: Machines.
    """

    strategy: Any
    count: int
    machines: int

    def distribute(self, make: Any) -> Any:
        """Return an iterator over batches; `make` takes the replicas to feed and their count."""
        if self.count == 1 and self.machines == 1:
            return iter(make((0,), 1))
        share = self.count // self.machines

        def feed(context: Any) -> Any:
            first = context.input_pipeline_id * share
            return make(tuple(range(first, first + share)), self.count)

        return iter(self.strategy.distribute_datasets_from_function(feed))

    def agreed(self, value: int) -> bool:
        """Whether all machines have the same number here."""
        if self.machines == 1:
            return True
        import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

        def summed(number: Any) -> Any:
            both = tf.stack([number, number * number])
            return tf.distribute.get_replica_context().all_reduce("SUM", both)

        @tf.function  # type: ignore[untyped-decorator]  # TensorFlow ships no types
        def total(number: Any) -> Any:
            sums = self.strategy.run(summed, args=(number,))
            return self.strategy.experimental_local_results(sums)[0]

        plain, squares = total(tf.constant(float(value), tf.float64)).numpy()
        # Equal numbers, and only they, have no spread.
        return bool(plain**2 == self.count * squares)


def check_cluster(settings: NetSettings) -> None:
    """Refuse `multi_worker` without a cluster, before anything is started.

    Raises:
        ConfigError: `TF_CONFIG` is missing or does not name this machine's place.
    """
    if settings.strategy != "multi_worker":
        return
    try:
        told = json.loads(os.environ.get("TF_CONFIG", ""))
        workers, index = told["cluster"]["worker"], told["task"]["index"]
        is_whole = told["task"]["type"] == "worker" and 0 <= index < len(workers)
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise ConfigError(
            "training on several machines needs TF_CONFIG, which is not set or not whole",
            where="environment",
            advice='Set it to {"cluster": {"worker": ["host:port", …]}, '
            '"task": {"type": "worker", "index": N}}.',
        )


def open_replicas(settings: NetSettings) -> Replicas:
    """Set up the devices; call it before anything else touches TensorFlow."""
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    if settings.strategy == "single":
        return Replicas(tf.distribute.get_strategy(), 1, 1)
    if settings.strategy == "multi_worker":
        several = tf.distribute.MultiWorkerMirroredStrategy()
        machines = len(several.cluster_resolver.cluster_spec().as_dict()["worker"])
        return Replicas(several, several.num_replicas_in_sync, machines)
    names = [device.name.removeprefix("/physical_device:") for device in _devices(tf)]
    if settings.logical_devices:
        processor = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * settings.logical_devices
        tf.config.set_logical_device_configuration(processor, parts)
        names = [f"CPU:{number}" for number in range(settings.logical_devices)]
    mirrored = tf.distribute.MirroredStrategy(names)
    return Replicas(mirrored, mirrored.num_replicas_in_sync, 1)


def _devices(tf: Any) -> Any:
    return tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU")
