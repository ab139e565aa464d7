"""What a bundle is made of, wherever the model comes from.

A run (`contents_of_run`) and a model of one's own (`own_model`) both become `Contents`; `builder`
packs those and nothing else.
"""

from dataclasses import dataclass

from fieldloop.manifest import GoldenSet, Lineage, Precision
from fieldloop.profile import ReferenceProfile
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.train.run import Run


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shipped:
    """One compiled form of the model.

    Attributes:
        compiled: Flatbuffer and signature.
        golden: What it must answer on a device.
        score: In the lineage's metric; None if not measured.
        latency_p50_ms: One row on the workstation; None if not measured.
        latency_p90_ms: The same, 90th percentile.
    """

    compiled: Compiled
    golden: GoldenSet
    score: float | None = None
    latency_p50_ms: float | None = None
    latency_p90_ms: float | None = None

    @property
    def precision(self) -> Precision:
        """How it was quantized."""
        return self.compiled.precision


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contents:
    """The parts of a bundle before it is named, numbered and signed.

    Attributes:
        variants: Compiled forms, the preferred one first.
        profile: What the field is compared with.
        lineage: Where the model comes from.
        device_classes: Targets to build for unless others are named; empty if none is known.
    """

    variants: tuple[Shipped, ...]
    profile: ReferenceProfile
    lineage: Lineage
    device_classes: tuple[str, ...] = ()


def contents_of_run(run: Run) -> Contents:
    """Take from a run what may ship: the chosen variant and those of its candidate that passed."""
    golden = {item.precision: item for item in run.golden}
    return Contents(
        variants=tuple(
            Shipped(
                compiled=item.compiled,
                golden=golden[item.precision],
                score=run.score(item.precision),
                latency_p50_ms=item.latency_p50_ms,
                latency_p90_ms=item.latency_p90_ms,
            )
            for item in run.chosen_variants
        ),
        profile=run.profile,
        lineage=run.lineage,
        device_classes=(run.device,),
    )
