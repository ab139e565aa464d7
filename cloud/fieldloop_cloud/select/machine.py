"""The machine that would train: cores, memory, an accelerator, and whether nets can be built."""

import importlib.util
import os
import shutil
from pathlib import Path

import msgspec

from fieldloop_cloud.compile.conversion import missing_packages

_CGROUP = Path("/sys/fs/cgroup")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to train with.

    Attributes:
        core_count: Cores that this process may use.
        memory_bytes: Memory that this process may use; 0 where the system does not say.
        gpu: What was found; empty for none.
        deep_missing: What nets lack here; empty if they can be trained.
    """

    core_count: int
    memory_bytes: int
    gpu: str
    deep_missing: str

    @property
    def has_deep(self) -> bool:
        """Whether nets can be trained here."""
        return not self.deep_missing

    @property
    def sentence(self) -> str:
        """Say it."""
        memory = f"{self.memory_bytes / 2**30:.1f} GB of memory" if self.memory_bytes else ""
        cores = f"{self.core_count} core{'s' if self.core_count != 1 else ''}"
        nets = "nets can be trained" if self.has_deep else f"no nets: {self.deep_missing}"
        return ", ".join(part for part in (cores, memory, self.gpu or "no GPU", nets) if part) + "."


def this_machine() -> Machine:
    """Look at this machine; nothing heavy is imported."""
    return Machine(
        core_count=_cores(),
        memory_bytes=_memory(),
        gpu=_gpu(),
        deep_missing=missing_packages(),
    )


def _cores() -> int:
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _read(_CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():  # noqa: PLR2004 - "QUOTA PERIOD"
        found = min(found or 1, max(1, int(quota[0]) // int(quota[1])))
    return found or 1


def _memory() -> int:
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        found = 0
    limit = _read(_CGROUP / "memory.max").strip()
    return min(found, int(limit)) if limit.isdigit() and found else found


def _gpu() -> str:
    if shutil.which("nvidia-smi") and Path("/dev/nvidia0").exists():
        return "an NVIDIA GPU"
    if Path("/dev/kfd").exists():
        return "an AMD GPU"
    if importlib.util.find_spec("tensorflow-metal") is not None:
        return "an Apple GPU"
    return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeError):
        return ""
