"""What flows between lowerings: a table of numbers that remembers how it was made.

A `Value` stands for a table (-1, width) inside the graph. Nothing is emitted until somebody asks
for a tensor, so that the next estimator can absorb what came before it:

- **affine**: the table is an affine function of a base table (scalers, column picks, PCA,
  dequantization). A linear model multiplies it into its own weights in float64 (`fold`).
- **monotone**: each column is a non-decreasing function of one column of the model's input
  (`raw`). A tree moves its thresholds into the raw column (`thresholds.ThresholdTable`) and needs
  no scaler at all.
- **reference**: what scikit-learn itself computes for given input rows, on the host. It is what
  the two above are checked and bisected against, and where centres come from.

Three ways to consume a value: `tensor()` for the float32 table, `centred()` for a table that is
exact although the features lie far from zero, `Context.linear` for a matrix product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop_cloud.compile.affine import Affine, joined
from fieldloop_cloud.compile.graph import Graph
from fieldloop_cloud.compile.rows import Vocabulary
from fieldloop_cloud.compile.tensor import Tensor

Table = Any
"""A host-side table: float array (n, width), or a DataFrame where the user's rows are one."""

Reference = Callable[[NDArray[Any]], Table]
"""From rows of the model's input tensor to the table that scikit-learn has at this place."""


@dataclass(frozen=True, eq=False)
class Value:
    """A table of numbers in the graph.

    Attributes:
        graph: Where its ops go.
        width: Number of columns.
        reference: scikit-learn's own result at this place for rows of the model's input.
        example: Input rows to estimate centres from, of the input tensor's dtype.
        entrance: The model's input tensor, float32 or int8.
        raw: For each column the input column that it is a non-decreasing function of, or None.
        untouched: Whether every column equals its raw column (only picked, not changed).
        vocabularies: For each column the categories that its codes stand for; None for a number.
        probes: (input column, input number) pairs that the graph compares with, for the parity
            check; one list for the whole model.
        affine: The affine map it is, if it is one.
        build: Emits the table; called at most once.
    """

    graph: Graph
    width: int
    reference: Reference
    example: NDArray[Any]
    entrance: Tensor
    raw: tuple[int | None, ...]
    build: Callable[[], Tensor]
    untouched: bool = False
    vocabularies: tuple[Vocabulary | None, ...] = ()
    probes: list[tuple[int, float]] = field(default_factory=list)
    affine: Affine | None = None
    _built: list[Tensor] = field(default_factory=list)

    # Consuming.

    def tensor(self) -> Tensor:
        """Return the table as a float32 tensor (-1, width); emitted once."""
        if not self._built:
            self._built.append(self.build())
        return self._built[0]

    def centred(self) -> tuple[Tensor, NDArray[np.float64]]:
        """Return (t, shift) with value = t + shift, t near zero for the example's rows.

        t is exact to float32's relative precision around the centre, which value itself is not if
        it lies far from zero. Subtract `shift` from support vectors, neighbours or means.
        """
        g = self.graph
        if self.affine is None or self.affine.dense is not None:
            centre = self.example_mean.astype(np.float32)
            table = self.tensor()
            return (g.sub(table, centre) if centre.any() else table), centre.astype(np.float64)
        return self.affine.emit_around(g, self.affine.base.example_mean[self.affine.source])

    @cached_property
    def example_table(self) -> NDArray[np.float64]:
        """The reference on the example's rows, float64 (n, width); without one nothing, (0, width).

        A table made in the middle of a lowering has no reference, unless the lowering gave it one.
        """
        if self.reference is _unknown:
            return np.zeros((0, self.width))
        return host_array(self.reference(self.example))

    @property
    def reference_dtype(self) -> np.dtype[Any]:
        """What scikit-learn computes in at this place: float32 or float64."""
        table = self.reference(self.example[:1])
        dtype = getattr(table, "dtype", None)
        return np.dtype(dtype if dtype is not None else np.float64)

    @property
    def example_mean(self) -> NDArray[np.float64]:
        """Mean of each column over the example; 0 where there is none."""
        if not len(self.example_table):
            return np.zeros(self.width)
        valid = np.isfinite(self.example_table)
        total = np.where(valid, self.example_table, 0.0).sum(axis=0)
        return np.asarray(total / np.maximum(valid.sum(axis=0), 1))

    # Making the next one; the caller (Context.transform) puts the reference in.

    def scaled(self, scale: Any, offset: Any) -> "Value":
        """Return value · scale + offset, elementwise; scale (width,) or a number."""
        factor = np.broadcast_to(np.asarray(scale, np.float64), (self.width,))
        shift = np.broadcast_to(np.asarray(offset, np.float64), (self.width,))
        raw = tuple(r if f > 0 else None for r, f in zip(self.raw, factor, strict=True))
        return self._derive(self._as_affine().scaled(factor, shift), raw)

    def projected(self, matrix: Any, offset: Any = 0.0) -> "Value":
        """Return value · matrix + offset; matrix (width, k)."""
        weights = np.asarray(matrix, np.float64)
        shift = np.broadcast_to(np.asarray(offset, np.float64), (weights.shape[1],))
        affine = self._as_affine().projected(weights, shift)
        return self._derive(affine, (None,) * weights.shape[1])

    def take(self, columns: Sequence[int] | NDArray[Any]) -> "Value":
        """Return some columns, in the order given; keeps reference, raw and categories."""
        at = np.asarray(columns, np.intp)
        made = self._derive(self._as_affine().take(at), tuple(self.raw[i] for i in at))
        reference = self.reference
        return replace(
            made,
            reference=lambda rows: _columns(reference(rows), at),
            untouched=self.untouched,
            vocabularies=tuple(self.vocabularies[i] for i in at),
        )

    def opaque(
        self,
        build: Tensor | Callable[[], Tensor],
        *,
        width: int | None = None,
        monotone: Sequence[int | None] | None = None,
    ) -> "Value":
        """Return a table that is neither affine nor (unless said) monotone.

        Args:
            build: The tensor, or a function that emits it when it is needed.
            width: Number of columns; None: the tensor's, or this value's.
            monotone: For each column the column of *this* value it is a non-decreasing function
                of, or None; NaN may map to anything. The reference is bisected, so the function
                must be non-decreasing as scikit-learn computes it.
        """
        known = build.shape[1] if isinstance(build, Tensor) else self.width
        columns = known if width is None else width
        sources = (None,) * columns if monotone is None else tuple(monotone)
        return Value(
            graph=self.graph,
            width=columns,
            reference=_unknown,
            example=self.example,
            entrance=self.entrance,
            raw=tuple(None if s is None else self.raw[s] for s in sources),
            build=(lambda: build) if isinstance(build, Tensor) else build,
            vocabularies=(None,) * columns,
            probes=self.probes,
        )

    def with_reference(self, reference: Reference) -> "Value":
        """Return the same table with scikit-learn's own way to compute it."""
        return replace(self, reference=reference)

    def with_root(
        self, reference: Reference, vocabularies: tuple[Vocabulary | None, ...]
    ) -> "Value":
        """Return the same table as the model's own rows."""
        return replace(self, reference=reference, vocabularies=vocabularies)

    def _as_affine(self) -> Affine:
        return Affine.identity(self) if self.affine is None else self.affine

    def _derive(self, affine: Affine, raw: tuple[int | None, ...]) -> "Value":
        width = len(affine.offset)
        return Value(
            graph=self.graph,
            width=width,
            reference=_unknown,
            example=self.example,
            entrance=self.entrance,
            raw=raw,
            build=lambda: affine.emit(self.graph),
            vocabularies=(None,) * width,
            probes=self.probes,
            affine=affine,
        )


