"""The two slots: loading the active one, falling back to the other, filling the inactive one."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fieldloop.bundle import sha256_hex
from fieldloop.device_root import DeviceRoot, Slot, other_slot, sync_directory
from fieldloop.errors import EnvironmentFaultError, FieldloopError
from fieldloop_device.runtime import Runtime, read_bundle

Opener = Callable[[Path], Runtime]
"""Opens a slot's bundle with this device's trust and settings."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What could be loaded at start.

    Attributes:
        slot: Where it lies; None if nothing could be loaded.
        runtime: The model.
        faults: What was wrong with the slots that were tried before.
    """

    slot: Slot | None
    runtime: Runtime | None
    faults: tuple[str, ...] = ()


def load_best(root: DeviceRoot, preferred: Slot | None, open_slot: Opener) -> Loaded:
    """Load the preferred slot, or the other one if it is rotten; never raises for a bad bundle."""
    first = preferred or "a"
    faults: list[str] = []
    for slot in (first, other_slot(first)):
        if not root.slot(slot).exists():
            continue
        try:
            return Loaded(slot, open_slot(root.slot(slot)), tuple(faults))
        except FieldloopError as error:
            faults.append(f"slot {slot}: {error}")
    return Loaded(None, None, tuple(faults))


def slot_sha256(root: DeviceRoot, slot: Slot) -> str | None:
    """Return the hash of a slot's bytes; None if it is empty or unreadable."""
    return file_sha256(root.slot(slot))


def file_sha256(path: Path) -> str | None:
    """Return the hash of a bundle's file; None if it is missing or unreadable."""
    try:
        return sha256_hex(read_bundle(path))
    except FieldloopError:
        return None


def stage(root: DeviceRoot, part: Path, slot: Slot, *, sha256: str) -> None:
    """Move a verified download into the inactive slot, durably, and read it back.

    Raises:
        EnvironmentFaultError: The slot cannot be written, or gives other bytes back.
    """
    try:
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(root.slot(slot))
        sync_directory(root.slots)
    except OSError as error:
        raise EnvironmentFaultError(
            f"slot {slot} cannot be written: {error.strerror}",
            where=str(root.slot(slot)),
            advice="Free disk space or check whether the root is mounted read-only.",
        ) from error
    if slot_sha256(root, slot) != sha256:
        raise EnvironmentFaultError(
            f"slot {slot} gives back other bytes than were written",
            where=str(root.slot(slot)),
            advice="Check the storage: it may be worn out.",
        )
