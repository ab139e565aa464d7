"""Put a bundle into a device root that lies on this machine (a mounted card, a copied directory).

The bundle is checked as the device will check it: against the root's own trusted keys, for the
root's device class, at its release counter. It goes into the inactive slot; only when it is safely
there does the pointer move, so an interrupted flash leaves what was there before.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from fieldloop.bundle import unpack
from fieldloop.device_root import (
    DeviceRoot,
    Slot,
    locked,
    other_slot,
    read_active,
    write_active,
    write_atomic,
)
from fieldloop.errors import (
    BundleError,
    ConfigError,
    DataError,
    EnvironmentFaultError,
    UnsupportedError,
)
from fieldloop.integrity import PublicKey, TrustPolicy
from fieldloop_cloud.release.provision import read_identity
from fieldloop_cloud.release.releases import read_bundle
from fieldloop_cloud.release.targets import load_target, target_names

RESERVE_BYTES = 1 << 20
"""Left free for the device's databases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flashed:
    """A bundle in its slot.

    Attributes:
        device_id: Whose root it is.
        root: The device root.
        slot: Where the bundle lies; it is the active slot now. None for a challenger in the shadow.
        sha256: The bundle's hash.
        release: Its release number.
    """

    device_id: str
    root: Path
    slot: Slot | None
    sha256: str
    release: int


def flash(bundle: Path | str, root: Path | str, *, shadow: bool = False) -> Flashed:
    """Verify a bundle and make it the active one of a device root.

    Args:
        bundle: Its file.
        root: The device's root.
        shadow: Make it the challenger beside the active one instead, which stays.

    Raises:
        DataError: The bundle cannot be read.
        ConfigError: The root was not provisioned or is used by a running agent.
        BundleError: The bundle is malformed, not signed by a key the device trusts, or older than
            what the device has.
        CompatibilityError: It is for another device class or a newer runtime.
        EnvironmentFaultError: Too little space, or the root cannot be written.
        UnsupportedError: `root` is an `ssh://` address.
    """
    if str(root).startswith("ssh:"):
        raise UnsupportedError(
            "flashing over ssh is not supported yet",
            where=str(root),
            advice="Flash to a local device root and copy that directory with rsync or scp.",
        )
    device = DeviceRoot(Path(root))
    device_id, device_class = read_identity(device.config)
    data = read_bundle(Path(bundle))
    with locked(device.path):
        active = read_active(device.path)
        content = unpack(data, trust=_trust(device, device_class, active), where=str(bundle))
        slot: Slot | None = None if shadow else other_slot(active) if active else "a"
        _check_space(device.path, len(data))
        try:
            device.slots.mkdir(exist_ok=True)
        except OSError as error:
            raise EnvironmentFaultError(
                f"the device root cannot be written: {error.strerror}",
                where=str(device.slots),
                advice="Check its permissions and whether it is mounted read-only.",
            ) from error
        write_atomic(device.shadow if slot is None else device.slot(slot), data)
        if slot is not None:
            write_active(device.path, slot)
    return Flashed(
        device_id=device_id,
        root=device.path,
        slot=slot,
        sha256=content.sha256,
        release=content.manifest.release,
    )


def _trust(device: DeviceRoot, device_class: str, active: Slot | None) -> TrustPolicy:
    try:
        keys = PublicKey.all_from_pem(device.trusted.read_bytes())
    except (OSError, DataError) as error:
        raise ConfigError(
            "the device root has no trusted key",
            where=str(device.trusted),
            advice="Provision the device again.",
        ) from error
    policy = TrustPolicy(keys=keys, device_class=device_class)
    runtime = load_target(device_class).runtime_version if device_class in target_names() else None
    return TrustPolicy(
        keys=keys,
        device_class=device_class,
        release_floor=_release(device, active, policy),
        runtime_version=runtime,
    )


def _release(device: DeviceRoot, active: Slot | None, policy: TrustPolicy) -> int:
    """Release number of the active bundle; 0 where there is none or it is damaged."""
    if active is None:
        return 0
    try:
        return unpack(device.slot(active).read_bytes(), trust=policy).manifest.release
    except (OSError, BundleError):
        return 0


def _check_space(root: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if free < size_bytes + RESERVE_BYTES:
        raise EnvironmentFaultError(
            f"the bundle needs {size_bytes + RESERVE_BYTES} bytes, {free} are free",
            where=str(root),
            advice="Free space on the device's disk.",
        )
