"""Cheap probes: what simple models reach in seconds, and how much of the target is noise.

A straight line, neighbours and a small forest say how the classes lie; the nearest neighbours'
disagreement says how much no model can know.
"""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.neighbors import fingerprints
from fieldloop_cloud.data.split import folds
from fieldloop_cloud.data.units import strata
from fieldloop_cloud.select.candidates.preprocessing import pipeline
from fieldloop_cloud.select.criteria.crossval import CrossValidated, cross_validate

MAX_ROWS = 3000
"""A probe looks at no more rows; it is to be cheap."""

_FOLDS = 4
_FEW_CLASSES = 50
_MAX_LOGISTIC_CELLS = 2e8
_NEIGHBOURS = 5
_NEXT_TO_NOTHING = 0.002

ProbeName = Literal["guess", "line", "neighbours", "forest"]

WORDS: dict[str, str] = {
    "guess": "always the commonest answer",
    "line": "a linear model: straight lines",
    "neighbours": "the nearest known rows",
    "forest": "a small random forest",
}


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One cheap model.

    Attributes:
        name: Which.
        score: Mean over folds.
        standard_error: Corrected for the folds' shared rows.
        fit_s: Seconds of one fit and scoring.
    """

    name: ProbeName
    score: float
    standard_error: float
    fit_s: float


class Noise(msgspec.Struct, frozen=True, kw_only=True):
    """What no model can know.

    Attributes:
        low: Least share of error that will remain: of rows for classes, of the target's variance
            for numbers.
        high: Most that these rows allow for; a model may do better with more of them.
        sentence: Both in words.
    """

    low: float
    high: float
    sentence: str


def probe(
    dataset: Dataset, *, metric: str, seed: int = 0, tell: Callable[[str], None] = lambda _: None
) -> tuple[Probe, ...]:
    """Score the probes by cross-validation.

    Args:
        dataset: Rows that may be learnt from.
        metric: Name of the score.
        seed: Of folds and models.
        tell: Told which probe runs.
    """
    data = _sample(dataset, seed)
    turns = folds(data, count=_FOLDS, seed=seed)
    made = []
    for name in ("guess", "line", "neighbours", "forest"):
        build = builder(name, data, seed)
        if build is None:
            continue
        tell(name)
        started = time.monotonic()
        found: CrossValidated = cross_validate(scorer(build, metric), data, turns, metric=metric)
        taken = (time.monotonic() - started) / len(turns)
        made.append(
            Probe(
                name=name,
                score=found.mean,
                standard_error=found.standard_error,
                fit_s=taken,
            )
        )
    return tuple(made)


def scorer(build: Callable[[Dataset], Any], metric: str) -> Callable[[Dataset, Dataset], float]:
    """Return what fits a fresh model on one data set and scores it on another."""
    from fieldloop_cloud.train.metrics import estimate  # noqa: PLC0415 - keeps imports light

    def score(train: Dataset, rest: Dataset) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a solver that stops early is judged by its score
            model = build(train).fit(train.flat.astype(np.float64), train.y)
            said = np.asarray(model.predict(rest.flat.astype(np.float64)))
        return estimate(metric, rest.y, said).value

    return score


def builder(name: str, data: Dataset, seed: int) -> Callable[[Dataset], Any] | None:
    """Return what builds a probe; None where it would be too costly for these data."""
    from sklearn.dummy import DummyClassifier, DummyRegressor  # noqa: PLC0415 - slow to load
    from sklearn.ensemble import (  # noqa: PLC0415
        RandomForestClassifier,
        RandomForestRegressor,
    )
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor  # noqa: PLC0415

    is_classes = data.task == "classification"
    if name == "guess":
        dummy = DummyClassifier() if is_classes else DummyRegressor()
        return lambda rows: pipeline(rows, dummy, scale=False)
    if name == "neighbours":
        near = KNeighborsClassifier if is_classes else KNeighborsRegressor
        return lambda rows: pipeline(rows, near(min(_NEIGHBOURS, len(rows))), scale=True)
    if name == "line":
        return lambda rows: pipeline(rows, _line(data, seed), scale=True)
    if len(data.labels) > _FEW_CLASSES:
        return None  # a share of each class in each leaf does not fit in memory
    trees = RandomForestClassifier if is_classes else RandomForestRegressor
    return lambda rows: pipeline(
        rows, trees(50, max_depth=12, n_jobs=1, random_state=seed), scale=False
    )


def _line(data: Dataset, seed: int) -> Any:
    from sklearn.linear_model import (  # noqa: PLC0415 - slow to load
        LogisticRegression,
        Ridge,
        RidgeClassifier,
    )

    if data.task == "regression":
        return Ridge()
    cells = data.flat.shape[1] * len(data) * len(data.labels)
    if len(data.labels) > _FEW_CLASSES or cells > _MAX_LOGISTIC_CELLS:
        return RidgeClassifier(random_state=seed)
    return LogisticRegression(max_iter=200, random_state=seed)


def noise(dataset: Dataset, probes: tuple[Probe, ...], *, seed: int = 0) -> Noise:
    """Estimate what no model can know, from how often the nearest neighbour disagrees.

    For classes the bounds of Cover and Hart (IEEE Transactions on Information Theory 13 (1967),
    21-27) on the best possible error; for numbers half the mean squared gap to the neighbour's
    target (Rice, Annals of Statistics 12 (1984), 1215-1230). Both are exact with endless rows;
    with these they say what is left at most, and a probe that does better lowers it.
    """
    data = _sample(dataset, seed)
    own, other = data.y, data.y[_nearest(data)]
    best = max((item.score for item in probes), default=0.0)
    if data.task == "regression":
        spread = float(np.var(own))
        share = float(np.mean((own - other) ** 2) / 2 / spread) if spread else 0.0
        high = max(0.0, min(share, 1 - best, 1.0))
        text = f"At most about {high:.0%} of the target's variance is noise"
        return Noise(low=0.0, high=high, sentence=f"{text}; the rest can be learnt.")
    wrong = float((own != other).mean())
    count = max(2, len(data.labels))
    inside = max(0.0, 1 - count / (count - 1) * wrong)
    low = (count - 1) / count * (1 - math.sqrt(inside))
    high = max(min(wrong, 1 - best), 0.0)
    low = min(low, high)
    if high < _NEXT_TO_NOTHING:
        return Noise(
            low=low, high=high, sentence="The rows nearest to a row tell nearly every answer."
        )
    expected = (
        "expect no model on these features to do much better"
        if data.kind == "tabular"
        else "a net that looks at neighbourhoods may still tell them"
    )
    told = f"{high:.1%}" if f"{low:.1%}" == f"{high:.1%}" else f"{low:.1%} to {high:.1%}"
    text = f"About {told} of the rows cannot be told by the rows nearest to them: {expected}."
    return Noise(low=low, high=high, sentence=text)


def _nearest(data: Dataset) -> NDArray[np.int64]:
    """Return the nearest other row of each, of another group where there are groups."""
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415 - slow to load

    prints = fingerprints(data)
    if not prints.shape[1]:
        return np.roll(np.arange(len(data)), 1)
    groups = np.arange(len(data)) if data.groups is None else data.groups
    most = int(np.unique(groups, return_counts=True)[1].max())
    count = min(len(data), most + 1)
    found = NearestNeighbors(n_neighbors=count).fit(prints).kneighbors(prints)[1]
    foreign = groups[found] != groups[:, np.newaxis]
    first = np.where(foreign.any(axis=1), foreign.argmax(axis=1), count - 1)
    return np.asarray(found[np.arange(len(data)), first], dtype=np.int64)


def _sample(dataset: Dataset, seed: int) -> Dataset:
    """Return up to `MAX_ROWS` rows with every class's share."""
    if len(dataset) <= MAX_ROWS:
        return dataset
    random = np.random.default_rng(seed)
    layer = strata(dataset)
    mixed = random.permutation(len(dataset))
    order = mixed[np.argsort(layer[mixed], kind="stable")]
    return dataset.take(np.sort(order[np.linspace(0, len(order) - 1, MAX_ROWS).astype(np.int64)]))
