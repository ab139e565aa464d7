"""Bad rows, diverging trainings and little data: a typed error or a stated fallback."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from fieldloop.errors import ConfigError, DataError, EnvironmentFaultError, GateError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets import (
    Augmentation,
    CnnPlan,
    NetSettings,
    estimate,
    plan_net,
    train_net,
)

SHORT = NetSettings(epochs=2, learning_rate=0.01)


def folder_of_digits(digits, root):
    for index in range(120):
        path = root / str(digits.label(index)) / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = (digits.X[index, :, :, 0] * 255).astype(np.uint8)
        # Mixed sizes: every fifth picture is twice as large.
        image = Image.fromarray(pixels)
        (image.resize((16, 16)) if index % 5 == 0 else image).save(path)
    return root


def test_streamed_images_train_the_same_net_as_images_in_memory(digits, tmp_path, warm):
    folder = folder_of_digits(digits, tmp_path)
    loaded, streamed = (Dataset.load(folder, stream=stream) for stream in (False, True))
    assert "24 images are resized" in " ".join(streamed.notes)
    assert loaded.sha256 == streamed.sha256
    varied = NetSettings(epochs=2, augmentation=Augmentation(shift=0.1, flip=True))
    nets = [
        train_net("cnn", data, settings=varied, metric="log_loss") for data in (loaded, streamed)
    ]
    np.testing.assert_array_equal(nets[0].answers, nets[1].answers)


def test_an_image_that_breaks_meanwhile_is_named(digits, tmp_path, warm):
    data = Dataset.load(folder_of_digits(digits, tmp_path), stream=True)
    broken = data.X.paths[60]
    broken.write_bytes(broken.read_bytes()[:40])
    plan = plan_net("cnn", data)
    with pytest.raises(DataError, match=rf"cannot be read.*{broken.name}"):
        train_net(
            plan,
            data,
            validation=data.take(np.arange(20)),
            settings=SHORT,
            calibration=np.zeros((1, 8, 8, 1), np.float32),
        )


def test_one_class_and_an_empty_class_are_refused(digits):
    ones = digits.take(np.flatnonzero(digits.y == 1))
    with pytest.raises(DataError, match="no training row has the class 0, 2"):
        train_net("cnn", digits.take(np.flatnonzero(np.isin(digits.y, (1, 3)))), settings=SHORT)
    with pytest.raises(DataError, match="one class only"):
        train_net(
            "cnn",
            dataclasses.replace(ones, y=ones.y * 0, labels=("one",)),
            settings=SHORT,
        )


def test_two_labels_a_class_train_and_say_what_that_means(digits, warm):
    few = digits.take(np.concatenate([np.flatnonzero(digits.y == n)[:2] for n in range(10)]))
    net = train_net(
        "cnn",
        few,
        validation=digits,
        settings=NetSettings(epochs=15, patience=15),
        metric="roc_auc",
    )
    assert net.score.value > 0.6
    assert len(net.history) > 5
    single = digits.take([int(np.flatnonzero(digits.y == n)[0]) for n in range(10)])
    net = train_net("cnn", single, validation=digits, settings=SHORT, metric="roc_auc")
    assert "No rows were left for early stopping" in " ".join(net.notes)


def test_numbers_that_are_none_are_refused_by_row(digits):
    rows = digits.X.copy()
    rows[:, 3, 3] = np.nan
    with pytest.raises(DataError, match="training row 1"):
        train_net("cnn", dataclasses.replace(digits, X=rows), settings=SHORT)


def test_steps_that_explode_are_made_shorter_and_said(warm):
    wild = NetSettings(epochs=4, optimizer="sgd", learning_rate=1.0)
    net = train_net("mlp", Dataset.load("sklearn:diabetes"), settings=wild)
    assert "Training diverged" in net.notes[-1]
    assert "learning rate of 0.1 and gradients clipped to a length of 1" in net.notes[-1]
    assert (net.settings.learning_rate, net.settings.clip_norm) == (0.1, 1.0)
    assert all(np.isfinite(epoch.loss) for epoch in net.history)


def test_targets_without_bounds_diverge_twice_and_are_refused(digits, warm):
    data = Dataset.load("sklearn:diabetes")
    wild = NetSettings(epochs=6, optimizer="sgd", learning_rate=900.0, momentum=0.99)
    with pytest.raises(GateError, match=r"diverged with short steps|no better than a dummy"):
        train_net("mlp", data, settings=wild)


@pytest.mark.parametrize(
    ("plan_of", "changes", "said"),
    [
        ("iris", {}, "the plan is for rows of"),
        ("digits", {"augmentation": Augmentation(noise=0.1)}, None),
    ],
)
def test_a_plan_for_other_rows_is_refused(digits, plan_of, changes, said):
    iris = Dataset.load("sklearn:iris")
    if said:
        with pytest.raises(DataError, match=said):
            train_net(plan_net("mlp", iris), digits, settings=SHORT)
    else:
        with pytest.raises(ConfigError, match="not varied"):
            train_net("mlp", iris, settings=NetSettings(**changes))


def test_a_log_that_cannot_be_written_is_refused_before_training(digits, tmp_path):
    (tmp_path / "file").write_text("")
    logs = NetSettings(epochs=1, tensorboard_dir=str(tmp_path / "file" / "logs"))
    with pytest.raises(EnvironmentFaultError, match="cannot be written"):
        train_net("cnn", digits, settings=logs)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_in_memory_is_halved_and_said():
    """Real memory that runs out, in workers of their own."""
    random = np.random.default_rng(0)
    y = np.arange(300) % 2
    X = 0.2 * random.random((300, 48, 48, 1)) + 0.8 * y[:, None, None, None]
    data = Dataset(
        name="large",
        kind="image",
        task="classification",
        X=X.astype(np.float32),
        y=y,
        labels=("dark", "light"),
        image=ImageSpec(height=48, width=48, channels=1, scale=1 / 255),
    )
    plan = CnnPlan(
        height=48, width=48, channels=1, filters=(64, 8), flatten=False, dense=8, classes=2
    )
    # A step of 240 rows takes about a gigabyte.
    tight = NetSettings(epochs=1, batch_size=240, memory_limit_bytes=500_000_000)
    net = train_net(plan, data, validation=data, settings=tight, metric="roc_auc")
    assert (
        net.notes[0] == "A batch of 240 rows did not fit in memory; training began anew with 120."
    )
    assert net.settings.batch_size == 240 // 2 ** len(net.notes)
    assert len(net.history) == 1


@pytest.mark.parametrize("given", ["cnn", None])
def test_what_is_no_plan_has_no_cost(given):
    with pytest.raises(ConfigError, match="is no plan of a net"):
        estimate(given)
