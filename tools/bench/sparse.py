"""What makes a net less dense, and what it is worth: bytes, download, latency and score.

    python tools/bench/sparse.py

Two nets are trained. A CNN on scikit-learn's digits, 8 x 8, compares channel pruning, magnitude
pruning and weight clustering; it is so small that the engine's own time for a call is a third of
its latency. A larger one on rendered letters, 32 x 32, shows what channel pruning is worth where
the latency is all arithmetic. Each is compiled to float32 and to int8. Download is the flatbuffer
deflated. Score is accuracy on rows that nothing was fitted, tuned or calibrated on; lost is what
these rows lose against the same net as trained, in the same precision, with the upper 95 % limit of
the paired difference. Latency is the median for one row, one thread, all variants in turns.
"""

import os
import platform
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from numpy.typing import NDArray

import fieldloop_cloud as fl
from fieldloop.interpreter import Engine, open_engine
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.quantize import classification_gate
from fieldloop_cloud.train.intervals import wilson
from fieldloop_cloud.train.nets.macs import mac_count
from fieldloop_cloud.train.transfer.glyphs import glyphs

RESULTS = Path(__file__).with_suffix(".md")
_ROUNDS = 1500
_CLUSTERS = (16, 32)
_PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
_WHOLE = "as trained"
_LETTERS = "ABCDEFGHIJKLMNOP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A net with its data.

    Attributes:
        name: For the table.
        data: Rows to train on, to tune on and to score on: `X_train`, `y_train`, and so on.
        widths: Filters of its convolutions, each but the first followed by pooling, and of the
            hidden dense layer.
        epochs: Of its training.
        shares: Of the channels to take out.
        settings: Of pruning.
    """

    name: str
    data: dict[str, NDArray[Any]]
    widths: tuple[int, int, int, int]
    epochs: int
    shares: tuple[float, ...]
    settings: dict[str, Any]

    @property
    def held_out(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows to tune on."""
        return self.data["X_tune"], self.data["y_tune"]


