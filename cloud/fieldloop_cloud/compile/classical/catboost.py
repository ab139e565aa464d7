"""CatBoost models, from their own JSON dump; the library itself is not imported.

A CatBoost tree asks the same question on a whole level: bit i of the leaf's number says whether
value > border of level i, in float32. It is unrolled into a full binary tree.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fieldloop_cloud.compile.classical.boosting import several_classes, several_labels, two_classes
from fieldloop_cloud.compile.forest import Forest, Sums, Tree
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value

IDENTITY = ("RMSE", "MAE", "Quantile", "Huber", "Expectile", "MAPE", "MultiRMSE")


@lowers("catboost.core.CatBoostClassifier")
def catboost_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Logistic function or softmax of the sums."""
    loss = _loss(estimator)
    if loss not in ("Logloss", "CrossEntropy", "MultiClass", "MultiLogloss"):
        raise _refuse_loss(context, loss, "Logloss, CrossEntropy, MultiClass or MultiLogloss")
    sums = _sums(estimator, value, context)
    if loss == "MultiLogloss":
        return several_labels(sums)
    if loss != "MultiClass":
        return two_classes(sums)
    made = several_classes(sums)
    return {name: made[name] for name in ("label", "probabilities")}


@lowers("catboost.core.CatBoostRegressor")
def catboost_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """The sum, or one for each target."""
    loss = _loss(estimator)
    if loss not in IDENTITY:
        raise _refuse_loss(context, loss, ", ".join(IDENTITY))
    sums = _sums(estimator, value, context, centred=True)
    return {"value": sums.real() if sums.tensor.shape[1] > 1 else sums.column()}


def _loss(estimator: Any) -> str:
    return str(estimator.get_all_params()["loss_function"]).partition(":")[0]


def _refuse_loss(context: Context, loss: str, known: str) -> Exception:
    return context.refuse(
        f"loss {loss} has no lowering", parameter="loss_function", advice=f"Use {known}."
    )


def _sums(estimator: Any, value: Value, context: Context, *, centred: bool = False) -> Sums:
    dump = _dump(estimator)
    if "oblivious_trees" not in dump:
        raise context.refuse(
            "its trees are not symmetric",
            parameter="grow_policy",
            advice="Use grow_policy='SymmetricTree'.",
        )
    features = {f["feature_index"]: f for f in dump["features_info"]["float_features"]}
    scale, bias = dump["scale_and_bias"]
    trees = []
    for tree in dump["oblivious_trees"]:
        splits = tree["splits"] or []
        kinds = {split["split_type"] for split in splits} - {"FloatFeature"}
        if kinds:
            raise context.refuse(
                f"it splits on {', '.join(sorted(kinds))}",
                parameter="cat_features",
                advice="Encode categories as numbers before, or use HistGradientBoosting*.",
            )
        trees.append(_unrolled(splits, features, scale * np.array(tree["leaf_values"])))
    return Forest(trees, baseline=np.array(bias), centred=centred).sums(context, value)


def _dump(estimator: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        estimator.save_model(str(path), format="json")
        return json.loads(path.read_text())


def _unrolled(splits: Any, features: Any, leaves: Any) -> Tree:
    """Return the full tree in level order: node n has the children 2n + 1 and 2n + 2."""
    depth = len(splits)
    inner, count = 2**depth - 1, 2**depth
    level = np.floor(np.log2(np.arange(1, inner + count + 1))).astype(int)
    asked = [features[split["float_feature_index"]] for split in splits]
    columns = np.array([*(f["flat_feature_index"] for f in asked), 0])
    borders = np.array([*(split["border"] for split in splits), 0.0])
    missing_left = np.array([*(f["nan_value_treatment"] != "AsTrue" for f in asked), True])
    # The path's first turn is bit 0 of CatBoost's leaf number, here it is the highest one.
    path = np.arange(count)
    number = sum(((path >> (depth - 1 - bit)) & 1) << bit for bit in range(depth))
    values = np.zeros((inner + count, len(leaves) // count))
    values[inner:] = leaves.reshape(count, -1)[number]
    nodes = np.arange(inner + count)
    return Tree(
        column=columns[level],
        threshold=borders[level].astype(np.float32).astype(np.float64),
        left=np.where(nodes < inner, 2 * nodes + 1, -1),
        right=np.where(nodes < inner, 2 * nodes + 2, -1),
        missing_left=missing_left[level],
        values=values,
    )
