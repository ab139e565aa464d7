"""Verifies and opens bundles as this device trusts and runs them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import asdict

from fieldloop.bundle import sha256_hex, unpack
from fieldloop.device_root import DeviceRoot
from fieldloop_device.config import DeviceConfig, read_trust
from fieldloop_device.measured import read_latencies
from fieldloop_device.runtime import Runtime, read_bundle


class BundleOpener:
    """Verifies downloads and opens slots with the root's keys, device class and runtime settings.

    Args:
        root: The device's root.
        config: Its settings.

    Attributes:
        floor: Gives the lowest release counter that a download may have.

    Raises:
        ConfigError: The trusted keys cannot be used.
        EnvironmentFaultError: No TFLite runtime is installed.
    """

    def __init__(self, root: DeviceRoot, config: DeviceConfig) -> None:
        self._root = root
        self._runtime = config.runtime
        self._trust = read_trust(
            root.trusted,
            device_class=config.device.device_class,
            backend=config.runtime.backend,
        )
        self.floor: Callable[[], int] = lambda: 0

    def verify_download(self, path: Path) -> None:
        """Verify what came from outside: signed, for this device, and not below the floor.

        The model is not loaded: a bad one can end its process, so the self-test's child is the
        first to do that.

        Raises:
            BundleError: As `bundle.unpack`.
            CompatibilityError: As `bundle.unpack`.
        """
        trust = dataclasses.replace(self._trust, release_floor=self.floor())
        unpack(read_bundle(path), trust=trust)

    def open_slot(self, path: Path) -> Runtime:
        """Open a slot: it met the floor when it was filled, and going back must stay possible.

        Raises:
            FieldloopError: As `Runtime.open`.
        """
        data = read_bundle(path)
        return Runtime.open(
            data,
            trust=self._trust,
            **asdict(self._runtime),
            measured=read_latencies(self._root.measured, sha256_hex(data), self._runtime),
        )