def digits() -> Subject:
    """Return a small net for digits of 8 x 8 pixels."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to load

    X, y = load_digits(return_X_y=True)
    rows = (X / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(rows))
    return Subject(
        name="digits CNN, 8 x 8",
        data=parts(rows[order], y[order], 900, 1197),
        widths=(16, 32, 32, 48),
        epochs=20,
        shares=(0.5, 0.65),
        settings={},
    )


def letters() -> Subject:
    """Return a net for letters of 32 x 32 pixels, whose latency is mostly arithmetic."""
    drawn = glyphs(5600, side=32, characters=_LETTERS)
    return Subject(
        name="letters CNN, 32 x 32",
        data=parts(drawn.X, drawn.y, 1600, 2600),
        widths=(16, 48, 64, 64),
        epochs=5,
        shares=(0.5, 0.65),
        settings={"steps": 2, "epochs": 3},
    )


def parts(X: NDArray[Any], y: NDArray[Any], train: int, tune: int) -> dict[str, NDArray[Any]]:
    """Cut rows into those to train on, to tune on and to score on."""
    cuts = {"train": slice(train), "tune": slice(train, tune), "test": slice(tune, None)}
    return {
        f"{axis}_{name}": array[cut]
        for name, cut in cuts.items()
        for axis, array in (("X", X), ("y", y))
    }


def trained(subject: Subject, path: Path) -> Path:
    """Train the CNN and save it."""
    import keras  # noqa: PLC0415 - slow to load
    from keras import layers  # noqa: PLC0415 - the same

    keras.utils.set_random_seed(0)
    first, second, third, dense = subject.widths
    X, y = subject.data["X_train"], subject.data["y_train"]
    net = keras.Sequential(
        [
            keras.Input(X.shape[1:]),
            layers.Conv2D(first, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(second, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(third, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dropout(0.25),
            layers.Dense(dense, activation="relu"),
            layers.Dense(int(y.max()) + 1, activation="softmax"),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy")
    net.fit(X, y, epochs=subject.epochs, batch_size=32, verbose=0)
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


def latencies(
    models: dict[tuple[str, str], Compiled], rows: NDArray[np.float32]
) -> dict[tuple[str, str], float]:
    """Return the median time of one row in microseconds."""
    engines: dict[tuple[str, str], Engine] = {
        key: open_engine(model.tflite) for key, model in models.items()
    }
    taken: dict[tuple[str, str], list[int]] = {key: [] for key in models}
    for number in range(_ROUNDS):
        row = rows[number % len(rows)][np.newaxis]
        for name, engine in engines.items():
            start = time.perf_counter_ns()
            engine.run([row])
            taken[name].append(time.perf_counter_ns() - start)
    return {name: float(np.median(times)) / 1e3 for name, times in taken.items()}


def channels_gone(subject: Subject, source: Path, place: Path) -> dict[str, Path]:
    """Return the net with each share of its channels gone."""
    nets = {}
    for share in subject.shares:
        pruned = fl.prune(
            source,
            subject.data["X_train"],
            subject.data["y_train"],
            share=share,
            held_out=subject.held_out,
            **subject.settings,
        )
        name = f"{pruned.share:.0%} of the channels gone"
        nets[name] = pruned.save(place / f"channels{share}.keras")
    return nets


def other_ways(subject: Subject, source: Path, place: Path) -> dict[str, Path]:
    """Return the net with zeros, and with few values a kernel."""
    zeros = fl.prune_magnitude(
        source,
        subject.data["X_train"],
        subject.data["y_train"],
        share=0.8,
        held_out=subject.held_out,
    )
    nets = {"80% zeros": zeros.save(place / "zeros.keras")}
    for count in _CLUSTERS:
        file = place / f"clusters{count}.keras"
        nets[f"{count} values a kernel"] = clustered(source, file, count)
    return nets


def compiled(nets: dict[str, Path], subject: Subject) -> dict[tuple[str, str], Compiled]:
    """Return every net in every precision."""
    rows = subject.data["X_train"][:300]
    return {
        (name, precision): fl.to_tflite(net, example=rows, precision=precision)
        for name, net in nets.items()
        for precision in _PRECISIONS
    }


def table(models: dict[tuple[str, str], Compiled], subject: Subject) -> str:
    """Return the results as a Markdown table."""
    rows, truth = subject.data["X_test"], subject.data["y_test"]
    micros = latencies(models, rows)
    said = {
        key: model.run_encoded(rows)["probabilities"].argmax(axis=1)
        for key, model in models.items()
    }
    lines = [
        f"| {subject.name} | bytes | download | MACs | µs | accuracy (95 % interval) | lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, precision), model in models.items():
        right = said[name, precision] == truth
        low, high = wilson(int(right.sum()), len(right))
        gate = classification_gate(truth, said[_WHOLE, precision], said[name, precision])
        lost = f"{gate.drop:+.1%} (at most {gate.drop_high:.1%})" if name != _WHOLE else ""
        lines.append(
            f"| {name}, {precision} | {len(model.tflite):,} "
            f"| {len(zlib.compress(model.tflite, 9)):,} | {mac_count(model.tflite):,} "
            f"| {micros[name, precision]:.1f} | {right.mean():.1%} ({low:.1%} to {high:.1%}) "
            f"| {lost} |"
        )
    return "\n".join([*lines, ""])


def measured(subject: Subject, *, every_way: bool) -> str:
    """Train, prune, compile, and return the table."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = trained(subject, place / "net.keras")
        nets = {_WHOLE: source, **channels_gone(subject, source, place)}
        if every_way:
            nets |= other_ways(subject, source, place)
        models = compiled(nets, subject)
    return table(models, subject)


def main() -> None:
    """Measure, print and write the tables."""
    made = "\n".join([measured(digits(), every_way=True), measured(letters(), every_way=False)])
    sys.stdout.write(made)
    RESULTS.write_text(
        "# What makes a net less dense, and what it is worth\n\n"
        "Written by `python tools/bench/sparse.py`; see there for what is compared. "
        f"{datetime.now(tz=UTC):%Y-%m-%d}, {platform.machine()}, one thread.\n\n{made}",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
