"""Transfer against training from scratch, offline; writes `transfer.md`.

    python tools/bench/transfer.py [--quick OUT.json]

A MobileNetV2 (alpha 0.35, cut at stage3) learns 37 letters rendered in 21 fonts; digits are not
among them. Then it is shown 5, 10 and 50 handwritten digits a class of scikit-learn's digits and
scored on all others. Contenders with the same rows: the same net from scratch (with a faster batch
normalization, without which it learns nothing from so few rows), and logistic regression on pixels.
Every seed draws other rows. Intervals are Student's t over seeds, 95 %.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import msgspec
import numpy as np
from numpy.typing import NDArray

import fieldloop_cloud as fl
from fieldloop_cloud.train.nets.parts import STOP_SHARE, held_out
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.transfer.feature_head import fit_head
from fieldloop_cloud.train.transfer.glyphs import glyphs
from fieldloop_cloud.train.transfer.plan import TransferPlan, plan_transfer
from fieldloop_cloud.train.transfer.pretrain import SETTINGS, pretrain

HERE = Path(__file__).parent
RESULTS = HERE / "transfer.md"
NET: dict[str, Any] = {
    "member": "MobileNetV2",
    "alpha": 0.35,
    "cut": "stage3",
    "pooling": "flatten",
}
FULL: dict[str, Any] = {
    "glyphs": 10_000,
    "source_epochs": 5,
    "seeds": {5: 5, 10: 5, 50: 3},
    "epochs": 40,
}
QUICK: dict[str, Any] = {"glyphs": 4_000, "source_epochs": 4, "seeds": {5: 4}, "epochs": 30}
TRAINING = NetSettings(learning_rate=3e-3, batch_size=16)

WAYS = {
    "fine-tuned": "transfer: head, then fine-tune",
    "features": "transfer: features + logistic regression",
    "scratch": "the same net from scratch",
    "pixels": "logistic regression on pixels",
}


def rows_of(data: fl.Dataset, count: int, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the numbers of `count` training rows a class, and of all others."""
    order = np.random.default_rng(seed).permutation(len(data))
    train = np.concatenate([order[data.y[order] == c][:count] for c in range(len(data.labels))])
    return train, np.setdiff1d(order, train)


def trained(
    plan: TransferPlan, train: fl.Dataset, test: fl.Dataset, epochs: int, seed: int
) -> float:
    """Return the accuracy of a net, trained in this process with the product's own phases."""
    import keras  # noqa: PLC0415 - loads TensorFlow

    from fieldloop_cloud.train.nets.build import build  # noqa: PLC0415 - the same
    from fieldloop_cloud.train.nets.optimizers import make_optimizer  # noqa: PLC0415 - the same
    from fieldloop_cloud.train.nets.phases import phases  # noqa: PLC0415 - the same

    keras.utils.set_random_seed(seed)
    settings = msgspec.structs.replace(TRAINING, epochs=epochs).resolved(len(train.labels))
    fit, watched = held_out(train, STOP_SHARE, seed=seed)
    model = build(plan)
    for phase in phases(plan, settings):
        phase.prepare(model)
        model.compile(
            make_optimizer(settings, phase),
            "sparse_categorical_crossentropy",
            jit_compile=False,  # compiling takes longer than these trainings
        )
        model.fit(
            train.X[fit],
            train.y[fit],
            validation_data=(train.X[watched], train.y[watched]),
            epochs=phase.epochs,
            batch_size=settings.batch_size,
            callbacks=[
                # The best epoch, never an early end: the held-out rows are ten, and from scratch
                # batch normalization needs many steps before they say anything.
                keras.callbacks.EarlyStopping(
                    monitor="val_loss", patience=epochs, restore_best_weights=True
                )
            ],
            verbose=0,
        )
    said = np.asarray(model(test.X, training=False)).argmax(axis=1)
    return float((said == test.y).mean())


