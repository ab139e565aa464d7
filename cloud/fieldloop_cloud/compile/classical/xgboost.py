"""XGBoost models, from their own JSON dump; the library itself is not imported.

XGBoost compares in float32 and sends a row left if value < threshold, so the largest float32 below
a threshold takes its place. Its trees add up from a base score that is kept on the answer's scale.
"""

import json
from typing import Any

import numpy as np

from fieldloop_cloud.compile.classical.boosting import several_classes, several_labels, two_classes
from fieldloop_cloud.compile.forest import Forest, Sums, Tree, in_turns
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value

IDENTITY = ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:squaredlogerror")
LOG = ("count:poisson", "reg:gamma", "reg:tweedie")


@lowers("xgboost.sklearn.XGBClassifier", "xgboost.sklearn.XGBRFClassifier")
def xgboost_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Logistic function or softmax of the margins."""
    learner = _learner(estimator, context)
    objective = learner["objective"]["name"]
    if objective == "binary:logistic":
        score = _base_scores(learner)
        margins = _margins(learner, value, context, np.log(score / (1 - score)))
        several = margins.tensor.shape[1] > 1
        return several_labels(margins) if several else two_classes(margins)
    if objective in ("multi:softprob", "multi:softmax"):
        made = several_classes(_margins(learner, value, context, _base_scores(learner)))
        return {name: made[name] for name in ("label", "probabilities")}
    raise _refuse_objective(context, objective, "binary:logistic or multi:softprob")


@lowers("xgboost.sklearn.XGBRegressor", "xgboost.sklearn.XGBRFRegressor")
def xgboost_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """The margin, or its exponential for an objective with a log link."""
    learner = _learner(estimator, context)
    objective, score = learner["objective"]["name"], _base_scores(learner)
    if objective not in IDENTITY + LOG:
        raise _refuse_objective(context, objective, ", ".join(IDENTITY + LOG))
    logarithmic = objective in LOG
    baseline = np.log(score) if logarithmic else score
    margins = _margins(learner, value, context, baseline, centred=True)
    made = margins.real() if margins.tensor.shape[1] > 1 else margins.column()
    return {"value": context.graph.exp(made) if logarithmic else made}


def _learner(estimator: Any, context: Context) -> Any:
    """Return the dump's learner after checking that its trees are of the plain kind."""
    learner = json.loads(bytes(estimator.get_booster().save_raw("json")))["learner"]
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise context.refuse(
            f"booster {booster['name']} is not a sum of plain trees",
            parameter="booster",
            advice="Use booster='gbtree'.",
        )
    if not np.isnan(estimator.missing):
        raise context.refuse(
            f"{estimator.missing} stands for a missing value",
            parameter="missing",
            advice="Use missing=nan and write missing values as NaN.",
        )
    for tree in booster["model"]["trees"]:
        if any(tree["split_type"]):
            raise context.refuse(
                "it splits on categories",
                parameter="enable_categorical",
                advice="Encode categories in the pipeline, or use HistGradientBoosting*.",
            )
        if int(tree["tree_param"]["size_leaf_vector"]) > 1:
            raise context.refuse(
                "its leaves are vectors",
                parameter="multi_strategy",
                advice="Use multi_strategy='one_output_per_tree'.",
            )
    return learner


def _refuse_objective(context: Context, objective: str, known: str) -> Exception:
    return context.refuse(
        f"objective {objective} has no lowering", parameter="objective", advice=f"Use {known}."
    )


def _base_scores(learner: Any) -> Any:
    """Return the base score: a number, or one for each sum."""
    written = learner["learner_model_param"]["base_score"].strip("[]")
    return np.array([float(score) for score in written.split(",")], np.float32).astype(np.float64)


def _margins(
    learner: Any, value: Value, context: Context, baseline: Any, *, centred: bool = False
) -> Sums:
    model = learner["gradient_booster"]["model"]
    best = learner["attributes"].get("best_iteration")
    end = model["iteration_indptr"][int(best) + 1] if best is not None else len(model["trees"])
    trees = [_tree(tree) for tree in model["trees"][:end]]
    groups, ordered = in_turns(trees, model["tree_info"][:end])
    return Forest(ordered, groups=groups, baseline=baseline, centred=centred).sums(context, value)


def _tree(tree: Any) -> Tree:
    left = np.array(tree["left_children"])
    conditions = np.array(tree["split_conditions"], np.float32)
    below = np.nextafter(conditions, np.float32(-np.inf))
    return Tree(
        column=np.array(tree["split_indices"]),
        threshold=below.astype(np.float64),
        left=left,
        right=np.array(tree["right_children"]),
        missing_left=np.array(tree["default_left"]).astype(np.bool_),
        values=conditions.astype(np.float64).reshape(-1, 1),
    )
