"""Leaking columns: the target in disguise, the next moment's target, and row numbers."""

import re

import numpy as np
from numpy.typing import NDArray

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.disguise import TELLING, feature_scores, filled, is_renamed, tree_score
from fieldloop_cloud.data.leak import Leak, named_columns
from fieldloop_cloud.data.ordering import moments
from fieldloop_cloud.data.split import Split

_MIN_ROWS = 50
_EASY = 0.98
"""Where half of the other features come this far, the problem is an easy one."""

_IDENTIFIER = re.compile(
    r"(^|[\s_.-])(id|uuid|guid|index|serial|row|nr|no)$|^unnamed: ?0$", re.IGNORECASE
)


def leaking_columns(dataset: Dataset, parts: Split) -> list[Leak]:
    """Return every finding about columns."""
    if dataset.kind != "tabular":
        return []
    found = _constants(dataset, parts)
    if len(dataset) >= _MIN_ROWS:
        found += [*_disguises(dataset), *_future_columns(dataset), *_identifiers(dataset)]
    return found


def _future_columns(dataset: Dataset) -> list[Leak]:
    """Columns that hold the next row's target, which nobody knows yet."""
    if dataset.times is None:
        return []
    order = np.argsort(moments(dataset.times), kind="stable")
    if dataset.groups is not None:
        order = order[np.argsort(dataset.groups[order], kind="stable")]
    now, following = order[:-1], order[1:]
    if dataset.groups is not None:
        same = dataset.groups[now] == dataset.groups[following]
        now, following = now[same], following[same]
    target = dataset.y[following]
    if len(now) < _MIN_ROWS or _tells(dataset.y[now].astype(np.float64), target, dataset):
        return []  # a target that hardly changes is told by everything
    table = filled(dataset.X[now])
    found = [
        spec.name
        for spec, column in zip(dataset.features, table.T, strict=True)
        if np.ptp(column) > 0 and _tells(column, target, dataset)
    ]
    if not found:
        return []
    return [
        Leak(
            kind="future",
            stops=True,
            text=f"columns {named_columns(found)} tell the target of the next moment.",
            advice=f"Leave them out: --drop {found[0]}.",
            columns=tuple(found),
        )
    ]


def _tells(column: NDArray[np.float64], target: NDArray[np.generic], dataset: Dataset) -> bool:
    if dataset.task == "regression":
        if np.ptp(column) == 0 or np.ptp(target) == 0:
            return False
        return bool(abs(np.corrcoef(column, target.astype(np.float64))[0, 1]) > TELLING)
    return bool(tree_score(column, target) > TELLING)


def _disguises(dataset: Dataset) -> list[Leak]:
    scores = feature_scores(dataset)
    telling = np.flatnonzero(np.nan_to_num(scores, nan=0.0) > TELLING)
    renamed = [
        index for index in telling if dataset.labels and is_renamed(dataset.X[:, index], dataset.y)
    ]
    others = scores[np.setdiff1d(np.flatnonzero(~np.isnan(scores)), telling)]
    is_easy = len(telling) > 1 and (not len(others) or float(np.median(others)) > _EASY)
    found = []
    for index in telling:
        name = dataset.features[index].name
        how = "corresponds one to one to" if index in renamed else "alone tells"
        found.append(
            Leak(
                kind="disguise",
                stops=index in renamed or not is_easy,
                text=f"column '{name}' {how} the target ({scores[index]:.4f} on rows that were "
                "not looked at).",
                advice=f"Check that it is known before the answer is; if not: --drop '{name}'.",
                columns=(name,),
            )
        )
    return found


def _identifiers(dataset: Dataset) -> list[Leak]:
    found = []
    for spec, column in zip(dataset.features, dataset.X.T, strict=True):
        known = column[~np.isnan(column)]
        distinct = np.unique(known)
        if spec.categories or len(known) < _MIN_ROWS or not (known == np.rint(known)).all():
            continue
        is_named = _IDENTIFIER.search(spec.name) is not None
        numbers_rows = len(distinct) == len(dataset) == np.ptp(distinct) + 1
        if numbers_rows or (is_named and len(distinct) > len(dataset) / 2):
            found.append(_identifier(spec.name, repeats=False))
        elif is_named and len(distinct) > max(len(dataset.labels), 10):
            found.append(_identifier(spec.name, repeats=True))
    return found


def _identifier(name: str, *, repeats: bool) -> Leak:
    if repeats:
        return Leak(
            kind="identifier",
            stops=False,
            text=f"Column '{name}' looks like the number of something that occurs in many rows.",
            advice=f"If rows of one belong together: --group '{name}'.",
            columns=(name,),
        )
    return Leak(
        kind="identifier",
        stops=True,
        text=f"column '{name}' numbers the rows and means nothing on a device.",
        advice=f"Leave it out: --drop '{name}'.",
        columns=(name,),
    )


def _constants(dataset: Dataset, parts: Split) -> list[Leak]:
    learnt = filled(dataset.X[parts.train])
    fixed = (np.ptp(learnt, axis=0) == 0) & (np.ptp(filled(dataset.X), axis=0) > 0)
    names = [dataset.features[index].name for index in np.flatnonzero(fixed)]
    if not names:
        return []
    return [
        Leak(
            kind="constant in training",
            stops=False,
            text=f"Columns {named_columns(names)} vary in held-out rows only, so nothing is learnt "
            "of them.",
            advice="Leave them out, or bring rows where they vary.",
            columns=tuple(names),
        )
    ]
