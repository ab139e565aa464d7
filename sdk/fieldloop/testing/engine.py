"""An engine without a runtime: a Python function that keeps to `interpreter.Engine`'s contract."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ModelRuntimeError
from fieldloop.interpreter import TensorInfo, check_tensors, empty_shape

Function = Callable[..., Sequence[NDArray[Any]]]
"""Takes one array per input and returns one per output."""


class FakeEngine:
    """An `interpreter.Engine` for tests; passes the same behaviour battery as the real ones.

    Args:
        inputs: What it takes.
        outputs: What it gives; what `function` returns must fit.
        function: Called with one array per input.

    Attributes:
        run_count: How often `run` was answered.
        failure: If set, what the next runs fail with, as a runtime that breaks in the field.

    Example:
        >>> x = TensorInfo("x", (-1, 2), "float32")
        >>> engine = FakeEngine((x,), (x,), lambda rows: [rows + 1])
        >>> engine.run([np.zeros((1, 2), dtype=np.float32)])[0].tolist()
        [[1.0, 1.0]]
    """

    backend = "fake 1.0"

    def __init__(
        self,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        function: Function,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.run_count = 0
        self.failure = ""
        self._function = function
        self._is_closed = False

    def run(self, tensors: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """See `Engine.run`."""
        if self._is_closed:
            raise ModelRuntimeError("this model is closed", advice="Open it again.")
        check_tensors(self.inputs, tensors)
        if self.failure:
            raise ModelRuntimeError(self.failure, where=self.backend)
        self.run_count += 1
        if any(tensor.size == 0 for tensor in tensors):
            return tuple(np.empty(empty_shape(info.shape), info.dtype) for info in self.outputs)
        results = tuple(np.array(result) for result in self._function(*tensors))
        check_tensors(self.outputs, results)
        return results

    def close(self) -> None:
        """See `Engine.close`."""
        self._is_closed = True
