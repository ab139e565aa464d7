"""What a device should run, and what it says it runs.

Updates are level-triggered: the cloud publishes a whole desired state, retained, with a version
that only grows; the device compares it with its own at every connection and works towards it. A
rollout succeeded when the device *reports* the running hash, never earlier.
"""

from typing import Literal

import msgspec

Phase = Literal[
    "idle",
    "downloading",
    "verified",
    "staged",
    "self-test",
    "trial",
    "committed",
    "rolled-back",
    "failed",
]
"""Where an update stands; `trial` runs the new model under watch, only the health check commits."""


class HealthPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a model on trial may stay.

    Attributes:
        min_predictions: Answers needed before a verdict.
        min_duration_ms: Shortest trial.
        max_duration_ms: Longest trial; without enough answers by then it is rolled back.
        max_error_rate: Share of predictions that may fail.
    """

    min_predictions: int = 20
    min_duration_ms: int = 1_000
    max_duration_ms: int = 600_000
    max_error_rate: float = 0.0


class ShadowWish(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger that shall answer beside the running model, without being heard.

    Attributes:
        sha256: Hash of the bundle file, hex.
        size_bytes: Its size.
        url: Where it can be fetched, http(s).
    """

    sha256: str
    size_bytes: int
    url: str


class DesiredState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole wish for one device.

    Attributes:
        version: Of this schema.
        ver: Version of the wish; one that is not above the last accepted is refused.
        sha256: Hash of the bundle file, hex.
        size_bytes: Its size.
        url: Where it can be fetched, http(s).
        health: When the trial may be committed.
        shadow: The challenger in the running model's shadow; None wants none.
    """

    version: int = 1
    ver: int
    sha256: str
    size_bytes: int
    url: str
    health: HealthPolicy = HealthPolicy()
    shadow: ShadowWish | None = None


class ReportedState(msgspec.Struct, frozen=True, kw_only=True):
    """What the device runs now.

    Attributes:
        version: Of this schema.
        boot: The boot it speaks of.
        desired_ver: The wish it is about (0: none yet).
        running_sha256: Hash of the bundle that answers now; empty without one.
        release: Release counter of that bundle.
        phase: Where the update stands.
        error: What went wrong, one sentence; empty if nothing.
        device_class: The target this device is.
        backend: Runtime and version, for example `ai-edge-litert 2.3.0`.
        self_test: The last golden replay's receipt: largest deviation and p95 latency.
        shadow_sha256: Hash of the challenger that runs in the shadow; empty without one.
        shadow_error: Why the wanted one does not run; empty if it does.
    """

    version: int = 1
    boot: int
    desired_ver: int = 0
    running_sha256: str = ""
    release: int = 0
    phase: Phase = "idle"
    error: str = ""
    device_class: str = ""
    backend: str = ""
    self_test: "SelfTestReceipt | None" = None
    shadow_sha256: str = ""
    shadow_error: str = ""


class SelfTestReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What the golden replay measured on this device before a switch."""

    sha256: str
    max_deviation: float
    p95_latency_ms: float
    golden_count: int


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Birth and death of a device's connection; the Will carries the death.

    Attributes:
        boot: A death of an older boot than the last birth is stale and ignored.
        online: True at birth.
    """

    version: int = 1
    boot: int
    online: bool
