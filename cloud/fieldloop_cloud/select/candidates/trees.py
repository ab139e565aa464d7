"""Trees and what is grown from many of them."""

from typing import Any

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates.candidate import BOTH, Candidate
from fieldloop_cloud.select.candidates.preprocessing import pipeline
from fieldloop_cloud.select.candidates.space import Among, Real, Settings, Space, Whole

_FEW_TREES = 10
_LOWEST_DEPTH = 3
_FEWEST_LEAVES = 4


def _tree(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.tree import (  # noqa: PLC0415 - only when training
        DecisionTreeClassifier,
        DecisionTreeRegressor,
    )

    kind = DecisionTreeClassifier if dataset.task == "classification" else DecisionTreeRegressor
    return pipeline(dataset, kind(random_state=seed, **settings), scale=False)


def _forest(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.ensemble import (  # noqa: PLC0415 - only when training
        RandomForestClassifier,
        RandomForestRegressor,
    )

    kind = RandomForestClassifier if dataset.task == "classification" else RandomForestRegressor
    return pipeline(dataset, kind(random_state=seed, n_jobs=1, **settings), scale=False)


def _extra(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.ensemble import (  # noqa: PLC0415 - only when training
        ExtraTreesClassifier,
        ExtraTreesRegressor,
    )

    kind = ExtraTreesClassifier if dataset.task == "classification" else ExtraTreesRegressor
    return pipeline(dataset, kind(random_state=seed, n_jobs=1, **settings), scale=False)


def _boosting(dataset: Dataset, settings: Settings, seed: int) -> Any:
    from sklearn.ensemble import (  # noqa: PLC0415 - only when training
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
    )

    is_class = dataset.task == "classification"
    kind = HistGradientBoostingClassifier if is_class else HistGradientBoostingRegressor
    model = kind(random_state=seed, early_stopping=False, **settings)
    return pipeline(dataset, model, scale=False)


def _smaller_forest(settings: Settings, share: float) -> Settings | None:
    """Fewer trees first; below ten of them shallower ones."""
    trees, depth = int(settings["n_estimators"]), int(settings["max_depth"])
    if trees == 1 and depth <= _LOWEST_DEPTH:
        return None
    fitting = min(trees - 1, int(trees * share))
    if fitting < _FEW_TREES and depth > _LOWEST_DEPTH:
        return {**settings, "n_estimators": min(trees, _FEW_TREES), "max_depth": depth - 1}
    return {**settings, "n_estimators": max(1, fitting)}


def _smaller_tree(settings: Settings, _share: float) -> Settings | None:
    depth = int(settings["max_depth"])
    return None if depth <= _LOWEST_DEPTH else {**settings, "max_depth": depth - 1}


def _smaller_boosting(settings: Settings, share: float) -> Settings | None:
    """Fewer rounds first; below ten of them smaller trees."""
    rounds, leaves = int(settings["max_iter"]), int(settings["max_leaf_nodes"])
    if rounds == 1 and leaves <= _FEWEST_LEAVES:
        return None
    fitting = min(rounds - 1, int(rounds * share))
    if fitting < _FEW_TREES and leaves > _FEWEST_LEAVES:
        smaller = {"max_iter": min(rounds, _FEW_TREES), "max_leaf_nodes": leaves // 2}
        return {**settings, **smaller}
    return {**settings, "max_iter": max(1, fitting)}


TREE = Candidate(
    name="tree",
    tasks=BOTH,
    portfolio=({"max_depth": 6, "min_samples_leaf": 3},),
    space={"max_depth": Whole(2, 16), "min_samples_leaf": Whole(1, 50, log=True)},
    growth=1.1,
    build=_tree,
    shrink=_smaller_tree,
)
_FOREST_SPACE: Space = {
    "n_estimators": Whole(5, 200, log=True),
    "max_depth": Whole(3, 18),
    "min_samples_leaf": Whole(1, 20, log=True),
    "max_features": Among(("sqrt", 0.3, 1.0)),
}
RANDOM_FOREST = Candidate(
    name="random-forest",
    tasks=BOTH,
    portfolio=(
        {"n_estimators": 100, "max_depth": 12, "min_samples_leaf": 1, "max_features": "sqrt"},
    ),
    space=_FOREST_SPACE,
    growth=1.1,
    build=_forest,
    shrink=_smaller_forest,
    is_costly=True,
)
EXTRA_TREES = Candidate(
    name="extra-trees",
    tasks=BOTH,
    portfolio=(
        {"n_estimators": 80, "max_depth": 12, "min_samples_leaf": 1, "max_features": "sqrt"},
        {"n_estimators": 100, "max_depth": 18, "min_samples_leaf": 1, "max_features": 1.0},
    ),
    space=_FOREST_SPACE,
    growth=1.1,
    build=_extra,
    shrink=_smaller_forest,
    is_costly=True,
)
BOOSTING = Candidate(
    name="boosting",
    tasks=BOTH,
    portfolio=(
        {"max_iter": 60, "learning_rate": 0.12, "max_leaf_nodes": 15, "l2_regularization": 1.0},
    ),
    space={
        "max_iter": Whole(10, 200, log=True),
        "learning_rate": Real(0.02, 0.5),
        "max_leaf_nodes": Whole(3, 31, log=True),
        "l2_regularization": Real(1e-3, 1e2),
    },
    build=_boosting,
    shrink=_smaller_boosting,
    is_costly=True,
)
