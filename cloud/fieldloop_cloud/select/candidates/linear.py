"""Linear models and their nearest relatives: a few constants, microseconds, hard to overfit."""

from typing import Any

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates.candidate import Candidate, outputs, width
from fieldloop_cloud.select.candidates.preprocessing import pipeline
from fieldloop_cloud.select.candidates.space import Real, Settings


def _logistic(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - only when training

    model = LogisticRegression(max_iter=2000, random_state=seed, **settings)
    return pipeline(dataset, model, scale=True)


def _discriminant(dataset: Dataset, settings: Settings, _seed: int) -> Any:
    from sklearn.discriminant_analysis import (  # noqa: PLC0415 - only when training
        LinearDiscriminantAnalysis,
    )

    return pipeline(dataset, LinearDiscriminantAnalysis(solver="lsqr", **settings), scale=True)


def _naive_bayes(dataset: Dataset, settings: Settings, _seed: int) -> Any:
    from sklearn.naive_bayes import GaussianNB  # noqa: PLC0415 - only when training

    return pipeline(dataset, GaussianNB(**settings), scale=True)


def _ridge(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.linear_model import Ridge  # noqa: PLC0415 - only when training

    return pipeline(dataset, Ridge(random_state=seed, **settings), scale=True)


def _elastic_net(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.linear_model import ElasticNet  # noqa: PLC0415 - only when training

    # The penalty stands against the target's spread, so that its unit does not matter.
    spread = float(dataset.y.std()) or 1.0
    model = ElasticNet(
        alpha=settings["alpha"] * spread,
        l1_ratio=settings["l1_ratio"],
        max_iter=5000,
        random_state=seed,
    )
    return pipeline(dataset, model, scale=True)


def _coefficients(dataset: Dataset, _settings: Settings) -> int:
    return (width(dataset) + 1) * outputs(dataset)


LOGISTIC = Candidate(
    name="logistic",
    tasks=("classification",),
    portfolio=({"C": 1.0}, {"C": 0.03}),
    space={"C": Real(1e-4, 1e3)},
    build=_logistic,
    least_values=_coefficients,
)
DISCRIMINANT = Candidate(
    name="discriminant",
    tasks=("classification",),
    portfolio=({"shrinkage": 0.1},),
    space={"shrinkage": Real(1e-4, 1.0)},
    build=_discriminant,
    least_values=_coefficients,
)
NAIVE_BAYES = Candidate(
    name="naive-bayes",
    tasks=("classification",),
    portfolio=({"var_smoothing": 1e-3},),
    space={"var_smoothing": Real(1e-9, 1.0)},
    build=_naive_bayes,
    least_values=_coefficients,
)
RIDGE = Candidate(
    name="ridge",
    tasks=("regression",),
    portfolio=({"alpha": 1.0}, {"alpha": 30.0}),
    space={"alpha": Real(1e-3, 1e4)},
    build=_ridge,
    least_values=_coefficients,
)
ELASTIC_NET = Candidate(
    name="elastic-net",
    tasks=("regression",),
    portfolio=({"alpha": 0.03, "l1_ratio": 0.7},),
    space={"alpha": Real(1e-4, 1.0), "l1_ratio": Real(0.05, 1.0, log=False)},
    build=_elastic_net,
    least_values=_coefficients,
)