def compare(backbone: str, seeds: dict[int, int], epochs: int) -> None:
    """Print one JSON line a training."""
    from fieldloop_cloud.train.transfer.build import extractor  # noqa: PLC0415 - loads TensorFlow

    data = fl.Dataset.load("sklearn:digits")
    assert data.image is not None
    plan = plan_transfer(data.image, len(data.labels), weights=backbone)
    features = extractor(plan).predict(data.X, batch_size=256, verbose=0)
    for count, tries in seeds.items():
        for seed in range(tries):
            train, test = rows_of(data, count, seed)
            scores = {
                name: fit_head("logistic", table[train], data.y[train], seed=seed)[0].score(
                    table[test], data.y[test]
                )
                for name, table in (("features", features), ("pixels", data.flat))
            }
            for name, way in (("fine-tuned", plan), ("scratch", plan.drawn())):
                parts = data.take(train), data.take(test)
                scores[name] = trained(way, *parts, epochs=epochs, seed=seed)
            print(json.dumps({"count": count, "seed": seed, **scores}), flush=True)


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return mean, low and high of Student's 95 % interval."""
    from scipy import stats  # noqa: PLC0415 - slow to load

    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, min(1.0, mean + half)


def run(size: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Pretrain, then compare in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="fieldloop-transfer-") as folder:
        settings = msgspec.structs.replace(SETTINGS, epochs=size["source_epochs"])
        made = pretrain(folder, glyphs(size["glyphs"]), settings=settings, side=32, **NET)
        source = {"score": made.score.value, "train_s": made.train_s}
        print(f"pretrained: {source}", file=sys.stderr, flush=True)
        order = json.dumps([folder, list(size["seeds"].items()), size["epochs"]])
        command = [sys.executable, __file__, "--compare", order]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                print(line, end="", file=sys.stderr, flush=True)
                lines.append(json.loads(line))
                if size is FULL and line_is_last(lines[-1]):  # what is measured is not lost
                    RESULTS.write_text(table(source, lines))
        if process.returncode:
            raise SystemExit(process.returncode)
    return source, lines


def line_is_last(line: dict[str, Any]) -> bool:
    """Whether a line is the last one of its number of labels."""
    return bool(line["seed"] == FULL["seeds"][line["count"]] - 1)


def summed(lines: list[dict[str, Any]]) -> dict[int, dict[str, tuple[float, float, float]]]:
    """Return the interval of each way, by labels a class."""
    counts = sorted({line["count"] for line in lines})
    return {
        count: {way: interval([x[way] for x in lines if x["count"] == count]) for way in WAYS}
        for count in counts
    }


def table(source: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    """Return the Markdown page."""
    found = summed(lines)
    seeds = [str(sum(line["count"] == count for line in lines)) for count in found]
    rows = [
        f"| {text} | "
        + " | ".join(f"{100 * m:.1f} % ({100 * lo:.1f} to {100 * hi:.1f})" for m, lo, hi in cells)
        + " |"
        for way, text in WAYS.items()
        for cells in [[found[count][way] for count in found]]
    ]
    return (
        "# Transfer against training from scratch\n\n"
        f"MobileNetV2 (alpha 0.35, cut at stage3, 32 x 32) pretrained on {FULL['glyphs']:,} "
        f"rendered letters (no digits) in {source['train_s']:.0f} s, {100 * source['score']:.1f} % "
        "on held-out letters. Accuracy on scikit-learn's handwritten digits, all rows that were "
        f"not trained on; mean and 95 % t-interval over {', '.join(seeds)} draws of rows.\n\n"
        f"| | {' | '.join(f'{count} labels a class' for count in found)} |\n"
        f"|---|{'---:|' * len(found)}\n" + "\n".join(rows) + "\n"
    )


def main(arguments: list[str]) -> None:
    """Run what the arguments say."""
    if arguments[:1] == ["--compare"]:
        folder, seeds, epochs = json.loads(arguments[1])
        compare(folder, dict(seeds), epochs)
    elif arguments[:1] == ["--quick"]:
        _, lines = run(QUICK)
        Path(arguments[1]).write_text(json.dumps(summed(lines)))
    else:
        RESULTS.write_text(table(*run(FULL)))
        print(RESULTS.read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
