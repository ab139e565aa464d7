"""A transfer plan as Keras layers: pixels -> backbone -> pooling -> head. Runs in workers only."""

from typing import Any

from fieldloop_cloud.train.transfer.phases import BACKBONE
from fieldloop_cloud.train.transfer.pixels import pixels
from fieldloop_cloud.train.transfer.plan import TransferPlan
from fieldloop_cloud.train.transfer.stages import cut_at
from fieldloop_cloud.train.transfer.weights import untrained, weighted

_MOMENTUM = 0.9
"""Of batch normalization trained from scratch. The families' own 0.99 … 0.999 needs thousands of
steps; after fewer, the net would be judged with statistics of its first random weights."""


def transfer_body(plan: TransferPlan, inputs: Any) -> Any:
    """Return everything but the last layer, applied to the input tensor; weights are loaded.

    Raises:
        ConfigError: The backbone has no such cut.
        DataError: The weights file is damaged or belongs to another architecture.
        UnsupportedError: The weights file holds layers that are not loaded.
        EnvironmentFaultError: ImageNet weights that are neither here nor to be downloaded.
    """
    from keras import layers  # noqa: PLC0415 - only workers import Keras

    flow = features(plan, inputs)
    if plan.dropout:
        flow = layers.Dropout(plan.dropout)(flow)
    if plan.dense:
        flow = layers.Dense(plan.dense, activation="relu", name="hidden")(flow)
    return flow


def features(plan: TransferPlan, inputs: Any) -> Any:
    """Return the row of features of the input tensor; raises as `transfer_body`."""
    from keras import layers  # noqa: PLC0415 - only workers import Keras

    flow = _backbone(plan)(pixels(plan, inputs))
    pool = {
        "average": layers.GlobalAveragePooling2D,
        "max": layers.GlobalMaxPooling2D,
        "flatten": layers.Flatten,
    }[plan.pooling]
    return pool(name="features")(flow)


def extractor(plan: TransferPlan) -> Any:
    """Return a Keras model from encoded images to rows of features; raises as `transfer_body`."""
    from keras import Input, Model  # noqa: PLC0415 - only workers import Keras

    inputs = Input(plan.input_shape, name="x")
    return Model(inputs, features(plan, inputs), name="extractor")


def _backbone(plan: TransferPlan) -> Any:
    if plan.weights is not None:
        return weighted(plan)
    net = cut_at(untrained(plan), plan.cut)
    for layer in net.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.momentum = _MOMENTUM
    return net


__all__ = ["BACKBONE", "extractor", "features", "transfer_body"]
