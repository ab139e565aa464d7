"""The registry: how each estimator becomes ops.

A *lowering* is a function `(estimator, value, context) -> outputs`, registered for exact types:

    @lowers(LinearRegression)
    def linear_regression(estimator, value, context):
        return {"value": context.linear(value, estimator.coef_, estimator.intercept_)}

- `estimator` is fitted (checked before). Read its attributes; never call `predict` on it.
- `value` is the input table (`compile.value.Value`): `value.tensor()`, `value.centred()`,
  `context.linear(value, …)`, or for trees `context.thresholds(value)`.
- `context.graph` has the op methods (`compile.ops`).
- **Outputs** are named by role and shaped as scikit-learn shapes them:
  `label` int32 (-1,): index into `estimator.classes_` (clusterers: cluster number; anomaly
  detectors: index into (-1, 1)), for several targets (-1, targets); `probabilities` float32
  (-1, k), for several targets `probabilities_0` and so on; `decision` float32 (-1,) or
  (-1, k); `value` float32 (-1,) or (-1, m); `transformed` a `Value` (or a tensor);
  `distances` float32 (-1, k); `score` float32 (-1,). Give every output the estimator has a method
  for; what is not needed is not emitted into the file.
- **Composition**: `context.lower(inner, value, step="name")` lowers a sub-estimator and returns its
  outputs; `context.transform(inner, value, step="name")` returns the `Value` behind a transformer.
  Neither asks what kind of estimator it is.
- **Refusals**: `raise context.refuse("…", parameter="kernel", advice="…")`. The error names the way
  through the pipeline. What is not handled must be refused: an unknown parameter value never falls
  through to a default.
- An estimator whose *exact* type is not registered is refused: a subclass may compute anything.
- **Precision**: make large tables with `context.weights(…)`; it stores them as float32, float16 or
  int8. Exact things (thresholds, indices, centres) are `graph.constant(…)`. With int8 the model's
  input is int8 and the dequantization is one more affine map in front, which folds like a scaler.

Your own estimator, from anywhere in your own code:

    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator, RegressorMixin
    >>> from fieldloop_cloud import lowers, to_tflite
    >>> class Halver(RegressorMixin, BaseEstimator):
    ...     def fit(self, X, y):
    ...         self.n_features_in_ = X.shape[1]
    ...         return self
    ...     def predict(self, X):
    ...         return X.sum(axis=1) / 2
    >>> @lowers(Halver)
    ... def halver(estimator, value, context):
    ...     return {"value": context.graph.mul(context.graph.sum(value.tensor(), 1), 0.5)}
    >>> X = np.array([[1.0, 2.0], [3.0, 5.0]])
    >>> to_tflite(Halver().fit(X, X[:, 0]), example=X).run(X)["value"].tolist()
    [1.5, 4.0]
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from fieldloop.errors import UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.affine import emit_product
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.tensor import Tensor
from fieldloop_cloud.compile.thresholds import ThresholdTable
from fieldloop_cloud.compile.value import Value

Outputs = Mapping[str, Tensor | Value]
"""Named by role; see the module's docstring."""

Lowering = Callable[[Any, Value, "Context"], Outputs]
_F = TypeVar("_F", bound=Lowering)

_registry: dict[str, Lowering] = {}
_refused: set[str] = set()

SMALL = 128
"""Tables with fewer elements stay float32: the op that unpacks them would cost more bytes."""

FLOAT16_MAX = 65504.0


def lowers(*kinds: type | str) -> Callable[[_F], _F]:
    """Register a lowering for these exact types.

    Args:
        kinds: Classes, or their full names ("xgboost.sklearn.XGBClassifier") for a library that
            need not be installed.

    Returns:
        A decorator that leaves the function as it is. A later registration replaces an earlier one.
    """

    def register(function: _F) -> _F:
        for kind in kinds:
            name = kind if isinstance(kind, str) else _full_name(kind)
            _registry[name] = function
            _refused.discard(name)
        return function

    return register


def refuses(*kinds: type | str) -> Callable[[_F], _F]:
    """Register a function that only says why these types cannot be compiled, and what can.

    Args:
        kinds: As for `lowers`; `supported` leaves them out.
    """

    def register(function: _F) -> _F:
        lowers(*kinds)(function)
        _refused.update(kind if isinstance(kind, str) else _full_name(kind) for kind in kinds)
        return function

    return register


