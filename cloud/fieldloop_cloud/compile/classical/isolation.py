"""IsolationForest: how soon a row is alone, as a sum of depths over the trees.

Whether a row is an outlier is decided on the integer sum of depths: the score's threshold is moved
there once, in float64. A row whose score equals the threshold is an inlier, as in scikit-learn.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.ensemble import IsolationForest

from fieldloop_cloud.compile.classical.trees import tree_of
from fieldloop_cloud.compile.forest import Forest
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value


@lowers(IsolationForest)
def isolation_forest(estimator: Any, value: Value, context: Context) -> Outputs:
    """-2 to the power of minus the relative depth; the label is 1 from `offset_` upwards."""
    g, members = context.graph, estimator.estimators_
    rows = estimator.max_samples_
    if rows < 2 or not -1 < estimator.offset_ < 0:  # noqa: PLR2004 - nothing to isolate from
        raise context.refuse(
            f"its score cannot be inverted: fitted on {rows} rows, offset {estimator.offset_:g}",
            parameter="max_samples",
            advice="Fit it on two rows or more, with contamination='auto' or up to 0.5.",
        )
    depths = zip(
        members,
        estimator.estimators_features_,
        estimator._decision_path_lengths,  # noqa: SLF001 - have no public names
        estimator._average_path_length_per_tree,  # noqa: SLF001
        strict=True,
    )
    trees = [
        replace(tree_of(tree, columns=columns), values=(path + rest - 1.0).reshape(-1, 1))
        for tree, columns, path, rest in depths
    ]
    sums = Forest(trees).sums(context, value)
    expected = len(members) * _expected_depth(rows)
    score = g.neg(g.exp(sums.column(-math.log(2) / expected)))
    bound = -expected * math.log2(-estimator.offset_)
    rounding = len(members) / 2 * sums.scale[0]
    return {
        "label": sums.at_least(bound - rounding),
        "decision": g.sub(score, np.float32(estimator.offset_)),
        "score": score,
    }


def _expected_depth(rows: int) -> float:
    """Mean depth of an unsuccessful search in a binary tree of `rows` (Liu et al., 2008, eq. 1)."""
    if rows == 2:  # noqa: PLR2004 - the formula's own exception
        return 1.0
    harmonic = math.log(rows - 1.0) + float(np.euler_gamma)
    return 2.0 * harmonic - 2.0 * (rows - 1.0) / rows
