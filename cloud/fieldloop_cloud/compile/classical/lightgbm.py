"""LightGBM models, from their own dump; the library itself is not imported.

LightGBM compares in float64 with <=, after it took numbers next to zero for zero. A missing value
goes the node's default way, or counts as zero where training saw none. A category outside the
node's set, known or not, goes right.
"""

from typing import Any

import numpy as np

from fieldloop_cloud.compile.categories import Question, answers
from fieldloop_cloud.compile.classical.boosting import several_classes, two_classes
from fieldloop_cloud.compile.forest import Forest, Sums, Tree, in_turns
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value

IDENTITY = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
LOG = ("poisson", "gamma", "tweedie")

ZERO = float(np.float32(1e-35))
"""LightGBM's kZeroThreshold: numbers up to this far from zero are zero."""


@lowers("lightgbm.sklearn.LGBMClassifier")
def lightgbm_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Logistic function or softmax of the sums."""
    dump = _dump(estimator, context)
    objective, *options = dump["objective"].split()
    if objective == "binary":
        slope = float(dict(option.split(":") for option in options).get("sigmoid", 1.0))
        return two_classes(_sums(dump, value, context), factor=slope)
    if objective == "multiclass":
        made = several_classes(_sums(dump, value, context))
        return {name: made[name] for name in ("label", "probabilities")}
    raise _refuse_objective(context, objective, "binary or multiclass")


@lowers("lightgbm.sklearn.LGBMRegressor")
def lightgbm_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """The sum, or its exponential for an objective with a log link."""
    dump = _dump(estimator, context)
    objective, *options = dump["objective"].split()
    if objective not in IDENTITY + LOG or "sqrt" in options:
        raise _refuse_objective(context, dump["objective"], ", ".join(IDENTITY + LOG))
    total = _sums(dump, value, context, centred=True).column()
    return {"value": context.graph.exp(total) if objective in LOG else total}


def _dump(estimator: Any, context: Context) -> Any:
    dump = estimator.booster_.dump_model()
    if dump["pandas_categorical"]:
        raise context.refuse(
            "it was fitted on a DataFrame's categorical columns",
            parameter="categorical_feature",
            advice="Encode categories as integers before, and name the columns.",
        )
    return dump


def _refuse_objective(context: Context, objective: str, known: str) -> Exception:
    return context.refuse(
        f"objective {objective} has no lowering", parameter="objective", advice=f"Use {known}."
    )


def _sums(dump: Any, value: Value, context: Context, *, centred: bool = False) -> Sums:
    infos, count = dump["tree_info"], dump["num_tree_per_iteration"]
    codes = _category_codes(infos)
    questions: dict[Question, int] = {}
    factor = count / len(infos) if dump["average_output"] else 1.0
    trees = [
        _Reader(context, value.width, codes, questions).read(info["tree_structure"], factor)
        for info in infos
    ]
    groups, ordered = in_turns(trees, [i % count for i in range(len(trees))])
    asked = answers(context.graph, value.tensor(), list(questions)) if questions else None
    forest = Forest(ordered, groups=groups, centred=centred, compared_as="float64", answers=asked)
    return forest.sums(context, value)


def _category_codes(infos: Any) -> dict[int, tuple[float, ...]]:
    """Return for each categorical column the categories that stand in any set."""
    found: dict[int, set[float]] = {}
    stack = [info["tree_structure"] for info in infos]
    while stack:
        node = stack.pop()
        if "split_feature" not in node:
            continue
        stack += [node["left_child"], node["right_child"]]
        if node["decision_type"] == "==":
            found.setdefault(node["split_feature"], set()).update(_set_of(node))
    return {column: tuple(sorted(codes)) for column, codes in found.items()}


def _around_zero(threshold: float) -> float:
    """Return the threshold that treats all numbers next to zero as it treats zero."""
    if -ZERO <= threshold < 0:
        return float(np.nextafter(-ZERO, -1.0))
    return ZERO if 0 <= threshold < ZERO else threshold


def _set_of(node: Any) -> frozenset[float]:
    return frozenset(float(code) for code in str(node["threshold"]).split("||"))


class _Reader:
    """Turns one nested tree into tables."""

    def __init__(
        self,
        context: Context,
        width: int,
        codes: dict[int, tuple[float, ...]],
        questions: dict[Question, int],
    ) -> None:
        self._context = context
        self._width = width
        self._codes = codes
        self._questions = questions

    def read(self, root: Any, factor: float) -> Tree:
        """Return the tree, its leaves multiplied by `factor`."""
        nodes = [root]
        left, right = [], []
        for node in nodes:  # grows while it is walked
            inner = "split_feature" in node
            left.append(len(nodes) if inner else -1)
            right.append(len(nodes) + 1 if inner else -1)
            if inner:
                nodes += [node["left_child"], node["right_child"]]
        asked = [self._question(node) for node in nodes]
        return Tree(
            column=np.array([column for column, _, _ in asked]),
            threshold=np.array([threshold for _, threshold, _ in asked], np.float64),
            left=np.array(left),
            right=np.array(right),
            missing_left=np.array([goes_left for _, _, goes_left in asked]),
            values=factor * np.array([[node.get("leaf_value", 0.0)] for node in nodes]),
        )

    def _question(self, node: Any) -> tuple[int, float, bool]:
        """Return column, threshold, and whether a missing value goes left."""
        if "leaf_coeff" in node:
            raise self._context.refuse(
                "its leaves are linear models", parameter="linear_tree", advice="Turn it off."
            )
        if "split_feature" not in node:
            return 0, 0.0, True
        column = node["split_feature"]
        if node["decision_type"] == "==":
            members = _set_of(node)
            right = tuple(code not in members for code in self._codes[column])
            question = Question(column, self._codes[column], right, otherwise_right=True)
            number = self._questions.setdefault(question, len(self._questions))
            return self._width + number, 0.0, True
        threshold = _around_zero(float(node["threshold"]))
        if node["missing_type"] == "Zero":
            raise self._context.refuse(
                "zero stands for a missing value",
                parameter="zero_as_missing",
                advice="Use zero_as_missing=False.",
            )
        if node["missing_type"] == "None":
            return column, threshold, threshold >= 0  # NaN counts as zero
        return column, threshold, bool(node["default_left"])
