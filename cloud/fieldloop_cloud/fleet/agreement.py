"""How challengers in the shadow agree with the models that run: the devices' counts, added up."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fieldloop.errors import DataError
from fieldloop.histogram import unpack_counts
from fieldloop.telemetry import LATENCY_EDGES_MS, ShadowCounts
from fieldloop_cloud.fleet.counts import FieldWindow
from fieldloop_cloud.train.intervals import wilson

_HIGH = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One pair of models on the same field inputs, from all devices.

    Agreement is no accuracy: it says where the two differ, labels say which of them is right.

    Attributes:
        champion: First 16 hex digits of the running bundle's SHA-256.
        challenger: The same of the one in its shadow.
        device_count: Devices that compared.
        row_count: Inputs that both answered.
        share: How often the labels were the same; None for a model of values.
        low: Lower end of the 95 % interval (Wilson); inputs that resemble each other make it too
            narrow.
        high: Its upper end.
        agreed_counts: Same answers by the champion's class, in the order of its signature.
        differed_counts: Other answers.
        mean_differences: Mean absolute difference of each target with a value, in its unit.
        latency_p90_ms: Upper edge of the cell with the challenger's 90th percentile, at the lowest
            priority; None beyond the histogram or without answers.
        error_counts: Inputs that the challenger did not answer.
    """

    champion: str
    challenger: str
    device_count: int
    row_count: int
    share: float | None
    low: float | None
    high: float | None
    agreed_counts: tuple[int, ...]
    differed_counts: tuple[int, ...]
    mean_differences: tuple[float, ...]
    latency_p90_ms: float | None
    error_counts: dict[str, int]

    @property
    def sentence(self) -> str:
        """It for people."""
        parts = []
        if self.share is not None:
            assert self.low is not None
            assert self.high is not None
            parts.append(f"the same label for {self.share:.1%} [{self.low:.1%}, {self.high:.1%}]")
        parts += [f"a mean difference of {value:.4g}" for value in self.mean_differences]
        failed = sum(self.error_counts.values())
        return (
            f"{self.challenger} in the shadow of {self.champion}: "
            f"{' and '.join(parts) or 'nothing'} of {self.row_count} inputs on "
            f"{self.device_count} devices" + (f", {failed} not answered" if failed else "")
        )


def agreements(windows: Iterable[FieldWindow]) -> list[Agreement]:
    """Add up what windows say about challengers, by pair of models.

    Raises:
        DataError: Two windows of one pair count different classes or values.
    """
    pairs: dict[tuple[str, str], list[FieldWindow]] = {}
    for item in windows:
        if item.window.shadow is not None:
            pairs.setdefault((item.window.model, item.window.shadow.model), []).append(item)
    return [_agreement(*pair, items) for pair, items in sorted(pairs.items())]


def _agreement(champion: str, challenger: str, items: list[FieldWindow]) -> Agreement:
    shadows = [item.window.shadow for item in items if item.window.shadow is not None]
    agreed = _sum([item.agreed_counts for item in shadows if item.row_count])
    differed = _sum([item.differed_counts for item in shadows if item.row_count])
    same, compared = int(agreed.sum()), int(agreed.sum() + differed.sum())
    low, high = wilson(same, compared) if compared else (None, None)
    errors: Counter[str] = Counter()
    for item in shadows:
        errors.update(item.error_counts)
    return Agreement(
        champion=champion,
        challenger=challenger,
        device_count=len({item.device for item in items}),
        row_count=sum(item.row_count for item in shadows),
        share=same / compared if compared else None,
        low=low,
        high=high,
        agreed_counts=tuple(agreed.astype(int).tolist()),
        differed_counts=tuple(differed.astype(int).tolist()),
        mean_differences=_means(shadows),
        latency_p90_ms=_p90(shadows),
        error_counts=dict(errors),
    )


def _sum(
    rows: list[tuple[int, ...]] | list[tuple[float, ...]],
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    if len({len(row) for row in rows}) > 1:
        raise DataError(
            "windows of one pair of models count different things",
            advice="Look for a device that speaks for another: its counts do not fit its model.",
        )
    return np.asarray(rows, dtype=np.float64).sum(axis=0) if rows else np.zeros(0)


def _means(shadows: list[ShadowCounts]) -> tuple[float, ...]:
    answered = [item for item in shadows if item.row_count]
    counts = _sum([tuple(map(_total, item.difference_counts)) for item in answered])
    sums = _sum([item.difference_sums for item in answered])
    return tuple((sums / np.maximum(counts, 1)).tolist())


def _total(packed: tuple[int, ...]) -> int:
    return sum(item for item in packed if item > 0)


def _p90(shadows: list[ShadowCounts]) -> float | None:
    cells = len(LATENCY_EDGES_MS) + 1
    counts = _sum(
        [
            tuple(unpack_counts(item.latency_counts, cell_count=cells))
            for item in shadows
            if item.latency_counts
        ]
    )
    if not counts.sum():
        return None
    cell = int(np.searchsorted(np.cumsum(counts), _HIGH * counts.sum()))
    return LATENCY_EDGES_MS[cell] if cell < len(LATENCY_EDGES_MS) else None
