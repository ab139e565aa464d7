"""The device's settings: `device.toml`, read once at start and checked as a whole."""

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from fieldloop.backends import choose_backend
from fieldloop.device_root import DeviceRoot
from fieldloop.errors import ConfigError, DataError
from fieldloop.integrity import PublicKey, TrustPolicy
from fieldloop.ranges import RangePolicy
from fieldloop.topics import checked_device_id

Isolation = Literal["thread", "process"]
"""Where the model runs: in the agent's process, or in one of its own."""


class DeviceSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who the device is.

    Attributes:
        id: Its name in topics and certificates, `[a-z0-9-]{1,64}`.
        device_class: The target it is, for example `pi4`.
    """

    id: str
    device_class: str = msgspec.field(name="class")


class BrokerSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where it reports; without this section the device works alone."""

    host: str
    port: int = 8883
    tls: bool = True
    keepalive_s: int = 30


class TelemetrySection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it reports.

    Attributes:
        window_s: Length of a telemetry window.
        sample_budget_per_day: Most field samples a day.
        sample_random_rate: Share of inputs that are drawn at random.
        sample_uncertain_below: Inputs answered with less confidence are sent, budget permitting.
        outbox_max_bytes: Space for messages that the cloud has not acknowledged.
        outbox_max_age_days: Older ones are dropped and counted; judged only by a clock that is and
            was synchronised.
    """

    window_s: float = 60.0
    sample_budget_per_day: int = 200
    sample_random_rate: float = 0.01
    sample_uncertain_below: float = 0.6
    outbox_max_bytes: int = 32 * 1024 * 1024
    outbox_max_age_days: float = 90.0


class PrivacySection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may leave the device.

    Attributes:
        samples: Whether raw inputs may be sent home for labelling. Left out, it means yes for
            numbers and no for images.
    """

    samples: bool | None = None


class RuntimeSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model runs; the names are those of `Runtime.open`.

    Attributes:
        backend: Which runtime; None for the preferred one.
        num_threads: Threads for one prediction.
        out_of_range: `flag`, `reject` or `clip` values outside the trained range.
        xnnpack: Whether float work is given to XNNPACK.
        delegate: Path of an external delegate's shared library; empty for none.
        isolation: `process` runs the model in a process of its own.
    """

    backend: str | None = None
    num_threads: int = 1
    out_of_range: RangePolicy = "flag"
    xnnpack: bool = True
    delegate: str = ""
    isolation: Isolation = "thread"


class UpdateSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for what is downloaded and for its self-test.

    Attributes:
        max_bundle_bytes: A larger bundle is refused.
        min_bytes_per_s: A slower download is given up and tried again later.
        self_test_timeout_s: The golden replay must end within it.
        self_test_memory_bytes: Address space that the golden replay may use.
        max_latency_ms: Largest p95 latency that passes; None accepts any.
    """

    max_bundle_bytes: int = 256 * 1024 * 1024
    min_bytes_per_s: int = 1024
    self_test_timeout_s: float = 120.0
    self_test_memory_bytes: int = 4 * 1024**3
    max_latency_ms: float | None = None


class ShadowSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a challenger in the running model's shadow may cost.

    Attributes:
        cpu_share: Most processor time, as a share of one core.
    """

    cpu_share: float = 0.05


class EndpointSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How other programs of this machine ask.

    Attributes:
        listen: Addresses: `127.0.0.1:PORT` or `unix:PATH`; none by default.
    """

    listen: tuple[str, ...] = ()


class DeviceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `device.toml`."""

    device: DeviceSection
    broker: BrokerSection | None = None
    telemetry: TelemetrySection = TelemetrySection()
    privacy: PrivacySection = PrivacySection()
    runtime: RuntimeSection = RuntimeSection()
    update: UpdateSection = UpdateSection()
    shadow: ShadowSection = ShadowSection()
    endpoint: EndpointSection = EndpointSection()
    release: dict[str, str] = {}


_PROVISION = "Provision the device: fieldloop provision."
_TRUST_ADVICE = (
    "Take the release key's public half (keys/release.pub.pem in the fleet's home), or provision "
    "the device again: fieldloop provision."
)


def load_config(root: DeviceRoot) -> DeviceConfig:
    """Read and check `device.toml`.

    Raises:
        ConfigError: It is missing, not TOML, or holds a wrong or unknown setting.
    """
    try:
        values = tomllib.loads(_read_text(root.config, advice=_PROVISION))
        config = msgspec.convert(values, DeviceConfig)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"the device's settings are wrong: {error}",
            where=str(root.config),
            advice="Correct the file or provision the device again.",
        ) from error
    checked_device_id(config.device.id)
    _check_numbers(config, root.config)
    return config


def read_trust(
    path: Path,
    *,
    device_class: str | None = None,
    release_floor: int = 0,
    backend: str | None = None,
) -> TrustPolicy:
    """Return the policy of a PEM file with one or more public keys, for this machine's runtime.

    Raises:
        ConfigError: There is no key, or the file holds something else.
        EnvironmentFaultError: No TFLite runtime is installed.
    """
    try:
        keys = PublicKey.all_from_pem(_read_text(path, advice=_TRUST_ADVICE).encode())
    except DataError as error:
        raise ConfigError(
            f"the trusted keys cannot be used: {error.what}",
            where=str(path),
            advice=_TRUST_ADVICE,
        ) from error
    return TrustPolicy(
        keys=keys,
        release_floor=release_floor,
        device_class=device_class,
        runtime_version=choose_backend(backend).tflite_version,
    )


def _read_text(path: Path, *, advice: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(
            f"{path.name} cannot be read: {reason}",
            where=str(path),
            advice=advice,
        ) from error


def _check_numbers(config: DeviceConfig, path: Path) -> None:
    telemetry, update = config.telemetry, config.update
    checks = {
        "[telemetry] window_s must be above 0": telemetry.window_s > 0,
        "[telemetry] sample_budget_per_day must not be negative": (
            telemetry.sample_budget_per_day >= 0
        ),
        "[telemetry] sample_random_rate must lie in 0 … 1": 0 <= telemetry.sample_random_rate <= 1,
        "[telemetry] sample_uncertain_below must lie in 0 … 1": (
            0 <= telemetry.sample_uncertain_below <= 1
        ),
        "[telemetry] outbox_max_bytes must be at least 65536": (
            telemetry.outbox_max_bytes >= 1 << 16
        ),
        "[telemetry] outbox_max_age_days must be above 0": telemetry.outbox_max_age_days > 0,
        "[shadow] cpu_share must lie above 0 and be at most 1": 0 < config.shadow.cpu_share <= 1,
        "[runtime] num_threads must be at least 1": config.runtime.num_threads >= 1,
        "[update] limits must be above 0": min(
            update.max_bundle_bytes,
            update.min_bytes_per_s,
            update.self_test_timeout_s,
            update.self_test_memory_bytes,
        )
        > 0,
        "[broker] port must lie in 1 … 65535": (
            config.broker is None or 0 < config.broker.port < 1 << 16
        ),
    }
    for message, is_fine in checks.items():
        if not is_fine:
            raise ConfigError(message, where=str(path), advice="Correct the setting.")
