"""What makes a net less dense, and what it is worth: bytes, download, latency and score.

    python tools/bench/sparse.py [OUT.md]

Trains one CNN on scikit-learn's digits, then compares channel pruning, magnitude pruning and weight
clustering, each as float32 and as int8. Download is the flatbuffer deflated. Score is accuracy on
rows that nothing was fitted, tuned or calibrated on. Latency is the median for one row, one thread,
all variants in turns.
"""

import os
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from numpy.typing import NDArray

import fieldloop_cloud as fl
from fieldloop.interpreter import Engine, open_engine
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.train.intervals import wilson
from fieldloop_cloud.train.nets.macs import mac_count

_ROUNDS = 2000
_CLUSTERS = (16, 32)


def digits() -> dict[str, NDArray[Any]]:
    """Return rows to train on, to tune on and to score on."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to load

    X, y = load_digits(return_X_y=True)
    rows = (X / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(rows))
    train, tune, test = order[:900], order[900:1197], order[1197:]
    parts = {"train": train, "tune": tune, "test": test}
    return {
        f"{axis}_{name}": array[part]
        for name, part in parts.items()
        for axis, array in (("X", rows), ("y", y))
    }


def trained(data: dict[str, NDArray[Any]], path: Path) -> Path:
    """Train the CNN and save it."""
    import keras  # noqa: PLC0415 - slow to load
    from keras import layers  # noqa: PLC0415 - the same

    keras.utils.set_random_seed(0)
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.25),
            layers.Dense(48, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(data["X_train"], data["y_train"], epochs=20, batch_size=32, verbose=0)
    net.save(path)
    return path


def clustered(source: Path, target: Path, count: int) -> Path:
    """Save a net whose kernels have `count` values each (k-means, no fine-tuning)."""
    import keras  # noqa: PLC0415 - slow to load
    from sklearn.cluster import KMeans  # noqa: PLC0415 - the same

    net = keras.models.load_model(source, compile=False)
    for layer in net.layers:
        weights = layer.get_weights()
        for place, weight in enumerate(weights):
            if weight.ndim > 1 and weight.size > count:
                means = KMeans(count, n_init=1, random_state=0).fit(weight.reshape(-1, 1))
                weights[place] = means.cluster_centers_[means.labels_].reshape(weight.shape)
        if weights:
            layer.set_weights(weights)
    net.save(target)
    return target


def latencies(models: dict[str, Compiled], rows: NDArray[np.float32]) -> dict[str, float]:
    """Return the median time of one row in microseconds."""
    engines: dict[str, Engine] = {name: open_engine(model.tflite) for name, model in models.items()}
    taken: dict[str, list[int]] = {name: [] for name in models}
    for number in range(_ROUNDS):
        row = rows[number % len(rows)][np.newaxis]
        for name, engine in engines.items():
            start = time.perf_counter_ns()
            engine.run([row])
            taken[name].append(time.perf_counter_ns() - start)
    return {name: float(np.median(times)) / 1e3 for name, times in taken.items()}


def main(out: Path | None) -> None:
    """Measure, print and write the table."""
    data = digits()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        nets = {"as trained": trained(data, place / "net.keras")}
        source, held_out = nets["as trained"], (data["X_tune"], data["y_tune"])
        for share in (0.5, 0.65):
            pruned = fl.prune(
                source, data["X_train"], data["y_train"], share=share, held_out=held_out
            )
            name = f"{pruned.share:.0%} of the channels gone"
            nets[name] = pruned.save(place / f"channels{share}.keras")
        zeros = fl.prune_magnitude(
            source, data["X_train"], data["y_train"], share=0.8, held_out=held_out
        )
        nets["80% zeros"] = zeros.save(place / "zeros.keras")
        for count in _CLUSTERS:
            file = place / f"clusters{count}.keras"
            nets[f"{count} values a kernel"] = clustered(source, file, count)
        models = {
            f"{name}, {precision}": fl.to_tflite(
                net, example=data["X_train"][:300], precision=precision
            )
            for name, net in nets.items()
            for precision in ("float32", "int8")
        }
    text = table(models, data)
    sys.stdout.write(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


def table(models: dict[str, Compiled], data: dict[str, NDArray[Any]]) -> str:
    """Return the results as a Markdown table."""
    micros = latencies(models, data["X_test"])
    lines = [
        "| digits CNN | bytes | download | MACs | µs | accuracy (95 % interval) |",
        "|---|---|---|---|---|---|",
    ]
    for name, model in models.items():
        said = model.run_encoded(data["X_test"])["probabilities"].argmax(axis=1)
        right = int((said == data["y_test"]).sum())
        low, high = wilson(right, len(said))
        lines.append(
            f"| {name} | {len(model.tflite):,} | {len(zlib.compress(model.tflite, 9)):,} "
            f"| {mac_count(model.tflite):,} | {micros[name]:.1f} "
            f"| {right / len(said):.1%} ({low:.1%} to {high:.1%}) |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
