"""Nets: scikit-learn's perceptron, which needs no TensorFlow, and Keras' for images."""

import itertools
from typing import Any

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates.candidate import BOTH, Candidate, outputs, width
from fieldloop_cloud.select.candidates.preprocessing import pipeline, target_scaled
from fieldloop_cloud.select.candidates.space import Real, Settings, Whole


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
CNN = Candidate(name="cnn", tasks=("classification",), portfolio=({},), is_costly=True)
