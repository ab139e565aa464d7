"""A trial of a net: planned to the device, checked before training, trained in its own process."""

import numpy as np

from fieldloop_cloud.compile.quantize import NET_LADDER
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.select.candidates import Candidate, Settings
from fieldloop_cloud.train.bench import Bench
from fieldloop_cloud.train.ladder import Trained, rungs
from fieldloop_cloud.train.meaning import named
from fieldloop_cloud.train.nets import (
    Cnn1dPlan,
    CnnPlan,
    GruPlan,
    MlpPlan,
    NetPlan,
    TrainedNet,
    estimate,
    train_net,
)
from fieldloop_cloud.train.qat_training import train_aware
from fieldloop_cloud.train.transfer.backbone import no_backbone

NET_MIN_S = 20.0
"""TensorFlow's start and a conversion take this long before anything is learned."""

_ROOMY_SHARE = 0.25
"""A net whose weights take less of the device's memory needs no measuring before it is trained."""

_COUNTED = (CnnPlan, MlpPlan, Cnn1dPlan, GruPlan)
"""Plans that know their parameters by arithmetic."""


def trained_net(candidate: Candidate, settings: Settings, bench: Bench) -> Trained:
    """Train a net on the bench's rows.

    Raises:
        FieldloopError: It cannot fit the device, cannot be trained in time, or is no better than
            the dummy model.
    """
    assert candidate.net_settings is not None
    plan = planned(candidate, settings, bench)
    check_fit(plan, bench.target)
    calibration = np.asarray(bench.calibration().X)
    net = train_net(
        plan,
        bench.train,
        settings=candidate.net_settings(settings),
        validation=bench.validation,
        metric=bench.metric,
        precisions=rungs(NET_LADDER, bench.target),
        calibration=calibration,
        seed=bench.seed,
        budget_s=bench.left_s,
        progress=bench.progress,
    )

    return Trained(
        name=candidate.name,
        compile_to=lambda precision: named(net.compile_to(precision), bench.train),
        parameters=net.parameters | told_backbone(candidate, bench),
        train_s=net.train_s,
        model=net.keras_bytes,
        calibration=calibration,
        aware=lambda: _trained_aware(net, bench),
        history=net.history,
    )


def _trained_aware(net: TrainedNet, bench: Bench) -> bytes:
    """Fine-tune under int8's rounding, where rounding afterwards cost too much."""
    return train_aware(
        net.keras_bytes,
        np.asarray(bench.train.X, dtype=np.float32),
        bench.train.y,
        classes=len(bench.train.labels),
        net=net.settings,
        budget_s=max(1.0, bench.left_s),
        progress=bench.progress,
    ).tflite


def planned(candidate: Candidate, settings: Settings, bench: Bench) -> NetPlan:
    """Plan a candidate's net for the bench's rows, its device and its backbone.

    Raises:
        ConfigError: There is no such net, or no backbone.
    """
    if candidate.transfer is None:
        assert candidate.plan is not None
        return candidate.plan(bench.train, settings, bench.target.max_model_bytes)
    if bench.backbone is None:
        raise no_backbone(candidate.name)
    return candidate.transfer(bench.train, settings, bench.backbone)


def told_backbone(candidate: Candidate, bench: Bench) -> dict[str, str]:
    """Return what a model's parameters say of its backbone; empty for a net without one."""
    if candidate.transfer is None or bench.backbone is None:
        return {}
    return bench.backbone.parameters


def check_fit(plan: NetPlan, target: Target) -> None:
    """Measure the untrained net where it may be too large; an export takes some seconds.

    Raises:
        GateError: It cannot fit; says by how much.
    """
    room = _ROOMY_SHARE * min(target.max_model_bytes, target.ram_bytes)
    if not isinstance(plan, _COUNTED) or plan.parameter_count > room:
        estimate(plan).check(target)
