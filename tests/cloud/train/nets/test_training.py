"""Nets trained for real on small data, one import of TensorFlow for all of them."""

import dataclasses

import msgspec
import numpy as np
import pandas as pd
import pytest

from fieldloop.errors import ConfigError, GateError, UnsupportedError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.tables import dataset_from_frame
from fieldloop_cloud.train.nets import Augmentation, NetSettings, plan_net, train_net

pytestmark = pytest.mark.usefixtures("warm")

FAST = NetSettings(epochs=3, learning_rate=0.01)


def settings(**changes):
    return msgspec.structs.replace(FAST, **changes)


def falls(net):
    return net.history[-1].loss < net.history[0].loss


@pytest.fixture(scope="module")
def machines():
    """A table with a category, gaps, and columns of very different size."""
    random = np.random.default_rng(0)
    count = 300
    fuel = random.choice(["diesel", "gas", "steam"], count)
    load = random.uniform(0, 1, count)
    pressure = 1e5 + 1e4 * load + random.normal(0, 100, count)
    wear = 40 * load + 10 * (fuel == "gas") + random.normal(0, 1, count)
    frame = pd.DataFrame({"fuel": fuel, "pressure": pressure, "load": load, "wear": wear})
    frame.loc[::9, "load"] = None
    return dataset_from_frame(frame, "wear", name="machines", where="machines")


def test_a_table_is_filled_coded_and_scaled_inside_the_graph(machines):
    net = train_net(
        "mlp",
        machines,
        settings=settings(epochs=25, schedule="cosine"),
        precisions=("float32", "int8"),
        floor=0.8,
    )
    assert net.score.metric == "r2"
    assert net.score.low > net.baseline.high
    compiled = net.compile_to("float32")  # compared with Keras on rows with gaps
    full, gap, new = (
        {"fuel": f, "pressure": 1.05e5, "load": load}
        for f, load in (("gas", 0.5), ("gas", None), ("diesel", 0.5))
    )
    value = [compiled.run([row])["value"].item() for row in (full, gap, new)]
    assert abs(value[0] - 30) < 8  # in the target's own unit
    assert abs(value[1] - value[0]) < 8
    assert value[0] - value[2] > 4
    with pytest.raises(UnsupportedError, match="no code for a missing value"):
        net.compile_to("int8")
    with pytest.raises(UnsupportedError, match="not converted to float16"):
        net.compile_to("float16")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (
            "iris",
            {"objective": "focal", "optimizer": "rmsprop", "schedule": "exponential", "epochs": 5},
        ),
        ("iris", {"label_smoothing": 0.1, "class_weights": "balanced", "optimizer": "adamw"}),
        ("iris", {"class_weights": (1.0, 2.0, 3.0), "schedule": "step", "warmup_epochs": 0.5}),
        ("wine", {"optimizer": "sgd", "nesterov": True, "clip_norm": 1.0, "schedule": "plateau"}),
        ("breast_cancer", {"objective": "binary_cross_entropy", "label_smoothing": 0.05}),
        ("diabetes", {"objective": "mae", "optimizer": "adagrad", "learning_rate": 0.05}),
        ("diabetes", {"objective": "huber", "huber_delta": 0.5, "schedule": "cosine"}),
    ],
    ids=str,
)
def test_every_objective_and_optimizer_learns(name, changes):
    net = train_net("mlp", Dataset.load(f"sklearn:{name}"), settings=settings(**changes))
    assert falls(net)
    assert net.parameters["objective"] == net.settings.objective
    width = 1 if net.settings.objective in ("binary_cross_entropy", "mae", "huber") else 3
    assert net.answers.shape == (len(net.validation), width)
    assert net.compile_to("float32").evidence.label_changes == 0


def test_binary_scores_read_one_sigmoid_as_two_classes():
    data = Dataset.load("sklearn:breast_cancer")
    net = train_net("mlp", data, settings=settings(objective="binary_cross_entropy"), floor=0.9)
    by_name = {score.metric: score.value for score in net.scores}
    said = (net.answers[:, 0] > 0.5).astype(int)
    assert by_name["accuracy"] == pytest.approx((said == net.validation.y).mean())
    assert by_name["roc_auc"] > 0.95
    answer = net.compile_to("float32").run(net.validation.X[:5])["probabilities"]
    np.testing.assert_allclose(answer, net.answers[:5], atol=1e-5)


