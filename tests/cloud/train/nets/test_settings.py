"""Settings are checked before TensorFlow is started, and rates follow their schedules."""

import pytest

from fieldloop.errors import ConfigError
from fieldloop_cloud.train.nets import NetSettings
from fieldloop_cloud.train.nets.optimizers import rate_at
from fieldloop_cloud.train.nets.strategy import check_cluster


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"label_smoothing": 1.0},
        {"class_weights": (1.0,)},
        {"class_weights": (1.0, -1.0, 1.0)},
        {"objective": "binary_cross_entropy"},
        {"objective": "mse"},
        {"nesterov": True},
        {"clip_norm": 0.0},
        {"decay": 1.0},
        {"warmup_epochs": 15},
        {"logical_devices": 2},
        {"policy": "mixed_float16", "strategy": "mirrored"},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        NetSettings(**wrong).resolved(3)


def test_the_objective_follows_the_task():
    assert NetSettings().resolved(3).objective == "cross_entropy"
    assert NetSettings().resolved(0).objective == "mse"
    with pytest.raises(ConfigError, match="no objective for values"):
        NetSettings(objective="focal").resolved(0)


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({"schedule": "constant"}, [1.0, 1.0, 1.0]),
        ({"schedule": "cosine"}, [1.0, 0.5, 0.0]),
        ({"schedule": "exponential", "decay": 0.9}, [1.0, 0.9**6, 0.9**12]),
        ({"schedule": "step", "decay": 0.5, "decay_epochs": 4}, [1.0, 0.5, 0.125]),
        ({"schedule": "constant", "warmup_epochs": 8}, [0.0, 0.75, 1.0]),
        ({"schedule": "cosine", "warmup_epochs": 6}, [0.0, 1.0, 0.0]),
    ],
    ids=str,
)
def test_a_rate_follows_its_schedule(settings, rates):
    resolved = NetSettings(epochs=12, **settings).resolved(2)
    assert [rate_at(resolved, 1.0, 12, at) for at in (0, 6, 12)] == pytest.approx(rates)


@pytest.mark.parametrize(
    "told", [None, "", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}']
)
def test_several_machines_need_to_be_named(told, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if told is not None:
        monkeypatch.setenv("TF_CONFIG", told)
    with pytest.raises(ConfigError, match="TF_CONFIG"):
        check_cluster(NetSettings(strategy="multi_worker"))
