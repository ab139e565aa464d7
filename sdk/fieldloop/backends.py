"""Which TFLite runtimes this machine has, and which one is used.

Nothing is imported to find out but the small runtimes themselves, which cost milliseconds.
"""

import importlib
import importlib.util
import os
from dataclasses import dataclass

import numpy as np

from fieldloop.errors import ConfigError, EnvironmentFaultError

BACKEND_VARIABLE = "FIELDLOOP_BACKEND"
"""Environment variable that names the backend to use."""

_PACKAGES = {
    "tflite-runtime": "tflite_runtime",
    "ai-edge-litert": "ai_edge_litert",
    "tensorflow": "tensorflow",
}
"""Backends in the order of preference: tflite-runtime is only there if somebody asked for it."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """A runtime on this machine.

    Attributes:
        name: `ai-edge-litert`, `tflite-runtime` or `tensorflow`.
        version: Installed version; empty if it is not installed.
        usable: Whether a model can be opened with it.
        reason: Why not; empty if it is usable.
        remedy: What to do about it.
    """

    name: str
    version: str
    usable: bool
    reason: str = ""
    remedy: str = ""

    @property
    def tflite_version(self) -> str | None:
        """Version to compare a bundle's `min_runtime` with; None: newer than any (LiteRT)."""
        return None if self.name == "ai-edge-litert" else self.version


def available_backends() -> tuple[BackendInfo, ...]:
    """Describe every backend, the preferred one first; never imports TensorFlow."""
    return tuple(_describe(name) for name in _PACKAGES)


def choose_backend(name: str | None = None) -> BackendInfo:
    """Return the backend that `open_engine` would use.

    Args:
        name: A backend's name; None for the environment variable `FIELDLOOP_BACKEND` or, without
            it, the first usable one of `available_backends`.

    Raises:
        ConfigError: No backend has this name.
        EnvironmentFaultError: It is not installed or cannot work here.
    """
    wanted = name or os.environ.get(BACKEND_VARIABLE) or None
    if wanted is None:
        return _first_usable()
    if wanted not in _PACKAGES:
        raise ConfigError(
            f"there is no backend called '{wanted}'", advice=f"Use one of {', '.join(_PACKAGES)}."
        )
    backend = _describe(wanted)
    if not backend.usable:
        raise EnvironmentFaultError(backend.reason, where=wanted, advice=backend.remedy)
    return backend


def _first_usable() -> BackendInfo:
    backends = []
    for name in _PACKAGES:
        backends.append(_describe(name))
        if backends[-1].usable:
            return backends[-1]
    broken = next((backend for backend in backends if backend.version), None)
    if broken is not None:
        raise EnvironmentFaultError(broken.reason, where=broken.name, advice=broken.remedy)
    raise EnvironmentFaultError(
        "no TFLite runtime is installed",
        advice="Install ai-edge-litert, or on 32-bit ARM fieldloop-device[tflite].",
    )


def _describe(name: str) -> BackendInfo:
    package = _PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        return BackendInfo(
            name, "", usable=False, reason=f"{name} is not installed", remedy=install_command(name)
        )
    try:
        version = _version(name, package)
    except ImportError as error:
        return BackendInfo(
            name,
            "unknown",
            usable=False,
            reason=f"{name} cannot be imported: {error}",
            remedy=f"Install it again. {install_command(name)}",
        )
    if name == "tflite-runtime" and int(np.__version__.partition(".")[0]) >= 2:  # noqa: PLR2004 - NumPy 2 broke the binary interface
        return BackendInfo(
            name,
            version,
            usable=False,
            reason=f"{name} {version} cannot work with NumPy {np.__version__}",
            remedy="Run: pip install 'numpy<2', or install ai-edge-litert instead.",
        )
    return BackendInfo(name, version, usable=True)


def install_command(name: str) -> str:
    """Return the sentence that tells how to install a backend."""
    extra = {
        "tflite-runtime": "'fieldloop-device[tflite]'",
        "tensorflow": "'fieldloop-cloud[deep]'",
    }
    return f"Run: pip install {extra.get(name, name)}."


def _version(name: str, package: str) -> str:
    # TensorFlow takes seconds to import; the small runtimes take less than importlib.metadata.
    if name == "tensorflow":
        metadata = importlib.import_module("importlib.metadata")
        try:
            return str(metadata.version(name))
        except metadata.PackageNotFoundError:
            pass  # installed under another name, such as tensorflow-cpu
    return str(getattr(importlib.import_module(package), "__version__", "unknown"))
