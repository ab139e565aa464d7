"""Models that keep training rows: support vector machines and nearest neighbours."""

from typing import Any

from fieldloop.errors import GateError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates.candidate import BOTH, Candidate, width
from fieldloop_cloud.select.candidates.preprocessing import pipeline, target_scaled
from fieldloop_cloud.select.candidates.space import Among, Real, Settings, Whole

_LARGEST_K = 40


def _gamma(dataset: Dataset, factor: float) -> float:
    """Return gamma in units of one over the squared length that a row varies by.

    Factor 1 is scikit-learn's `scale`: numbers are standardised, pixels keep their own spread.
    """
    variance = float(dataset.flat.var()) if dataset.image is not None else 1.0
    return factor / (width(dataset) * (variance or 1.0))


def _machine(dataset: Dataset, settings: Settings, kernel: dict[str, Any], seed: int) -> Any:
    from sklearn.calibration import CalibratedClassifierCV  # noqa: PLC0415 - only when training
    from sklearn.model_selection import StratifiedKFold  # noqa: PLC0415
    from sklearn.svm import SVC, SVR  # noqa: PLC0415

    if dataset.task == "regression":
        model = SVR(C=settings["C"], epsilon=settings.get("epsilon", 0.1), **kernel)
        return target_scaled(dataset, model)
    smallest = min(count for count in dataset.class_counts if count)
    if smallest < 2:  # noqa: PLR2004 - one to fit, one to calibrate
        raise GateError(
            "a class has a single training row, and calibration needs two",
            where=f"svm-{kernel['kernel']}",
            advice="Bring more rows of it, or merge it with another class.",
        )
    folds = StratifiedKFold(min(5, smallest), shuffle=True, random_state=seed)
    # One SVM on all rows; Platt's sigmoids are fitted on cross-validated decisions, as
    # SVC(probability=True) did before scikit-learn deprecated it.
    model = CalibratedClassifierCV(
        SVC(C=settings["C"], **kernel), method="sigmoid", cv=folds, ensemble=False
    )
    return pipeline(dataset, model, scale=True)


def _svm_rbf(dataset: Dataset, settings: Settings, seed: int) -> Any:
    kernel = {"kernel": "rbf", "gamma": _gamma(dataset, settings["gamma"])}
    return _machine(dataset, settings, kernel, seed)


def _svm_poly(dataset: Dataset, settings: Settings, seed: int) -> Any:
    kernel = {
        "kernel": "poly",
        "degree": settings["degree"],
        "coef0": 1.0,
        "gamma": _gamma(dataset, settings["gamma"]),
    }
    return _machine(dataset, settings, kernel, seed)


def _svm_linear(dataset: Dataset, settings: Settings, seed: int) -> Any:
    return _machine(dataset, settings, {"kernel": "linear"}, seed)


def _neighbours(dataset: Dataset, settings: Settings, _seed: int) -> Any:
    from sklearn.neighbors import (  # noqa: PLC0415 - only when training
        KNeighborsClassifier,
        KNeighborsRegressor,
    )

    kind = KNeighborsClassifier if dataset.task == "classification" else KNeighborsRegressor
    fitting = {**settings, "n_neighbors": min(settings["n_neighbors"], len(dataset))}
    return pipeline(dataset, kind(**fitting), scale=True)


def _kept_rows(dataset: Dataset, _settings: Settings) -> int:
    return len(dataset) * width(dataset)


SVM_LINEAR = Candidate(
    name="svm-linear",
    tasks=("classification",),
    portfolio=({"C": 0.1},),
    space={"C": Real(1e-3, 1e2)},
    growth=2.0,
    build=_svm_linear,
)
SVM_RBF = Candidate(
    name="svm-rbf",
    tasks=BOTH,
    portfolio=({"C": 10.0, "gamma": 1.0}, {"C": 1.0, "gamma": 0.3}),
    space={"C": Real(1e-2, 1e3), "gamma": Real(1e-2, 1e2)},
    growth=2.0,
    build=_svm_rbf,
)
SVM_POLY = Candidate(
    name="svm-poly",
    tasks=BOTH,
    portfolio=({"C": 1.0, "gamma": 1.0, "degree": 3},),
    space={"C": Real(1e-3, 1e2), "gamma": Real(1e-2, 1e1), "degree": Among((2, 3, 4))},
    growth=2.0,
    build=_svm_poly,
)
NEAREST = Candidate(
    name="k-nearest",
    tasks=BOTH,
    portfolio=({"n_neighbors": 5, "weights": "distance"},),
    space={
        "n_neighbors": Whole(1, _LARGEST_K, log=True),
        "weights": Among(("uniform", "distance")),
    },
    build=_neighbours,
    least_values=_kept_rows,
)
