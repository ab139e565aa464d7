"""The user's rows and the model's input tensor: one way there, and the way back.

The way there is the SDK's codec with the model's signature, so that the workstation feeds a model
exactly as a device does. The way back (`original`) gives scikit-learn its rows in the form that it
was fitted on: an array of the same dtype, or a DataFrame with the same columns and categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.signature import FeatureSpec


@dataclass(frozen=True, eq=False)
class Rows:
    """What rows look like.

    Attributes:
        features: One for each column.
        example: Encoded, float32 (n, n_features).
        dtype: What scikit-learn gets: float32 or float64.
        columns: DataFrame column names; None for an array.
    """

    features: tuple[FeatureSpec, ...]
    example: NDArray[np.float32]
    dtype: Any
    columns: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, example: Any, *, features: Sequence[FeatureSpec] | None = None) -> "Rows":
        """Work out the form from example rows."""
        columns = tuple(example.columns) if hasattr(example, "columns") else None
        array = np.asarray(example)
        dtype = np.dtype(np.float32) if array.dtype == np.float32 else np.dtype(np.float64)
        encoded = array.astype(np.float32)
        names = [str(c) for c in columns] if columns else [f"x{i}" for i in range(array.shape[1])]
        specs = features or [FeatureSpec(name=name) for name in names]
        return cls(tuple(specs), encoded, dtype, columns)

    def encode(self, X: Any) -> NDArray[np.float32]:
        """Raw rows as the model's real-valued input, float32 (n, n_features)."""
        return np.asarray(X, np.float32).reshape(-1, len(self.features))

    def original(self, rows: NDArray[Any]) -> Any:
        """Input rows as scikit-learn gets them."""
        array = rows.astype(self.dtype)
        if self.columns is None:
            return array
        import pandas as pd  # noqa: PLC0415 - only where the user works with it

        return pd.DataFrame(array, columns=list(self.columns))
