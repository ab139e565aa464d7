"""Trains the nets that the tests of pruning, distilling and microcontrollers share.

    python -m tests.support.sparse_nets FOLDER

Leaves `cnn.keras` (a CNN for digits), `int8.tflite` (the same, float inputs and outputs),
`student.keras` (untrained) and `digits.npz`; and `letters.keras` with `letters.npz`, a CNN for
larger pictures, of whose latency the engine's own share is small.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

from fieldloop_cloud.train.transfer.glyphs import glyphs


def digits():
    X, y = load_digits(return_X_y=True)
    rows = (X / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(rows))
    return rows[order], y[order]


def cnn():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(48, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def letters_cnn():
    return keras.Sequential(
        [
            keras.Input((24, 24, 1)),
            layers.Conv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(24, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(48, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def student():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(24, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def main(folder):
    keras.utils.set_random_seed(0)
    X, y = digits()
    np.savez(folder / "digits.npz", X=X, y=y)
    net = cnn()
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(X[:1000], y[:1000], epochs=15, batch_size=32, verbose=0)
    net.save(folder / "cnn.keras")
    converter = tf.lite.TFLiteConverter.from_keras_model(net)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[np.newaxis]] for row in X[:100])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    (folder / "int8.tflite").write_bytes(converter.convert())
    student().save(folder / "student.keras")
    drawn = glyphs(1700, side=24, characters="ABCDEFHKMX")
    np.savez(folder / "letters.npz", X=drawn.X, y=drawn.y)
    net = letters_cnn()
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(drawn.X[:1000], drawn.y[:1000], epochs=6, batch_size=32, verbose=0)
    net.save(folder / "letters.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
