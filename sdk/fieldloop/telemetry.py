"""What a device says about the field: windows, events and samples.

Every message carries (device, boot, seq). `boot` counts the agent's starts, `seq` counts the
messages of one boot over all streams; together they order a device's messages and make storing
them idempotent. Both are 64-bit and never wrap. Clock readings come in pairs, because a device's
wall clock may be wrong: the cloud can place an event by the monotonic difference instead.

On the wire these are JSON objects with short keys (see `wire`); in code they have names. Histograms
are text there (see `histogram.write_counts`); lists of counts are read too.
"""

from typing import Literal

import msgspec

from fieldloop.histogram import Packed
from fieldloop.signature import Category

Stream = Literal["tel", "evt", "smp"]
"""The three streams of numbered messages, named as in the topics."""


class Clock(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One reading of both clocks; on the wire a list, because every message carries two or three.

    Attributes:
        mono_ms: Monotonic milliseconds since the machine started.
        wall_ms: Milliseconds since 1970-01-01 UTC, as the device believes.
        synchronized: Whether the system says that its wall clock is synchronised.
    """

    mono_ms: int
    wall_ms: int
    synchronized: bool = False


class ShadowCounts(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "model": "h",
        "row_count": "n",
        "agreed_counts": "a",
        "differed_counts": "d",
        "difference_counts": "v",
        "difference_sums": "s",
        "latency_counts": "l",
        "error_counts": "er",
    },
):
    """How a challenger answered the same inputs as the champion, whose answers alone counted.

    Attributes:
        model: First 16 hex digits of the challenger's SHA-256.
        row_count: Inputs that both answered.
        agreed_counts: For each class of the champion how often the challenger said the same; of
            several targets with labels the classes of each, one target after the other.
        differed_counts: The same for another answer.
        difference_counts: For each target with a value a packed histogram of the absolute
            difference over `DIFFERENCE_EDGES`.
        difference_sums: Sum of the absolute differences for each of these, in the target's unit.
        latency_counts: Packed histogram of the challenger's latencies over `LATENCY_EDGES_MS`.
        error_counts: Inputs that the challenger did not answer, by the error's type name.
    """

    model: str
    row_count: int = 0
    agreed_counts: tuple[int, ...] = ()
    differed_counts: tuple[int, ...] = ()
    difference_counts: tuple[tuple[int, ...], ...] = ()
    difference_sums: tuple[float, ...] = ()
    latency_counts: tuple[int, ...] = ()
    error_counts: dict[str, int] = {}


DIFFERENCE_EDGES: tuple[float, ...] = tuple(
    float(f"{base}e{power}") for power in range(-6, 7) for base in (1, 3)
)
"""Edges of the histogram of differences between two values, two to a decade."""


class Resources(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the agent's process took during a window; on the wire a list.

    Attributes:
        rss_kib: Resident memory at the window's end, in KiB.
        cpu_ms: Processor time; divided by the window's length it is the share of a core.
        temperature_c: Hottest sensor at the window's end; None where the system shows none.
        throttle_count: How often a processor was slowed down because of heat or a weak supply.
    """

    rss_kib: int
    cpu_ms: int
    temperature_c: float | None = None
    throttle_count: int = 0


class TelemetryWindow(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "version": "v",
        "boot": "b",
        "seq": "q",
        "model": "h",
        "start": "t0",
        "end": "t1",
        "prediction_count": "n",
        "rejected_count": "rj",
        "error_counts": "er",
        "latency_counts": "l",
        "confidence_counts": "c",
        "feature_counts": "f",
        "missing_counts": "mi",
        "out_of_range_counts": "oo",
        "stuck_counts": "st",
        "resources": "r",
        "sent": "t",
        "merged_count": "mg",
        "dropped_count": "dr",
        "feedback_count": "fn",
        "feedback_correct_count": "fc",
        "shadow": "sh",
    },
):
    """Everything counted between two moments; merging windows is adding them.

    Attributes:
        version: Of this schema.
        boot: The boot during which it was counted.
        seq: Number of the message within the boot.
        model: First 16 hex digits of the running bundle's SHA-256.
        start: Clocks at the beginning.
        end: Clocks at the end.
        sent: Clocks at the moment of sending, filled in by the reporter.
        prediction_count: Predictions that were answered.
        rejected_count: Raw values that the signature refused.
        error_counts: Errors by type name.
        latency_counts: Packed histogram of latencies over `LATENCY_EDGES_MS`.
        confidence_counts: For each class a packed histogram of the winning probability over
            `CONFIDENCE_EDGES`; one row for regression-less-confidence is left out. For several
            targets the classes of each with probabilities, one target after the other.
        feature_counts: For each monitored quantity of the reference profile, in its order, a
            packed histogram over the profile's bins.
        missing_counts: Missing values for each monitored quantity; empty if none.
        out_of_range_counts: Values outside the trained range for each; empty if none.
        stuck_counts: For each quantity that varied in training, values that came after at least
            `STUCK_RUN` - 1 equal ones without a break; empty if none.
        resources: What the agent's process took; None where the system does not tell.
        merged_count: How many windows were merged into this one to save space (0: none).
        dropped_count: Messages this device has had to drop since the boot began.
        feedback_count: Predictions whose truth became known in this window.
        feedback_correct_count: How many of those were right.
        shadow: How a challenger agreed with the running model; None without one.
    """

    version: int = 1
    boot: int
    seq: int
    model: str
    start: Clock
    end: Clock
    sent: Clock | None = None
    prediction_count: int = 0
    rejected_count: int = 0
    error_counts: dict[str, int] = {}
    latency_counts: Packed = ""
    confidence_counts: tuple[Packed, ...] = ()
    feature_counts: tuple[Packed, ...] = ()
    missing_counts: tuple[int, ...] = ()
    out_of_range_counts: tuple[int, ...] = ()
    stuck_counts: tuple[int, ...] = ()
    resources: Resources | None = None
    merged_count: int = 0
    dropped_count: int = 0
    feedback_count: int = 0
    feedback_correct_count: int = 0
    shadow: ShadowCounts | None = None


