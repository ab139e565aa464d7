"""Prunes many small nets in one process, where TensorFlow may be imported.

    python -m tests.support.pruned_nets OUT.json

Writes for every net how far its answers moved when channels were taken out whose weights were all
zero, and the message of every net that cannot be pruned.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

from fieldloop.errors import FieldloopError
from fieldloop_cloud.train.prune.channels import trace
from fieldloop_cloud.train.prune.finetune import Tuning
from fieldloop_cloud.train.prune.importance import channel_scores
from fieldloop_cloud.train.prune.selection import least_important
from fieldloop_cloud.train.prune.shrink import flattened, shrunk, silenced


def residual():
    entry = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(layers.Rescaling(0.5)(entry))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    side = layers.Conv2D(12, 1)(x)
    x = layers.Conv2D(12, 3, padding="same", activation="relu")(x)
    x = layers.Add()([side, x])
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    y = layers.BatchNormalization()(y)
    y = layers.Concatenate()([x, y])
    y = layers.MaxPooling2D()(layers.SeparableConv2D(10, 3, activation="relu")(y))
    gate = layers.Reshape((1, 1, 10))(layers.GlobalAveragePooling2D()(y))
    gate = layers.Dense(10, activation="relu")(layers.Dense(6, activation="relu")(gate))
    y = layers.Flatten()(layers.Multiply()([y, gate]))
    y = layers.Dense(16, activation="relu")(layers.Dropout(0.1)(y))
    return keras.Model(entry, layers.Dense(5, activation="softmax")(y))


def nested():
    inner = keras.Sequential(
        [
            keras.Input((16, 2)),
            layers.Conv1D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    )
    return keras.Sequential(
        [
            keras.Input((16, 2)),
            inner,
            layers.MaxPooling1D(),
            layers.Conv1D(6, 3, activation="relu"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(3),
        ]
    )


def upsampling():
    entry = keras.Input((6, 6, 4))
    x = layers.Conv2DTranspose(6, 3, strides=2, activation="relu")(entry)
    return keras.Model(entry, layers.Conv2D(3, 1)(x))


def shared():
    entry, twin = keras.Input((8,)), layers.Dense(8, activation="relu")
    x = layers.Dense(8, activation="relu")(entry)
    x = layers.Average()([twin(x), twin(twin(x))])
    return keras.Model(entry, layers.Dense(2)(x))


def two_ends():
    entry = keras.Input((8,))
    x = layers.Dense(9, activation="relu")(entry)
    return keras.Model(entry, [layers.Dense(2)(x), layers.Dense(4, activation="relu")(x)])


NETS = (residual, nested, upsampling, shared, two_ends)


def awkward():
    entry = keras.Input((8, 8, 4))
    grouped = layers.Conv2D(8, 3, groups=2, name="grouped")
    yield keras.Model(entry, layers.Conv2D(2, 1)(grouped(entry)))
    yield keras.Model(entry, layers.LayerNormalization(name="mean")(layers.Conv2D(8, 3)(entry)))
    x = layers.Conv2D(8, 3, name="first")(entry)
    yield keras.Model(entry, layers.Dense(2)(layers.Permute((3, 1, 2), name="turned")(x)))
    yield keras.Model(entry, layers.Dense(2)(layers.Reshape((72, 4), name="spread")(x)))
    series = keras.Input((10, 3))
    yield keras.Model(series, layers.Dense(2)(layers.GRU(8, name="memory")(series)))


def randomized(model, random):
    """Give every weight a random value; variances stay positive."""
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(
                [
                    np.abs(random.normal(size=weight.shape)) + 0.1
                    if "variance" in weight.path
                    else random.normal(size=weight.shape)
                    for weight in layer.weights
                ]
            )


def answers(model, rows):
    said = model.predict(rows, verbose=0)
    parts = said if isinstance(said, list) else [said]
    return np.concatenate([part.reshape(len(rows), -1) for part in parts], axis=1)


def pruned(build, seed):
    """Silence a random half of the channels, prune by importance, and compare."""
    random = np.random.default_rng(seed)
    model = flattened(build())
    randomized(model, random)
    channels = trace(model)
    families = channels.families()
    gone = frozenset(
        int(group)
        for groups in families.values()
        for group in random.choice(groups, size=len(groups) // 2, replace=False)
    )
    for name, weights in silenced(channels, gone).items():
        model.get_layer(name).set_weights(weights)
    rows = random.normal(size=(6, *model.input_shape[1:])).astype(np.float32)
    before = answers(model, rows)
    total = sum(map(len, families.values()))
    found = {
        kind: least_important(channels, channel_scores(channels, kind, list), len(gone) / total)
        for kind in ("l1", "l2")
    }
    smaller = shrunk(model, channels, gone)
    after = answers(smaller, rows)
    return {
        "net": build.__name__,
        "moved": float(np.abs(before - after).max() / np.abs(before).max()),
        "before": model.count_params(),
        "after": smaller.count_params(),
        "found": {kind: chosen == gone for kind, chosen in found.items()},
    }


def taylor(seed):
    """Score a net in which half of the hidden channels are not read: gradients must say so."""
    random = np.random.default_rng(seed)
    entry = keras.Input((8,))
    x = layers.Dense(10, activation="relu", name="hidden")(entry)
    model = keras.Model(entry, layers.Dense(3, activation="softmax", name="last")(x))
    randomized(model, random)
    kernel, bias = model.get_layer("last").get_weights()
    kernel[::2] = 0
    model.get_layer("last").set_weights([kernel, bias])
    rows = random.normal(size=(64, 8)).astype(np.float32)
    truth = random.integers(0, 3, 64)
    data = {"x_train": rows, "y_train": truth, "x_held_out": rows, "y_held_out": truth}
    tuning = Tuning(
        "classification", data, model.predict(rows, verbose=0), batch=16, learning_rate=1e-3
    )
    channels = trace(model)
    scores = channel_scores(channels, "taylor", lambda: tuning.gradients(model))
    values = [scores[group] for group in channels.families()["hidden",]]
    return max(values[::2]) == 0 and min(values[1::2]) > 0


def refused(model):
    try:
        trace(flattened(model))
    except FieldloopError as error:
        return [error.where, str(error)]
    return ["", "was not refused"]


def main(out):
    result = {
        "pruned": [pruned(build, seed) for build in NETS for seed in (0, 1)],
        "refused": [refused(model) for model in awkward()],
        "taylor": taylor(0),
    }
    Path(out).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