def supported() -> tuple[str, ...]:
    """Return the full names of all estimators that can be compiled."""
    _load_families()
    names = _registry.keys() - _refused
    return tuple(sorted(name for name in names if not name.rpartition(".")[2].startswith("_")))


@dataclass
class Context:
    """What a lowering works with, besides the estimator and its input.

    Attributes:
        graph: The main graph.
        precision: How large tables are stored: float32, float16 or int8.
        path: Where in the pipeline we are, for errors.
        unsteady: Whether an estimator was met whose answer may jump within float32's rounding of
            what it computes (ties between neighbours, steep isotonic steps); its lowering says so,
            and the comparison with the original looks for such rows (`compile.unsteady`).
        ties: Functions from rows of the model's input to whether an estimator has a tie there.
        classes: The classes of each column of a label output with several, where the estimator's
            own `classes_` has another order.
    """

    graph: Graph
    precision: Precision = "float32"
    path: list[str] = field(default_factory=list)
    unsteady: bool = False
    ties: list[Callable[[NDArray[Any]], NDArray[np.bool_]]] = field(default_factory=list)
    classes: list[Any] | None = None

    def lower(self, estimator: Any, value: Value, *, step: str = "") -> Outputs:
        """Lower a (sub-)estimator on `value`.

        Args:
            estimator: A fitted estimator of a registered type.
            value: Its input.
            step: Its name in the estimator around it, for errors.

        Raises:
            UnsupportedError: If the type is not registered, the estimator is not fitted, or its
                lowering refuses.
        """
        with self._at(estimator, step):
            lowering = self._find(estimator)
            self._check(estimator, value)
            return dict(lowering(estimator, value, self))

    def transform(self, transformer: Any, value: Value, *, step: str = "") -> Value:
        """Return the value behind a transformer; `None` and "passthrough" change nothing."""
        if transformer is None or transformer == "passthrough":
            return value
        outputs = self.lower(transformer, value, step=step)
        made = outputs.get("transformed", outputs.get("distances"))  # a clusterer's are distances
        if made is None:
            with self._at(transformer, step):
                raise self.refuse("this estimator does not transform", advice="Put it last.")
        if isinstance(made, Tensor):
            made = value.opaque(made)
        before = value.reference
        return made.with_reference(lambda rows: transformer.transform(before(rows)))

    def linear(self, value: Value, coefficients: Any, intercept: Any = 0.0) -> Tensor:
        """Return value · coefficientsᵀ + intercept, whatever is affine in front folded in.

        Args:
            value: The input table.
            coefficients: (width,) or (k, width), as `coef_`.
            intercept: A number or (k,).

        Returns:
            float32 (-1,) for one-dimensional coefficients, else (-1, k).
        """
        coef = np.asarray(coefficients, np.float64)
        rows = np.atleast_2d(coef)
        offset = np.broadcast_to(np.asarray(intercept, np.float64).ravel(), (rows.shape[0],))
        inner = value.affine
        if inner is not None and self._folding_pays(value, rows):
            base, matrix = inner.base, inner.matrix @ rows.T
            offset = offset + inner.offset @ rows.T
        else:
            base, matrix = value, rows.T
        product = emit_product(self.graph, base, matrix, offset, self.weights)
        return self.graph.reshape(product, (-1,)) if coef.ndim == 1 else product

    def thresholds(self, value: Value) -> ThresholdTable:
        """Return the table to compare with thresholds and the rule that moves them there."""
        # A column that is computed in float32 may fall on the other side of a threshold next to it.
        self.unsteady = self.unsteady or any(raw is None for raw in value.raw)
        return ThresholdTable.of(value)

    def weights(self, table: Any, *, name: str = "weights") -> Tensor:
        """Return a large table of reals as a float32 tensor, stored in the model's precision.

        Args:
            table: (m, …) reals; int8 uses one scale for each of the m rows.
            name: Shown by viewers.
        """
        return self.stored(table, name=name)[0]

    def stored(self, table: Any, *, name: str = "weights") -> tuple[Tensor, NDArray[np.float64]]:
        """Return `weights(table)` and the reals that it holds after rounding.

        For what must agree with the rounded table, as the norms of support vectors must.
        """
        array = np.asarray(table, np.float64)
        g = self.graph
        fits_half = array.size >= SMALL and np.abs(array).max() <= FLOAT16_MAX
        if fits_half and self.precision == "float16":
            halves = array.astype(np.float16)
            tensor = g.dequantize(g.constant(halves, "float16", name=name))
            return tensor, halves.astype(np.float64)
        if array.size >= SMALL and self.precision == "int8":
            codes, scale = _int8_rows(array)
            stored = g.quantized_constant(codes, scale, name=name)
            spread = scale.astype(np.float64).reshape(-1, *[1] * (array.ndim - 1))
            return g.dequantize(stored, per_channel=len(scale) > 1), codes * spread
        singles = array.astype(np.float32)
        return g.constant(singles, "float32", name=name), singles.astype(np.float64)

    def refuse(
        self, what: str, *, parameter: str = "", advice: str = "", estimator: Any = None
    ) -> UnsupportedError:
        """Return the error to raise; it names the estimator, its place and the parameter."""
        path = list(self.path)
        if estimator is not None:
            path.append(type(estimator).__name__)
        place = " > ".join(path) or "model"
        return UnsupportedError(
            what, where=f"{place}.{parameter}" if parameter else place, advice=advice
        )

    def _folding_pays(self, value: Value, rows: NDArray[np.float64]) -> bool:
        """Whether one product over the base is not larger than two products in a row."""
        assert value.affine is not None
        if value.affine.dense is None:
            # One int8 scale serves a row of weights: they are rounded where columns are most alike.
            even = self.precision != "int8" or _unevenness(value.affine.base) <= _unevenness(value)
            return bool(even)
        base, outputs = value.affine.base.width, rows.shape[0]
        return bool(base * outputs <= base * value.width + value.width * outputs)

    @contextmanager
    def _at(self, estimator: Any, step: str) -> Iterator[None]:
        name = type(estimator).__name__
        self.path.append(f"{step}: {name}" if step else name)
        try:
            yield
        finally:
            self.path.pop()

    def _find(self, estimator: Any) -> Lowering:
        _load_families()
        found = _registry.get(_full_name(type(estimator)))
        if found is not None:
            return found
        parents = [kind for kind in type(estimator).__mro__[1:] if _full_name(kind) in _registry]
        if parents:
            raise self.refuse(
                f"{type(estimator).__name__} is a subclass of {parents[0].__name__} that may "
                "compute something else",
                advice=f"Use {parents[0].__name__} itself, or register a lowering for the "
                "subclass with fieldloop_cloud.compile.lowering.lowers.",
            )
        if not hasattr(type(estimator), "fit") or isinstance(estimator, type):
            raise self.refuse(
                "this is no fitted estimator but a "
                + ("class" if isinstance(estimator, type) else type(estimator).__name__),
                advice="Give the estimator or pipeline itself, after fit.",
            )
        raise self.refuse(
            f"no lowering for {_full_name(type(estimator))}",
            advice="Choose one of fieldloop_cloud.compile.lowering.supported(), or register a "
            "lowering with fieldloop_cloud.compile.lowering.lowers.",
        )

    def _check(self, estimator: Any, value: Value) -> None:
        try:
            check_is_fitted(estimator)
        except (NotFittedError, TypeError) as error:
            raise self.refuse("the estimator is not fitted", advice="Call fit first.") from error
        wanted = getattr(estimator, "n_features_in_", value.width)
        if wanted != value.width:
            raise self.refuse(
                f"the estimator was fitted on {wanted} columns and gets {value.width}",
                advice="Give an example with the columns that it was fitted on.",
            )


def _unevenness(value: Value) -> float:
    """How much more the widest column varies than the narrowest one that varies at all."""
    spread = np.nanstd(value.example_table, axis=0)
    spread = spread[spread > 0]
    return float(spread.max() / spread.min()) if len(spread) else 1.0


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _int8_rows(array: NDArray[np.float64]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize each row symmetrically to -127 … 127."""
    flat = np.abs(array.reshape(len(array), -1)).max(axis=1)
    scale = (np.where(flat == 0, 1.0, flat) / 127).astype(np.float32)
    spread = scale.astype(np.float64).reshape(-1, *[1] * (array.ndim - 1))
    return np.clip(np.rint(array / spread), -127, 127).astype(np.int8), scale


@cache
def _load_families() -> None:
    """Import every module of `compile.classical`; each registers its lowerings."""
    package = importlib.import_module("fieldloop_cloud.compile.classical")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
