"""What a candidate is: a small frozen description, preprocessing included.

It says for which data it is meant, what may be varied, what it will at least cost, and how its
estimator is built; it holds no data and trains nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fieldloop_cloud.compile.conversion import INSTALL_DEEP, missing_packages
from fieldloop_cloud.data.dataset import Dataset, DataTask, Kind
from fieldloop_cloud.select.candidates.space import Settings, Space
from fieldloop_cloud.train.nets.plans import NetPlan
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.transfer.backbone import Backbone
from fieldloop_cloud.train.transfer.plan import TransferPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One kind of model.

    Attributes:
        name: As in reports and options.
        tasks: What it can predict.
        portfolio: Settings that are tried first, in order; each is a point of `space`.
        space: What a search varies.
        growth: Exponent of training time in the number of rows, for the time estimate.
        build: Makes an unfitted scikit-learn estimator from (data, settings, seed); None for nets.
        plan: Plans a net of Keras from (data, settings, the device's bytes); None for others.
        transfer: Plans a net on a backbone from (data, settings, backbone); None for others.
        net_settings: How the net is trained; None where no net is.
        kinds: What data it takes.
        shrink: Returns settings of a model with about this share of the bytes, None if there is
            no smaller one; None for models that have no size to choose.
        least_values: How many constants the flatbuffer holds at least, from (data, settings),
            known before anything is trained; None where only training tells.
        is_costly: Whether one fit takes so long that cross-validation gives up on it after a
            first fold that is clearly worse than the best so far.
    """

    name: str
    tasks: tuple[DataTask, ...]
    portfolio: tuple[Settings, ...]
    space: Space = field(default_factory=dict)
    growth: float = 1.0
    build: Callable[[Dataset, Settings, int], Any] | None = None
    plan: Callable[[Dataset, Settings, int], NetPlan] | None = None
    transfer: Callable[[Dataset, Settings, Backbone], TransferPlan] | None = None
    net_settings: Callable[[Settings], NetSettings] | None = None
    kinds: tuple[Kind, ...] = ("tabular", "image")
    shrink: Callable[[Settings, float], Settings | None] | None = None
    least_values: Callable[[Dataset, Settings], int] | None = None
    is_costly: bool = False

    @property
    def is_deep(self) -> bool:
        """Whether a net of Keras is in it, which needs the extra `[deep]`."""
        return self.plan is not None or self.transfer is not None

    def why_not(self, dataset: Dataset, backbone: Backbone | None = None) -> str:
        """Return why it cannot be used on this data here; empty if it can."""
        if dataset.task not in self.tasks:
            return f"it does not do {dataset.task}"
        if dataset.kind not in self.kinds:
            return f"it does not take {dataset.kind} data, only {' or '.join(self.kinds)}"
        if self.transfer is not None and backbone is None:
            return "it starts from a backbone, and none is named"
        if not self.is_deep:
            return ""
        missing = missing_packages()
        return f"{missing}: {INSTALL_DEEP}" if missing else ""


BOTH: tuple[DataTask, ...] = ("classification", "regression")


def width(dataset: Dataset) -> int:
    """Return how many columns the estimator sees: categories count one each."""
    if not dataset.features:
        return int(dataset.flat.shape[1])
    return sum(max(1, len(spec.categories)) for spec in dataset.features)


def outputs(dataset: Dataset) -> int:
    """Return how many scores a model has to give for a row."""
    return len(dataset.labels) if len(dataset.labels) > 2 else 1  # noqa: PLR2004 - two share one
