"""Makes a runtime's own `Interpreter`: its threads, its delegates, and its errors in our words.

All three runtimes share one class. By default each gives float work to XNNPACK; without it the
builtin kernels run. An external delegate is a shared library that takes over what it can, such as
`libedgetpu.so.1`; it is code, so only a path from the device's own settings gets here.
"""

import ctypes
import importlib
import os
import re
import warnings
from dataclasses import dataclass
from typing import Any

from fieldloop.backends import BackendInfo, install_command
from fieldloop.errors import (
    CompatibilityError,
    ConfigError,
    EnvironmentFaultError,
    ModelRuntimeError,
)

_MODULES = {
    "tflite-runtime": "tflite_runtime.interpreter",
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tensorflow": "tensorflow.lite.python.interpreter",
}
"""Where each backend keeps the `Interpreter` class."""

_DELEGATE_SYMBOLS = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a model runs.

    Attributes:
        num_threads: Threads for one model.
        xnnpack: Whether float work is given to XNNPACK.
        delegate: Path of an external delegate's shared library; empty for none.
    """

    num_threads: int = 1
    xnnpack: bool = True
    delegate: str = ""


def construct(model: bytes, backend: BackendInfo, options: RunOptions) -> Any:
    """Return an allocated `Interpreter`.

    Raises:
        ConfigError: Fewer than one thread.
        EnvironmentFaultError: The runtime cannot be imported, or the delegate not be loaded.
        CompatibilityError: The model needs an op that the runtime does not have.
        ModelRuntimeError: The bytes are no model, or the runtime cannot load them.
    """
    num_threads = _possible_threads(options.num_threads)
    try:
        module = importlib.import_module(_MODULES[backend.name])
    except ImportError as error:
        raise EnvironmentFaultError(
            f"{backend.name} {backend.version} cannot be imported: {error}",
            advice=f"Install it again. {install_command(backend.name)}",
        ) from error
    delegates = [_load_delegate(module, options.delegate)] if options.delegate else None
    kinds = module.OpResolverType
    try:
        with warnings.catch_warnings():
            # TensorFlow announces here that its interpreter moves to LiteRT: that is us already.
            warnings.simplefilter("ignore")
            interpreter = module.Interpreter(
                model_content=model,
                num_threads=num_threads,
                experimental_delegates=delegates,
                experimental_op_resolver_type=kinds.AUTO
                if options.xnnpack
                else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError, SystemError) as error:
        raise translate(error, f"{backend.name} {backend.version}") from error
    return interpreter


def core_count() -> int:
    """Return how many cores this process may use: a container's share, not the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _possible_threads(num_threads: int) -> int:
    """Cap at the cores: three threads on two cores make a model 40 times slower."""
    if num_threads < 1:
        raise ConfigError("a model needs at least one thread", advice="Use num_threads=1.")
    cores = core_count()
    if num_threads > cores:
        import logging  # noqa: PLC0415 - a cold start need not wait for it

        logger = logging.getLogger(__name__)
        logger.warning("%d threads were asked for, %d cores are there", num_threads, cores)
    return min(num_threads, cores)


def _load_delegate(module: Any, path: str) -> Any:
    # Looked at before the runtime does: it leaves a half-made object behind when a symbol lacks.
    try:
        library = ctypes.CDLL(path)
        lacking = [name for name in _DELEGATE_SYMBOLS if not hasattr(library, name)]
        if not lacking:
            return module.load_delegate(path)
        reason = f"it lacks {' and '.join(lacking)}"
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
    raise EnvironmentFaultError(
        f"the delegate cannot be loaded: {reason}",
        where=path,
        advice="Give the path of a TFLite external delegate for this machine, or leave it out.",
    )


_MISSING_BUILTIN = re.compile(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'")
_MISSING_CUSTOM = re.compile(r"unresolved custom op: (\S+?)\.?(?:\s|$)|(Select TensorFlow op)")


def translate(error: Exception, backend: str) -> CompatibilityError | ModelRuntimeError:
    """Say a runtime's error in our words."""
    text = " ".join(str(error).split())
    if builtin := _MISSING_BUILTIN.search(text):
        return CompatibilityError(
            f"the model needs op {builtin[1]} in version {builtin[2]}, which {backend} lacks",
            advice="Update the runtime, or compile the model for this device's runtime.",
        )
    if custom := _MISSING_CUSTOM.search(text):
        return CompatibilityError(
            f"the model needs the custom op {custom[1] or 'of Select TensorFlow ops'}, "
            f"which {backend} lacks",
            advice="Compile the model with builtin ops only.",
        )
    return ModelRuntimeError(
        f"{backend} failed: {text[:300]}",
        advice="Check that the model is whole and that the tensors fit it.",
    )
