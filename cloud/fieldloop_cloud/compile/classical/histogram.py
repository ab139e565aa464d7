"""HistGradientBoosting*: missing values and categories included.

scikit-learn puts categorical columns first and encodes their categories as ordinals; what it does
not know counts as missing. Here columns stay where they are: a node's question about categories
becomes a `categories.Question` about the raw values, any other a question about a number.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from fieldloop_cloud.compile.categories import Question, answers
from fieldloop_cloud.compile.classical.boosting import several_classes, two_classes
from fieldloop_cloud.compile.forest import Forest, Sums, Tree
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.value import Value

BITS = 32
"""Size of the words of scikit-learn's category sets."""


@lowers(HistGradientBoostingClassifier)
def histogram_classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Logistic function or softmax of the sums; at exactly zero the first class wins."""
    sums = _sums(estimator, value, context, centred=False)
    if sums.tensor.shape[1] > 1:
        return several_classes(sums)
    return {**two_classes(sums), "decision": sums.column()}


@lowers(HistGradientBoostingRegressor)
def histogram_regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """The sum, or its exponential for a loss with a log link."""
    link = type(estimator._loss.link).__name__  # noqa: SLF001 - has no public name
    if link not in ("IdentityLink", "LogLink"):
        raise context.refuse(
            f"the loss has a {link}", parameter="loss", advice="Use a loss of scikit-learn's own."
        )
    total = _sums(estimator, value, context, centred=True).column()
    return {"value": context.graph.exp(total) if link == "LogLink" else total}


def _sums(estimator: Any, value: Value, context: Context, *, centred: bool) -> Sums:
    columns = _Columns.of(estimator, value)
    predictors = [tree for stage in estimator._predictors for tree in stage]  # noqa: SLF001
    trees = [_tree(predictor, columns) for predictor in predictors]
    asked = columns.questions
    forest = Forest(
        trees,
        groups=estimator.n_trees_per_iteration_,
        baseline=estimator._baseline_prediction,  # noqa: SLF001
        centred=centred,
        compared_as="float64",
        answers=answers(context.graph, value.tensor(), list(asked)) if asked else None,
    )
    numbers = value if len(columns.numeric) == value.width else value.take(columns.numeric)
    return forest.sums(context, numbers)


@dataclass(frozen=True, eq=False)
class _Columns:
    """Where the columns are that the nodes speak of.

    Attributes:
        categorical: The value's columns that hold categories; the nodes' columns 0, 1, …
        numeric: The others, in order; the nodes' columns behind those.
        codes: For each categorical column how its categories stand in the table.
        known: For each categorical column which ordinals were seen in training.
        questions: What the nodes ask about categories, and the number of each.
    """

    categorical: list[int]
    numeric: list[int]
    codes: list[tuple[float, ...]]
    known: list[frozenset[int]]
    questions: dict[Question, int] = field(default_factory=dict)

    @classmethod
    def of(cls, estimator: Any, value: Value) -> "_Columns":
        if estimator.is_categorical_ is None:
            return cls([], list(range(value.width)), [], [])
        categorical = np.flatnonzero(estimator.is_categorical_).tolist()
        numeric = np.flatnonzero(~np.asarray(estimator.is_categorical_)).tolist()
        encoder = estimator._preprocessor.named_transformers_["encoder"]  # noqa: SLF001
        seen = estimator._bin_mapper.bin_thresholds_  # noqa: SLF001
        codes = [
            _codes(value, column, categories)
            for column, categories in zip(categorical, encoder.categories_, strict=True)
        ]
        known = [frozenset(int(v) for v in seen[place]) for place in range(len(categorical))]
        return cls(categorical, numeric, codes, known)

    def ask(self, place: int, left: NDArray[Any], *, missing_left: bool) -> int:
        """Return the number of the question whether a category is in the set `left` (bits)."""
        right = tuple(
            not _has(left, ordinal) if ordinal in self.known[place] else not missing_left
            for ordinal in range(len(self.codes[place]))
        )
        question = Question(self.categorical[place], self.codes[place], right, not missing_left)
        return self.questions.setdefault(question, len(self.questions))


def _codes(value: Value, column: int, categories: Any) -> tuple[float, ...]:
    """Return how the encoder's categories stand in the table; a missing one is left out."""
    vocabulary = value.vocabularies[column]
    if vocabulary is None:
        codes = np.asarray(categories, np.float64).tolist()
    else:
        vocabulary.restrict("encode")
        codes = vocabulary.codes(categories)
    return tuple(code for code in codes if not np.isnan(code))


def _has(bits: NDArray[Any], ordinal: int) -> bool:
    return bool((int(bits[ordinal // BITS]) >> (ordinal % BITS)) & 1)


def _tree(predictor: Any, columns: _Columns) -> Tree:
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(np.bool_)
    column = nodes["feature_idx"].astype(np.int64) - len(columns.categorical)
    threshold = nodes["num_threshold"].astype(np.float64)
    for node in np.flatnonzero(nodes["is_categorical"].astype(np.bool_) & ~leaf):
        entry = nodes[node]
        number = columns.ask(
            int(entry["feature_idx"]),
            predictor.raw_left_cat_bitsets[entry["bitset_idx"]],
            missing_left=bool(entry["missing_go_to_left"]),
        )
        column[node], threshold[node] = len(columns.numeric) + number, 0.0
    return Tree(
        column=column,
        threshold=threshold,
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        missing_left=nodes["missing_go_to_left"].astype(np.bool_),
        values=nodes["value"].astype(np.float64).reshape(-1, 1),
    )
