"""Device classes: what a kind of device can run, hold and wait for.

A target is a small TOML file. Four come with the package (`mcu`, `pi3`, `pi4`, `x86`); a path to
an own file is taken wherever a name is. `runtime_version` is the TFLite version whose builtin ops
the device's runtime has, whatever the runtime itself is called or numbered: it is what an op
version read from a flatbuffer is compared with.
"""

import statistics
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from fieldloop.errors import ConfigError
from fieldloop.manifest import Precision
from fieldloop.measured import Measured
from fieldloop_cloud.files import read_toml

_FASTEST_MACS_PER_MS = 256e6
"""Multiply-adds of one current x86 core in a millisecond, 8-bit vectors at 4 GHz."""

Runtime = Literal["ai-edge-litert", "tflite-runtime", "tensorflow", "tflite-micro"]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device class.

    Attributes:
        name: How bundles and devices name it, `[a-z0-9-]{1,64}`.
        description: One sentence for people.
        runtime: The interpreter that the device uses.
        runtime_version: TFLite version whose op versions it has, for example `2.14.0`.
        precisions: What it runs, the preferred first.
        ram_bytes: Memory that the model may use.
        flash_bytes: Storage for both slots and the outbox.
        max_model_bytes: Largest `.tflite` that is worth shipping.
        latency_budget_ms: Longest 90th percentile for one prediction.
        relative_latency: Estimated latency relative to a current x86 core; replaced by a
            measurement on the device where there is one.
    """

    name: str
    description: str = ""
    runtime: Runtime
    runtime_version: str
    precisions: tuple[Precision, ...]
    ram_bytes: int
    flash_bytes: int
    max_model_bytes: int
    latency_budget_ms: float
    relative_latency: float = 1.0

    @property
    def integers_only(self) -> bool:
        """Whether an int8 model is to compute and answer in integers alone."""
        return self.runtime == "tflite-micro"

    def least_latency_ms(self, mac_count: float) -> float:
        """Return how long so many multiplications with addition take at the very least."""
        return mac_count / _FASTEST_MACS_PER_MS * self.relative_latency

    def checked(self, where: str) -> "Target":
        """Return self after checking names, versions and ranges.

        Raises:
            ConfigError: A value makes no sense; `where` names the file.
        """
        problems = {
            "name": not is_class_name(self.name),
            "runtime_version": version_tuple(self.runtime_version) is None,
            "precisions": not self.precisions,
            "ram_bytes": self.ram_bytes <= 0,
            "flash_bytes": self.flash_bytes <= 0,
            "max_model_bytes": not 0 < self.max_model_bytes <= self.flash_bytes,
            "latency_budget_ms": not self.latency_budget_ms > 0,
            "relative_latency": not self.relative_latency > 0,
        }
        wrong = [name for name, failed in problems.items() if failed]
        if wrong:
            raise ConfigError(
                f"the target's {', '.join(wrong)} cannot be right",
                where=where,
                advice="Use positive sizes and a version such as 2.14.0; a model must fit the "
                "flash.",
            )
        return self


def is_class_name(name: str) -> bool:
    """Whether a name may stand for a device class or a model: `[a-z0-9-]{1,64}`."""
    allowed = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
    return 1 <= len(name) <= 64 and set(name) <= allowed  # noqa: PLR2004 - as documented


def version_tuple(text: str) -> tuple[int, ...] | None:
    """Parse `2.14.0`; None if it is no dotted number.

    Example:
        >>> version_tuple("2.14.0"), version_tuple("new")
        ((2, 14, 0), None)
    """
    parts = text.split(".")
    if not all(part.isascii() and part.isdigit() for part in parts):
        return None
    return tuple(int(part) for part in parts)


def target_names() -> tuple[str, ...]:
    """Return the names of the targets that come with the package, sorted."""
    folder = resources.files("fieldloop_cloud.release") / "targets"
    files = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def load_target(name_or_path: str | Path) -> Target:
    """Load a target by the name of a packaged one or by the path of an own TOML file.

    The path of what `fieldloop-device measure` wrote is taken too: the class that was measured,
    with the latency and the precisions that were found there.

    Raises:
        ConfigError: No such name (the error lists the known ones) or a file that is not valid.

    Example:
        >>> load_target("pi4").runtime
        'ai-edge-litert'
    """
    text = str(name_or_path)
    if text in target_names():
        packaged = resources.files("fieldloop_cloud.release") / "targets" / f"{text}.toml"
        with resources.as_file(packaged) as path:
            return read_toml(path, Target).checked(text)
    path = Path(name_or_path)
    if path.suffix == ".json":
        return _measured_target(path)
    if path.suffix == ".toml" or path.is_file():
        return read_toml(path, Target).checked(text)
    raise ConfigError(
        f"there is no target {text!r}",
        advice=f"Use one of {', '.join(target_names())}, the path of an own .toml file, or of a "
        ".json from fieldloop-device measure.",
    )


def _measured_target(path: Path) -> Target:
    """Correct a device class by what was measured on one of its devices."""
    try:
        measured = msgspec.json.decode(path.read_bytes(), type=Measured)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"this is no measurement: {error}",
            where=str(path),
            advice="Write it on the device: fieldloop-device measure --root DIR -o FILE.json.",
        ) from error
    base = load_target(measured.device_class)
    ran = {item.precision for item in measured.variants}
    refused = measured.failures.keys() - ran
    ratios = [
        item.duty_cycle.p90_ms / item.workstation_p90_ms
        for item in measured.variants
        if item.workstation_p90_ms
    ]
    precisions = tuple(item for item in base.precisions if item not in refused)
    if not ratios or not precisions:
        raise ConfigError(
            "the measured bundle does not say how fast it was on the workstation"
            if not ratios
            else f"none of {', '.join(base.precisions)} ran on the device",
            where=str(path),
            advice="Measure a bundle that `fieldloop train` and `fieldloop bundle` made.",
        )
    return msgspec.structs.replace(
        base,
        description=f"{base.description} (as measured: {measured.machine}, {measured.backend})",
        precisions=precisions,
        relative_latency=statistics.median(ratios),
    )