def host_array(table: Table) -> NDArray[np.float64]:
    """Return a reference's table as a float64 array, from an array, a DataFrame or sparse.

    Raises:
        DataError: There is text where the model computes with numbers.
    """
    dense = table.toarray() if hasattr(table, "toarray") else table
    try:
        return np.asarray(dense, dtype=np.float64)
    except ValueError as error:
        raise DataError(
            f"the example holds text where the model takes numbers: {error}",
            where="example",
            advice="Give rows like those that the model was fitted on.",
        ) from error


def side_by_side(values: Sequence[Value]) -> Value:
    """Return the columns of all values in one table (ColumnTransformer, FeatureUnion)."""
    first = values[0]
    if len(values) == 1:
        return first
    affine = joined([value._as_affine() for value in values])  # noqa: SLF001 - this module's own
    graph = first.graph

    def build() -> Tensor:
        if affine is not None:
            return affine.emit(graph)
        return graph.concat([value.tensor() for value in values if value.width], axis=1)

    return Value(
        graph=graph,
        width=sum(value.width for value in values),
        reference=_unknown,
        example=first.example,
        entrance=first.entrance,
        raw=tuple(r for value in values for r in value.raw),
        build=build,
        untouched=all(value.untouched for value in values),
        vocabularies=tuple(v for value in values for v in value.vocabularies),
        probes=first.probes,
        affine=affine,
    )


def _columns(table: Table, at: NDArray[np.intp]) -> Table:
    if hasattr(table, "iloc"):
        return table.iloc[:, at]
    return (table.tocsc() if hasattr(table, "tocsc") else table)[:, at]


def _unknown(rows: NDArray[Any]) -> Table:
    message = f"no reference for {len(rows)} rows: pass transformers through Context.transform"
    raise RuntimeError(message)
