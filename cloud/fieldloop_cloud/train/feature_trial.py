"""A trial of a classical head on a frozen backbone's features: checked, then fitted in seconds."""

import dataclasses

import numpy as np

from fieldloop.errors import DataError, UnsupportedError
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.quantize import NET_LADDER, RESCUES
from fieldloop_cloud.select.candidates import Candidate, Settings
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.ladder import Trained, rungs
from fieldloop_cloud.train.meaning import named
from fieldloop_cloud.train.net_trial import check_fit, planned, told_backbone
from fieldloop_cloud.train.transfer.feature_head import train_on_features
from fieldloop_cloud.train.transfer.plan import TransferPlan

FEATURE_LADDER: tuple[Precision, ...] = tuple(p for p in NET_LADDER if p not in RESCUES)
"""Precisions of the backbone; the head computes in float."""


def trained_head(candidate: Candidate, settings: Settings, bench: Bench) -> Trained:
    """Fit a head on the features of the bench's rows.

    Raises:
        FieldloopError: It cannot fit the device, the device computes in integers only, the
            backbone cannot be used, or a class has no row.
    """
    plan = planned(candidate, settings, bench)
    assert isinstance(plan, TransferPlan)
    _check(bench)
    check_fit(plan, bench.target)
    model = train_on_features(
        plan,
        bench.train,
        probes=np.asarray(bench.validation.X),
        head=settings["head"],
        precisions=rungs(FEATURE_LADDER, bench.target),
        seed=bench.seed,
        budget_s=bench.left_s,
        progress=bench.progress,
    )
    return Trained(
        name=candidate.name,
        compile_to=lambda precision: named(model.compile_to(precision), bench.train),
        parameters=model.parameters | told_backbone(candidate, bench),
        train_s=model.train_s,
        model=model.head,
        calibration=np.asarray(bench.calibration().X),
        features=dataclasses.replace(
            bench.train, X=model.features, kind="tabular", image=None, features=()
        ),
    )


def _check(bench: Bench) -> None:
    if bench.target.integers_only:
        raise UnsupportedError(
            "a classical head on a backbone computes in float",
            where=bench.target.name,
            advice="Fine-tune instead: the candidate transfer is quantized as a whole.",
        )
    counts = bench.train.class_counts
    unseen = [str(n) for n, c in zip(bench.train.labels, counts, strict=True) if not c]
    if unseen:
        raise DataError(
            f"no training row has the class {', '.join(unseen)}",
            where=bench.train.name,
            advice="Bring rows of it, or leave it out of the labels.",
        )