@pytest.mark.parametrize(("kind", "epochs"), [("cnn1d", 5), ("gru", 12)])
def test_windows_are_told_apart_and_a_device_takes_them_as_lists(windows, kind, epochs):
    varied = Augmentation(shift=0.1, noise=0.05, scaling=0.05, crop=0.05)
    net = train_net(
        kind,
        windows,
        settings=settings(epochs=epochs, batch_size=16, augmentation=varied),
        floor=0.9,
    )
    compiled = net.compile_to("float32")
    assert compiled.signature.inputs[0].shape[1:] == (32, 3)
    rows = [windows.raw(index) for index in range(20)]
    said = compiled.run(rows)["probabilities"].argmax(axis=1)
    assert (said == windows.y[:20]).sum() >= 18


def test_the_same_seed_gives_the_same_net_and_another_one_another(digits):
    varied = settings(epochs=2, augmentation=Augmentation(shift=0.1, noise=0.05))
    nets = [
        train_net("cnn", digits, settings=varied, seed=seed, validation=digits)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(nets[0].answers, nets[1].answers)
    assert np.abs(nets[0].answers - nets[2].answers).max() > 1e-3


def test_half_precision_learns_alike_and_is_saved_in_full(digits):
    plain, *halves = (
        train_net("cnn", digits, settings=settings(epochs=2, learning_rate=0.003, policy=policy))
        for policy in ("float32", "mixed_float16", "mixed_bfloat16")
    )
    for half in halves:
        pairs = [(a.loss, b.loss) for a, b in zip(plain.history, half.history, strict=True)]
        assert all(abs(a - b) < 0.15 for a, b in pairs)
        assert all(a != b for a, b in pairs)
        assert b"mixed" not in half.keras_bytes
        assert half.compile_to("float32").evidence.deviation["probabilities"] < 1e-5


def test_balanced_weights_turn_towards_the_rare_class(digits):
    rare = np.concatenate([np.flatnonzero(digits.y == 1), np.flatnonzero(digits.y == 8)[:8]])
    both = digits.take(rare)
    pair = dataclasses.replace(both, y=(both.y == 8).astype(np.int64), labels=(1, 8))
    said = [
        train_net(
            plan_net("cnn", pair),
            pair,
            validation=pair,
            settings=settings(epochs=2, learning_rate=1e-3, class_weights=weights),
            metric="roc_auc",
        )
        .answers[:, 1]
        .mean()
        for weights in (None, "balanced", (1.0, 50.0))
    ]
    assert said[0] < said[1] < said[2]


def test_the_best_epoch_is_kept_and_training_stops_early(digits):
    net = train_net("cnn", digits, settings=settings(epochs=30, patience=2, learning_rate=0.02))
    losses = [epoch.held_out_loss for epoch in net.history]
    assert net.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == min(30, net.best_epoch + 2)
    assert [epoch.number for epoch in net.history] == list(range(1, len(losses) + 1))


def test_a_net_that_learned_nothing_or_too_little_is_refused(shuffled, digits):
    with pytest.raises(GateError, match=r"no better than a dummy model|below the floor"):
        train_net("cnn", shuffled, settings=settings(epochs=1), floor=0.4)
    with pytest.raises(GateError, match=r"below the floor: f1_macro .* against 0.9999"):
        train_net("cnn", digits, settings=settings(epochs=2), metric="f1_macro", floor=0.9999)


def test_a_metric_of_the_other_task_is_refused(digits):
    with pytest.raises(ConfigError, match="does not judge a classification"):
        train_net("cnn", digits, settings=settings(epochs=1), metric="r2")


def test_curves_are_logged_where_tensorboard_reads_them(digits, tmp_path):
    net = train_net("cnn", digits, settings=settings(epochs=2, tensorboard_dir=str(tmp_path)))
    (log,) = tmp_path.iterdir()
    assert "tfevents" in log.name
    content = log.read_bytes()
    for curve in (b"epoch/loss", b"epoch/held_out_loss", b"epoch/held_out_score"):
        assert content.count(curve) == len(net.history) == 2


def test_progress_names_epochs_and_falls_into_the_bar(digits):
    said = []
    train_net("cnn", digits, settings=settings(epochs=2), progress=lambda *one: said.append(one))
    fractions = [fraction for stage, fraction, _ in said if stage == "train"]
    assert fractions == sorted(fractions)
    assert any("epoch 2 of 2, loss" in text and "held-out loss" in text for *_, text in said)


def test_calibrated_precisions_come_along(digits, tmp_path):
    net = train_net("cnn", digits, settings=FAST, precisions=("float32", "float16", "int8"))
    sizes = [len(net.compile_to(p).tflite) for p in ("float32", "float16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert net.save(tmp_path / "digits.keras").read_bytes() == net.keras_bytes
