"""Telemetry windows added together, to save space while the cloud is out of reach."""

from collections.abc import Sequence
from typing import TypeVar

from fieldloop.histogram import Packed, add_counts, pack_counts, unpack_counts
from fieldloop.telemetry import Resources, ShadowCounts, TelemetryWindow

NumberT = TypeVar("NumberT", int, float)


def can_merge(first: TelemetryWindow, second: TelemetryWindow) -> bool:
    """Say whether two windows count the same thing: one boot, one model and one challenger."""
    challengers = {window.shadow.model for window in (first, second) if window.shadow}
    return first.boot == second.boot and first.model == second.model and len(challengers) <= 1


def merge(first: TelemetryWindow, second: TelemetryWindow) -> TelemetryWindow:
    """Add two windows of one model, the earlier one first; the result keeps the later's number.

    Example:
        >>> from fieldloop.telemetry import Clock
        >>> now = Clock(mono_ms=0, wall_ms=0)
        >>> window = TelemetryWindow(boot=1, seq=1, model="m", start=now, end=now)
        >>> merge(window, window).merged_count
        2
    """
    return TelemetryWindow(
        version=first.version,
        boot=second.boot,
        seq=second.seq,
        model=second.model,
        start=first.start,
        end=second.end,
        prediction_count=first.prediction_count + second.prediction_count,
        rejected_count=first.rejected_count + second.rejected_count,
        error_counts=_add_named(first.error_counts, second.error_counts),
        latency_counts=add_counts(first.latency_counts, second.latency_counts),
        confidence_counts=_add_histograms(first.confidence_counts, second.confidence_counts),
        feature_counts=_add_histograms(first.feature_counts, second.feature_counts),
        missing_counts=_add(first.missing_counts, second.missing_counts),
        out_of_range_counts=_add(first.out_of_range_counts, second.out_of_range_counts),
        stuck_counts=_add(first.stuck_counts, second.stuck_counts),
        resources=_add_resources(first.resources, second.resources),
        merged_count=max(first.merged_count, 1) + max(second.merged_count, 1),
        dropped_count=max(first.dropped_count, second.dropped_count),
        feedback_count=first.feedback_count + second.feedback_count,
        feedback_correct_count=first.feedback_correct_count + second.feedback_correct_count,
        shadow=_add_shadows(first.shadow, second.shadow),
    )


def _add_resources(first: Resources | None, second: Resources | None) -> Resources | None:
    """Take the largest of what is a level, the sum of what was spent."""
    if first is None or second is None:
        return first or second
    temperatures = [
        item.temperature_c for item in (first, second) if item.temperature_c is not None
    ]
    return Resources(
        rss_kib=max(first.rss_kib, second.rss_kib),
        cpu_ms=first.cpu_ms + second.cpu_ms,
        temperature_c=max(temperatures, default=None),
        throttle_count=first.throttle_count + second.throttle_count,
    )


def _add_shadows(first: ShadowCounts | None, second: ShadowCounts | None) -> ShadowCounts | None:
    if first is None or second is None:
        return first or second
    return ShadowCounts(
        model=second.model,
        row_count=first.row_count + second.row_count,
        agreed_counts=_add(first.agreed_counts, second.agreed_counts),
        differed_counts=_add(first.differed_counts, second.differed_counts),
        difference_counts=_add_rows(first.difference_counts, second.difference_counts),
        difference_sums=_add(first.difference_sums, second.difference_sums),
        latency_counts=_add_packed(first.latency_counts, second.latency_counts),
        error_counts=_add_named(first.error_counts, second.error_counts),
    )


def _add_named(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def _add(first: Sequence[NumberT], second: Sequence[NumberT]) -> tuple[NumberT, ...]:
    """Add plain counts; an empty one stands for zeros."""
    if not first or not second:
        return tuple(first or second)
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _add_packed(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """Add packed histograms; an empty one stands for zeros."""
    if not first or not second:
        return tuple(first or second)
    cell_count = sum(-item if item < 0 else 1 for item in first)
    return tuple(
        pack_counts(
            a + b
            for a, b in zip(
                unpack_counts(first, cell_count=cell_count),
                unpack_counts(second, cell_count=cell_count),
                strict=True,
            )
        )
    )


def _add_rows(
    first: Sequence[tuple[int, ...]], second: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    if not first or not second:
        return tuple(first or second)
    return tuple(_add_packed(a, b) for a, b in zip(first, second, strict=True))


def _add_histograms(first: Sequence[Packed], second: Sequence[Packed]) -> tuple[Packed, ...]:
    if not first or not second:
        return tuple(first or second)
    return tuple(add_counts(a, b) for a, b in zip(first, second, strict=True))