STUCK_RUN = 32
"""So many exactly equal readings in a row are no coincidence where a sensor has noise."""

LATENCY_EDGES_MS: tuple[float, ...] = tuple(
    round(base * 10.0**power, 6) for power in range(-3, 4) for base in (1.0, 1.8, 3.2, 5.6)
)
"""Edges of the latency histogram: four to a decade from 1 µs to 5.6 s; the last cell is open."""

CONFIDENCE_EDGES: tuple[float, ...] = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Edges of the winning probability's histogram; finer where confident models live."""


class Event(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "version": "v",
        "boot": "b",
        "seq": "q",
        "at": "t0",
        "sent": "t",
        "model": "h",
        "kind": "k",
        "detail": "d",
    },
):
    """Something that is worth a message at once.

    Attributes:
        kind: What happened, as one word of the list in `EVENT_KINDS`.
        detail: A sentence for people; no secrets, at most 500 characters.
    """

    version: int = 1
    boot: int
    seq: int
    at: Clock
    sent: Clock | None = None
    model: str = ""
    kind: str
    detail: str = ""


EVENT_KINDS: tuple[str, ...] = (
    "boot",
    "switched",
    "committed",
    "rolled-back",
    "update-failed",
    "outbox-quarantined",
    "messages-dropped",
    "source-failed",
    "runtime-error",
    "shadow-started",
    "shadow-failed",
    "shadow-stopped",
)


class FieldSample(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "version": "v",
        "boot": "b",
        "seq": "q",
        "at": "t0",
        "sent": "t",
        "model": "h",
        "sample_id": "i",
        "raw": "x",
        "predicted": "y",
        "confidence": "c",
        "policy": "p",
        "inclusion_probability": "w",
    },
):
    """One raw input that is sent home so that a person can label it.

    Attributes:
        sample_id: The source's id of the input, unique per device; labels refer to it.
        raw: The input in the user's units: a list of numbers and categories, nested for images;
            of several inputs such a list for each.
        predicted: The label or value the device gave, of several targets that of each; None if it
            gave none.
        confidence: The winning probability, of several targets the lowest; None without one.
        policy: Why it was chosen: `random`, `uncertain` or `novel`.
        inclusion_probability: With what probability this input was chosen, in (0, 1]; audits
            weight by its inverse.
    """

    version: int = 1
    boot: int
    seq: int
    at: Clock
    sent: Clock | None = None
    model: str
    sample_id: str
    raw: list[object]
    predicted: Category | tuple[Category | None, ...] | None = None
    confidence: float | None = None
    policy: Literal["random", "uncertain", "novel"] = "random"
    inclusion_probability: float = 1.0


class Ack(
    msgspec.Struct, frozen=True, kw_only=True, rename={"version": "v", "boot": "b", "ranges": "r"}
):
    """The cloud's word that messages are stored: sent only after its commit.

    Ranges, not a high-water mark: a broker may drop a message in the middle, and a mark would
    acknowledge what never arrived.

    Attributes:
        boot: The boot whose messages are meant.
        ranges: Inclusive (first, last) sequence numbers.
    """

    version: int = 1
    boot: int
    ranges: tuple[tuple[int, int], ...]
