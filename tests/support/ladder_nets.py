"""Nets for the ladder's tests, trained for real where TensorFlow may be imported.

Run as `python tests/support/ladder_nets.py FOLDER`; each net is saved as `<name>.keras`, and the
digits that it is trained and judged on as `rows.npz`.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from fieldloop_cloud.train.lite import lite_variant


def digits():
    """Return (X, y) of the digits in a fixed shuffled order, X (n, 8, 8, 1) in 0 … 1."""
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    return (X[order] / 16).astype(np.float32).reshape(-1, 8, 8, 1), y[order]


def fragile():
    """Swish, and one layer whose channels differ in size by many thousands: int8 loses most."""
    entry = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="swish", name="stem")(entry)
    x = layers.Conv2D(8, 1, name="wide")(x)
    x = layers.Conv2D(16, 3, strides=2, activation="swish", name="narrow")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(4, 1, activation="relu", name="reduce")(gate)
    gate = layers.Conv2D(16, 1, activation="sigmoid", name="expand")(gate)
    x = layers.Multiply(name="excite")([x, gate])
    x = layers.Flatten(name="flat")(x)
    return keras.Model(
        entry, layers.Dense(10, activation="softmax", name="digit")(x), name="fragile"
    )


def thin():
    """Depthwise convolutions with BatchNorm, as in mobile nets."""

    def normed(x):
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    entry = keras.Input((8, 8, 1), name="image")
    x = normed(layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(entry))
    for number, (filters, stride) in enumerate(((16, 1), (24, 2))):
        depthwise = layers.DepthwiseConv2D(
            3, strides=stride, padding="same", use_bias=False, name=f"depthwise_{number}"
        )
        x = normed(depthwise(x))
        x = normed(layers.Conv2D(filters, 1, use_bias=False, name=f"pointwise_{number}")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(entry, layers.Dense(10, activation="softmax", name="digit")(x), name="thin")


def stretch_wide(model, spread):
    """Give `wide`'s channels other scales, and let `narrow` undo it: same answers."""
    wide, narrow = model.get_layer("wide"), model.get_layer("narrow")
    factor = np.exp(np.linspace(-spread, spread, 8)).astype(np.float32)
    wide.set_weights([np.array(wide.kernel) * factor, np.array(wide.bias) * factor])
    narrow.kernel.assign(np.array(narrow.kernel) / factor[:, None])


def stretch_thin(model, spread, seed=1):
    """Move factors from each BatchNorm into the layer after it: same answers, wider ranges."""
    random = np.random.default_rng(seed)
    weighted = (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense)
    norms = [one for one in model.layers if isinstance(one, layers.BatchNormalization)]
    after = [one for one in model.layers if isinstance(one, weighted)][1:]
    for norm, layer in zip(norms, after, strict=True):
        factor = np.exp(random.uniform(-spread, spread, norm.gamma.shape[0])).astype(np.float32)
        norm.gamma.assign(np.array(norm.gamma) * factor)
        norm.beta.assign(np.array(norm.beta) * factor)
        layer.kernel.assign(np.array(layer.kernel) / factor[:, None])


def train(model, X, y, *, epochs):
    """Fit on the first thousand rows."""
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(X[:1000], y[:1000], epochs=epochs, batch_size=32, verbose=0)


def main(folder):
    """Train, stretch and save."""
    keras.utils.set_random_seed(0)
    X, y = digits()
    np.savez(folder / "rows.npz", X=X, y=y)
    for build, stretch, spread in ((fragile, stretch_wide, 6.0), (thin, stretch_thin, 2.5)):
        model = build()
        train(model, X, y, epochs=12)
        if build is fragile:
            lite = lite_variant(model)
            (folder / "lite.json").write_text(json.dumps(lite.changes))
            train(lite.model, X, y, epochs=4)
            lite.model.save(folder / "lite.keras")
        plain = model.predict(X, verbose=0)
        stretch(model, spread)
        assert np.abs(model.predict(X, verbose=0) - plain).max() < 1e-3
        model.save(folder / f"{model.name}.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
