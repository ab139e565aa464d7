"""The one adapter over the TFLite runtimes: ai-edge-litert, tflite-runtime and TensorFlow's own.

Cloud and device both run models through `open_engine`. A runtime is imported when an engine is
opened, never earlier. What the runtimes do not check is checked here: they accept a resize that
contradicts the model, they call a model's bytes corrupt only after a crash in some versions, and
tflite-runtime imports well beside a NumPy that it cannot work with.

An engine takes verified *bytes*: a file is memory-mapped and may change under its path.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fieldloop.backends import BackendInfo, choose_backend
from fieldloop.errors import ModelRuntimeError, SignatureError
from fieldloop.native import RunOptions, construct, translate

TFLITE_IDENTIFIER = b"TFL3"
"""The flatbuffer's file identifier, bytes 4 to 8."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a loaded model.

    Attributes:
        name: The tensor's name in the flatbuffer.
        shape: Dimensions; -1 where the model takes any size.
        dtype: NumPy's name, for example `float32`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


class Engine(Protocol):
    """A loaded model that maps tensors to tensors; `testing.FakeEngine` is one too."""

    @property
    def backend(self) -> str:
        """Runtime and version, for example `ai-edge-litert 2.3.0`."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Inputs in the flatbuffer's order."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Outputs in the flatbuffer's order."""

    def run(self, tensors: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run the model on one tensor per input.

        Dynamic dimensions take the size of what is given; the leading one is the batch, may be
        zero, and must be the same for all inputs. The outputs are copies.

        Raises:
            SignatureError: A wrong number of tensors, a wrong shape or dtype.
            ModelRuntimeError: The runtime failed, or the engine is closed.
        """

    def close(self) -> None:
        """Release the model; closing twice is allowed."""


def open_engine(
    model: bytes,
    *,
    backend: str | None = None,
    num_threads: int = 1,
    xnnpack: bool = True,
    delegate: str = "",
) -> Engine:
    """Load a TFLite flatbuffer.

    Args:
        model: The flatbuffer's bytes; verify them first if they came from outside.
        backend: As in `choose_backend`.
        num_threads: Threads for one model. More than this process has cores make a model 40 times
            slower, so there are never more, and a warning says so.
        xnnpack: Whether float work is given to XNNPACK.
        delegate: Path of an external delegate's shared library; empty for none.

    Raises:
        ConfigError: An unknown backend, or fewer than one thread.
        EnvironmentFaultError: No usable runtime is installed, or the delegate cannot be loaded.
        CompatibilityError: The model needs an op that the runtime does not have.
        ModelRuntimeError: The bytes are no model, or the runtime cannot load them.
    """
    if model[4:8] != TFLITE_IDENTIFIER:
        raise ModelRuntimeError(
            "these bytes are not a TFLite model", advice="Give the content of a .tflite file."
        )
    options = RunOptions(num_threads=num_threads, xnnpack=xnnpack, delegate=delegate)
    return _InterpreterEngine(model, choose_backend(backend), options)


class _InterpreterEngine:
    """`Engine` over the `Interpreter` class that all three runtimes share."""

    def __init__(self, model: bytes, backend: BackendInfo, options: RunOptions) -> None:
        self.backend = f"{backend.name} {backend.version}"
        # Kept alive: the interpreter points into these bytes.
        self._model = model
        self._lock = threading.Lock()
        self._interpreter: Any = construct(model, backend, options)
        # Looked up once: asking for details costs more than a small model's whole inference.
        try:
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
            self.inputs = tuple(_tensor_info(details) for details in inputs)
            self.outputs = tuple(_tensor_info(details) for details in outputs)
        except (RuntimeError, ValueError, TypeError) as error:
            # Names that are no text, types that NumPy does not have: a corrupt file.
            raise translate(error, self.backend) from error
        self._input_indexes = tuple(details["index"] for details in inputs)
        self._output_indexes = tuple(details["index"] for details in outputs)
        # What the interpreter is allocated for right now: shape and dtype of each input; None when
        # nothing fits, because it failed or is closed.
        self._allocated: list[tuple[tuple[int, ...], Any]] | None = [
            (tuple(int(size) for size in details["shape"]), np.dtype(details["dtype"]))
            for details in inputs
        ]

    def run(self, tensors: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """See `Engine.run`."""
        # `invoke` lets other threads run: without the lock two callers would mix their tensors. An
        # interpreter for each thread would cost its memory again and gain little: two threads on
        # two cores got 143,000 answers a second from a tiny net with the lock and 132,000 with one
        # each (Python's own lock decides), and 5,000 against 6,000 from one of 16 dense layers of
        # 256, where `num_threads` helps too.
        with self._lock:
            if [(tensor.shape, tensor.dtype) for tensor in tensors] != self._allocated:
                self._check(tensors)
                if any(tensor.size == 0 for tensor in tensors):
                    return self._empty()
                self._resize(tensors)
            interpreter = self._interpreter
            try:
                # A loop that stays in C: with tiny models every step of Python counts.
                list(map(interpreter.set_tensor, self._input_indexes, tensors))
                interpreter.invoke()
                # get_tensor copies; a view would forbid the next invoke.
                return tuple(map(interpreter.get_tensor, self._output_indexes))
            except (RuntimeError, ValueError) as error:
                self._allocated = None
                raise translate(error, self.backend) from error

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._interpreter = None
            self._allocated = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, tensors: Sequence[NDArray[Any]]) -> None:
        if self._interpreter is None:
            raise ModelRuntimeError("this model is closed", advice="Open it again.")
        check_tensors(self.inputs, tensors)

    def _resize(self, tensors: Sequence[NDArray[Any]]) -> None:
        try:
            for index, tensor in zip(self._input_indexes, tensors, strict=True):
                self._interpreter.resize_tensor_input(index, tensor.shape)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            self._allocated = None
            raise translate(error, self.backend) from error
        self._allocated = [(tensor.shape, tensor.dtype) for tensor in tensors]

    def _empty(self) -> tuple[NDArray[Any], ...]:
        """Answer a batch of no rows; kernels may divide by its size, so none is run."""
        return tuple(
            np.empty(empty_shape(info.shape), dtype=np.dtype(info.dtype)) for info in self.outputs
        )


def check_tensors(inputs: Sequence[TensorInfo], tensors: Sequence[NDArray[Any]]) -> None:
    """Check tensors against a model's inputs.

    Raises:
        SignatureError: A wrong number, shape or dtype, or inputs whose batches differ.
    """
    if len(tensors) != len(inputs):
        raise SignatureError(
            f"the model takes {len(inputs)} tensors, {len(tensors)} were given",
            advice=f"Give {', '.join(info.name for info in inputs)}.",
        )
    for info, tensor in zip(inputs, tensors, strict=True):
        same_rank = len(info.shape) == tensor.ndim
        if not same_rank or any(
            wanted not in (-1, size) for wanted, size in zip(info.shape, tensor.shape, strict=True)
        ):
            raise SignatureError(
                f"a tensor of shape {tensor.shape} does not fit {info.shape}",
                where=f"input {info.name}",
                advice="Give the model's shape; -1 takes any size.",
            )
        if tensor.dtype != np.dtype(info.dtype):
            raise SignatureError(
                f"a tensor of {tensor.dtype} came where {info.dtype} is needed",
                where=f"input {info.name}",
                advice="Encode raw values with fieldloop.codec.",
            )
    batches = {
        tensor.shape[0]
        for info, tensor in zip(inputs, tensors, strict=True)
        if info.shape and info.shape[0] == -1
    }
    if len(batches) > 1:
        raise SignatureError(
            f"the inputs have different numbers of rows: {sorted(batches)}",
            advice="Give every input the same rows.",
        )


def empty_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return an output's shape for a batch of no rows."""
    if -1 in shape:
        return tuple(0 if size == -1 else size for size in shape)
    return (0, *shape[1:])


def _tensor_info(details: dict[str, Any]) -> TensorInfo:
    signature = details["shape_signature"]
    shape = signature if len(signature) == len(details["shape"]) else details["shape"]
    return TensorInfo(
        name=str(details["name"]),
        shape=tuple(int(size) for size in shape),
        dtype=np.dtype(details["dtype"]).name,
    )
