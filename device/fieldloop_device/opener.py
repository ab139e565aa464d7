"""Opens bundles as this device trusts and runs them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from fieldloop.bundle import sha256_hex
from fieldloop.device_root import DeviceRoot
from fieldloop.integrity import TrustPolicy
from fieldloop_device.config import DeviceConfig, read_trust
from fieldloop_device.measured import read_latencies
from fieldloop_device.runtime import Runtime, read_bundle


class BundleOpener:
    """Opens downloads and slots with the root's keys, device class and runtime settings.

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

    def download(self, path: Path) -> Runtime:
        """Open what came from outside: nothing below the floor."""
        return self._open(path, dataclasses.replace(self._trust, release_floor=self.floor()))

    def slot(self, path: Path) -> Runtime:
        """Open a slot: it met the floor when it was filled, and going back must stay possible."""
        return self._open(path, self._trust)

    def _open(self, path: Path, trust: TrustPolicy) -> Runtime:
        data = read_bundle(path)
        return Runtime.open(
            data,
            trust=trust,
            backend=self._runtime.backend,
            num_threads=self._runtime.num_threads,
            measured=read_latencies(self._root.measured, sha256_hex(data)),
        )
