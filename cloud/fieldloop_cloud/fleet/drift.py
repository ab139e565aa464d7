"""Has the field moved away from the training data? With a stated rate of false alarms.

Devices count their inputs into the reference profile's frozen bins. Here those counts are compared
with the reference: for each monitored quantity, the predicted classes and the confidences; for
each device and for the fleet as a whole.

The rule, once:

1. A *cycle* is the telemetry of one period. In it every (quantity, device) is tested with the
   chi-square test (module `homogeneity`).
2. Benjamini-Hochberg over all tests of the cycle at level alpha. If nothing drifts, a cycle has a
   rejection with probability at most alpha, however many quantities and devices there are.
3. alpha = false alarms per fleet-month / cycles per month. By the union bound the stated rate then
   holds whatever the dependence between cycles.
4. A rejection becomes a verdict when the effect reaches `effect_floor` (with enough data the
   smallest difference is significant) and when the same test was rejected in `needed` of the last
   `cycle_count` cycles. Both only make alarms rarer.

*Fleet* verdicts leave out the devices that deviate by themselves, up to half of them: if the rest
has moved too, the world has changed; if not, single sensors are broken. The method sees inputs
and predictions only; it cannot see labels change their meaning (concept drift): that takes labels.

The rate is stated for a field whose swings are shorter than a period. What swings more slowly (day
and night, shifts, weather) differs from the reference for whole cycles and is reported as drift:
choose a period that covers a full swing, or train on all of it.

Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import ConfigError
from fieldloop.profile import ReferenceProfile
from fieldloop_cloud.fleet.counts import FieldWindow, count_windows, references_of
from fieldloop_cloud.fleet.homogeneity import Comparison, compare

MONTH_S = 30 * 24 * 3600.0
_Cycle = dict[tuple[str, str | None], "DriftVerdict"]
"""Results of one cycle by quantity and device (None: the fleet)."""

OUTLIER_LEVEL = 0.01
"""A device below this p-value may be left out of the fleet's sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftVerdict:
    """One quantity of one device (or of the fleet) against the reference.

    Attributes:
        quantity: A monitored quantity, `prediction.class` or `prediction.confidence`.
        device: The device; None for the fleet.
        row_count: Field values compared in the newest cycle.
        effective_count: What they are worth, given how much successive windows vary.
        statistic: Chi-square statistic on the effective counts.
        p_value: Of the newest cycle's test, before the correction for many tests.
        effect: Population stability index (PSI) minus what chance alone gives.
        rejected: Whether the newest cycle's test is significant after the correction.
        persisted: In how many of the last cycles it was.
        drifted: The verdict.
    """

    quantity: str
    device: str | None
    row_count: int
    effective_count: float
    statistic: float
    p_value: float
    effect: float
    rejected: bool = False
    persisted: int = 0
    drifted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftPolicy:
    """How alarms are raised.

    Attributes:
        false_alarms_per_fleet_month: Expected number of cycles in thirty days in which an alarm
            is raised though nothing has drifted.
        period_s: Length of a cycle in seconds.
        cycle_count: Cycles that are looked back at (n of k-of-n).
        needed: Rejections among them that make a verdict (k of k-of-n).
        effect_floor: Smallest PSI worth an alarm; 0.1 is the usual "small change".
        min_rows: Fewer field values in a cycle are not tested.
    """

    false_alarms_per_fleet_month: float = 1.0
    period_s: float = 3600.0
    cycle_count: int = 3
    needed: int = 2
    effect_floor: float = 0.1
    min_rows: int = 30

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: A rate, period or count makes no sense.
        """
        sound = (
            self.false_alarms_per_fleet_month > 0
            and self.period_s > 0
            and 1 <= self.needed <= self.cycle_count
            and self.effect_floor >= 0
        )
        if not sound:
            raise ConfigError(
                "this drift policy makes no sense",
                where=str(self),
                advice="Use a positive rate and period and 1 <= needed <= cycle_count.",
            )

    @property
    def alpha(self) -> float:
        """Level of one cycle: false alarms a month divided by cycles a month, at most 0.05.

        Example:
            >>> round(DriftPolicy(false_alarms_per_fleet_month=1.0, period_s=3600.0).alpha, 5)
            0.00139
        """
        return min(0.05, self.false_alarms_per_fleet_month * self.period_s / MONTH_S)


def verdicts(
    profile: ReferenceProfile,
    windows: Sequence[FieldWindow],
    *,
    policy: DriftPolicy | None = None,
    now_ms: int | None = None,
) -> list[DriftVerdict]:
    """Compare the field with the reference.

    Args:
        profile: The running model's reference.
        windows: Telemetry of that model only, of all devices, in any order.
        policy: When to raise an alarm.
        now_ms: End of the newest cycle; by default the end of the newest window
            in which anything was predicted.

    Returns:
        For each quantity the fleet (if there are two devices or more) and each device that has
        enough data in the newest cycle.

    Raises:
        DataError: A window's histograms do not have the profile's cells.
    """
    policy = policy or DriftPolicy()
    # Devices that rest send empty windows; they say nothing and must not become the newest cycle.
    windows = [item for item in windows if item.window.prediction_count]
    if not windows:
        return []
    end_ms = max(item.at_ms for item in windows) if now_ms is None else now_ms
    references = references_of(profile)
    cycles = [
        _tested(references, _of_cycle(windows, end_ms, age, policy), policy)
        for age in range(policy.cycle_count)
    ]
    return [_judged(verdict, cycles, policy) for verdict in cycles[0].values()]


def _of_cycle(
    windows: Sequence[FieldWindow], end_ms: int, age: int, policy: DriftPolicy
) -> list[FieldWindow]:
    period_ms = policy.period_s * 1000.0
    last, first = end_ms - age * period_ms, end_ms - (age + 1) * period_ms
    return sorted((w for w in windows if first < w.at_ms <= last), key=lambda w: w.at_ms)


def _judged(verdict: DriftVerdict, cycles: Sequence[_Cycle], policy: DriftPolicy) -> DriftVerdict:
    key = (verdict.quantity, verdict.device)
    persisted = sum(cycle[key].rejected for cycle in cycles if key in cycle)
    drifted = (
        verdict.rejected and persisted >= policy.needed and verdict.effect >= policy.effect_floor
    )
    return replace(verdict, persisted=persisted, drifted=drifted)


def _tested(
    references: Mapping[str, NDArray[np.int64]], cycle: Sequence[FieldWindow], policy: DriftPolicy
) -> _Cycle:
    """Test everything of one cycle and correct for the number of tests."""
    by_device: dict[str, list[FieldWindow]] = {}
    for item in cycle:
        by_device.setdefault(item.device, []).append(item)
    tables = {device: count_windows(references, items) for device, items in by_device.items()}
    found: list[DriftVerdict] = []
    for quantity, reference in references.items():
        found += _of_quantity(
            quantity, reference, {d: table[quantity] for d, table in tables.items()}, policy
        )
    rejected = benjamini_hochberg([item.p_value for item in found], policy.alpha)
    return {
        (item.quantity, item.device): replace(item, rejected=bool(hit))
        for item, hit in zip(found, rejected, strict=True)
    }


def _of_quantity(
    quantity: str,
    reference: NDArray[np.int64],
    tables: Mapping[str, NDArray[np.int64]],
    policy: DriftPolicy,
) -> list[DriftVerdict]:
    """Test one quantity of every device and of the fleet; tables are (windows, cells)."""
    compared = {d: compare(reference, table) for d, table in tables.items() if table.sum()}
    found = [
        _verdict(quantity, device, result)
        for device, result in compared.items()
        if result.row_count >= policy.min_rows
    ]
    if len(compared) > 1:
        ordinary = set(compared) - _outliers(compared)
        rest = compare(reference, np.concatenate([tables[device] for device in sorted(ordinary)]))
        if rest.row_count >= policy.min_rows:
            found.insert(0, _verdict(quantity, None, rest))
    return found


def _outliers(compared: Mapping[str, Comparison]) -> set[str]:
    """Return devices that deviate by themselves, at most half of them, the largest effects first.

    Devices that do not deviate visibly stay: a change too small for each of them may be plain in
    their sum.
    """
    suspects = [device for device, result in compared.items() if result.p_value <= OUTLIER_LEVEL]
    suspects.sort(key=lambda device: compared[device].effect, reverse=True)
    return set(suspects[: len(compared) // 2])


def _verdict(quantity: str, device: str | None, result: Comparison) -> DriftVerdict:
    return DriftVerdict(
        quantity=quantity,
        device=device,
        row_count=result.row_count,
        effective_count=result.effective_count,
        statistic=result.statistic,
        p_value=result.p_value,
        effect=result.effect,
    )


def benjamini_hochberg(p_values: Sequence[float], alpha: float) -> NDArray[np.bool_]:
    """Say which hypotheses are rejected at false discovery rate `alpha`.

    Example:
        >>> benjamini_hochberg([0.01, 0.04, 0.03, 0.9], 0.05).tolist()
        [True, False, False, False]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return np.zeros(0, dtype=np.bool_)
    ordered = np.sort(p)
    below = ordered <= alpha * np.arange(1, p.size + 1) / p.size
    threshold = ordered[below].max(initial=-1.0)
    rejected: NDArray[np.bool_] = p <= threshold
    return rejected


def explained(found: Sequence[DriftVerdict]) -> str:
    """Say in one sentence what has changed: the world, single devices, or nothing.

    A device's own verdict on a quantity that has drifted for the fleet is no news.
    """
    drifted = [item for item in found if item.drifted]
    world = sorted({item.quantity for item in drifted if item.device is None})
    single: dict[str, list[str]] = {}
    for item in drifted:
        if item.device is not None and item.quantity not in world:
            single.setdefault(item.device, []).append(item.quantity)
    parts = []
    if world:
        parts.append(f"the whole fleet sees another {', '.join(world)}")
    if single:
        devices = "; ".join(f"{name} ({', '.join(what)})" for name, what in sorted(single.items()))
        parts.append(f"single devices deviate: {devices}")
    return " and ".join(parts) or "no drift"
