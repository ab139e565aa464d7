"""Multi-layer perceptrons: products with an activation between them."""

from typing import Any

from sklearn.neural_network import MLPClassifier, MLPRegressor

from fieldloop_cloud.compile.classical.linear import decided, two_columns
from fieldloop_cloud.compile.classical.several import above
from fieldloop_cloud.compile.lowering import Context, Outputs, lowers
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.value import Value


@lowers(MLPRegressor)
def regressor(estimator: Any, value: Value, context: Context) -> Outputs:
    """The last layer's sums."""
    made = _activate(_layers(estimator, value, context), estimator.out_activation_, context)
    return {"value": context.graph.reshape(made, (-1,)) if made.shape[1] == 1 else made}


@lowers(MLPClassifier)
def classifier(estimator: Any, value: Value, context: Context) -> Outputs:
    """Softmax, one logistic function for two classes, or one for each of several labels."""
    g = context.graph
    logits = _layers(estimator, value, context)
    if estimator.out_activation_ == "softmax":
        return {"label": g.arg_max(logits), "probabilities": g.softmax(logits)}
    if logits.shape[1] != 1:
        return {**above(logits, 0.0, context), "probabilities": g.logistic(logits)}
    logit = g.reshape(logits, (-1,))
    label = decided(logit, context)["label"]
    return {"label": label, "probabilities": two_columns(logit, context)}


def _layers(estimator: Any, value: Value, context: Context) -> Tensor:
    """Emit all layers up to the last sums, (-1, n_outputs_)."""
    coefficients, intercepts = estimator.coefs_, estimator.intercepts_
    table = context.linear(value, coefficients[0].T, intercepts[0])
    for weights, bias in zip(coefficients[1:], intercepts[1:], strict=True):
        table = _activate(table, estimator.activation, context)
        table = context.graph.fully_connected(table, context.weights(weights.T), bias)
    return table


def _activate(table: Tensor, name: str, context: Context) -> Tensor:
    g = context.graph
    functions = {
        "identity": lambda a: a,
        "relu": g.relu,
        "tanh": g.tanh,
        "logistic": g.logistic,
        "exp": g.exp,
    }
    if name not in functions:
        raise context.refuse(
            f"unknown activation {name!r}",
            parameter="activation",
            advice=f"Use one of {', '.join(functions)}.",
        )
    made: Tensor = functions[name](table)
    return made
