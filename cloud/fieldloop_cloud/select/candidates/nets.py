"""Nets: scikit-learn's perceptron, which needs no TensorFlow, and Keras' for images."""

import itertools
from typing import Any

import msgspec

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates.candidate import BOTH, Candidate, outputs, width
from fieldloop_cloud.select.candidates.preprocessing import pipeline, target_scaled
from fieldloop_cloud.select.candidates.space import Among, Real, Settings, Space, Whole
from fieldloop_cloud.train.nets.plans import NetPlan
from fieldloop_cloud.train.nets.settings import NetSettings


def _layers(settings: Settings) -> tuple[int, ...]:
    return (int(settings["units"]),) * int(settings["layers"])


def _perceptron(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.neural_network import (  # noqa: PLC0415 - only when training
        MLPClassifier,
        MLPRegressor,
    )

    options: dict[str, Any] = {
        "hidden_layer_sizes": _layers(settings),
        "alpha": settings["alpha"],
        "learning_rate_init": settings["learning_rate"],
        "max_iter": settings["epochs"],
        "random_state": seed,
    }
    if dataset.task == "regression":
        return target_scaled(dataset, MLPRegressor(**options))
    return pipeline(dataset, MLPClassifier(**options), scale=True)


def _weights(dataset: Dataset, settings: Settings) -> int:
    sizes = (width(dataset), *_layers(settings), outputs(dataset))
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes))


PERCEPTRON = Candidate(
    name="mlp",
    tasks=BOTH,
    portfolio=({"units": 48, "layers": 1, "alpha": 0.1, "learning_rate": 3e-3, "epochs": 120},),
    space={
        "units": Whole(4, 256, log=True),
        "layers": Whole(1, 3),
        "alpha": Real(1e-5, 10.0),
        "learning_rate": Real(3e-4, 3e-2),
        "epochs": Whole(30, 300, log=True),
    },
    build=_perceptron,
    least_values=_weights,
    is_costly=True,
)


def _cnn(dataset: Dataset, settings: Settings, max_model_bytes: int) -> NetPlan:
    from fieldloop_cloud.train.nets import CnnPlan, plan_net  # noqa: PLC0415 - only when training

    largest = plan_net("cnn", dataset, max_model_bytes=max_model_bytes)
    assert isinstance(largest, CnnPlan)
    base = min(settings["filters"], largest.filters[0])
    return msgspec.structs.replace(
        largest,
        filters=_doubling(base, len(largest.filters)),
        dense=3 * base,
        dropout=settings["dropout"],
    )


def _cnn1d(dataset: Dataset, settings: Settings, max_model_bytes: int) -> NetPlan:
    from fieldloop_cloud.train.nets import Cnn1dPlan, plan_net  # noqa: PLC0415 - as above

    largest = plan_net("cnn1d", dataset, max_model_bytes=max_model_bytes)
    assert isinstance(largest, Cnn1dPlan)
    base = min(settings["filters"], largest.filters[0])
    return msgspec.structs.replace(
        largest,
        filters=_doubling(base, len(largest.filters)),
        dense=2 * base,
        dropout=settings["dropout"],
    )


def _gru(dataset: Dataset, settings: Settings, max_model_bytes: int) -> NetPlan:
    from fieldloop_cloud.train.nets import GruPlan, plan_net  # noqa: PLC0415 - as above

    largest = plan_net("gru", dataset, max_model_bytes=max_model_bytes)
    assert isinstance(largest, GruPlan)
    return msgspec.structs.replace(largest, units=min(settings["units"], largest.units))


def _doubling(base: int, count: int) -> tuple[int, ...]:
    return tuple(min(_MOST_FILTERS, base * 2**step) for step in range(count))


def _tuned(settings: Settings) -> NetSettings:
    names = ("optimizer", "learning_rate", "batch_size", "epochs")
    return NetSettings(**{name: settings[name] for name in names})


_MOST_FILTERS = 128
_USUAL: Settings = {
    "dropout": 0.25,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "batch_size": 32,
    "epochs": 15,
}
_COURSE: Space = {
    "dropout": Real(0.0, 0.5, log=False),
    "optimizer": Among(("adam", "adamw", "rmsprop", "sgd")),
    "learning_rate": Real(2e-4, 2e-2),
    "batch_size": Among((16, 32, 64)),
    "epochs": Whole(5, 40, log=True),
}
CNN = Candidate(
    name="cnn",
    tasks=BOTH,
    kinds=("image",),
    portfolio=({"filters": 16, **_USUAL},),
    space={"filters": Among((4, 8, 12, 16, 24, 32)), **_COURSE},
    plan=_cnn,
    net_settings=_tuned,
    is_costly=True,
)
CNN1D = Candidate(
    name="cnn1d",
    tasks=BOTH,
    kinds=("series",),
    portfolio=({"filters": 16, **_USUAL},),
    space={"filters": Among((4, 8, 12, 16, 24)), **_COURSE},
    plan=_cnn1d,
    net_settings=_tuned,
    is_costly=True,
)
_UNDROPPED = {name: value for name, value in _USUAL.items() if name != "dropout"}
GRU = Candidate(
    name="gru",
    tasks=BOTH,
    kinds=("series",),
    portfolio=({"units": 24, **_UNDROPPED},),
    space={
        "units": Whole(4, 64, log=True),
        **{name: dimension for name, dimension in _COURSE.items() if name != "dropout"},
    },
    plan=_gru,
    net_settings=_tuned,
    is_costly=True,
)
