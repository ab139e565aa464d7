"""fieldloop on the workstation: from data to a model in the field, and back.

    import fieldloop_cloud as fl

    data = fl.Dataset.load("readings.csv", target="fault")
    fl.advise(data).route.reasons
    run = fl.train(data, device="pi4", out="runs/fault")
    compiled = fl.to_tflite(model, example=X)
    file = fl.bundle(run, name="fault", home="fleet")
    file = fl.bundle(compiled, name="own", home="fleet", device_classes=["pi4"], reference=X)

Nothing heavy is imported before one of these names is used.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fieldloop_cloud.compile.api import to_tflite
    from fieldloop_cloud.compile.explain import explain
    from fieldloop_cloud.compile.lowering import lowers, supported
    from fieldloop_cloud.data.dataset import Dataset
    from fieldloop_cloud.release.builder import bundle
    from fieldloop_cloud.release.microcontroller import export_c
    from fieldloop_cloud.select.advice import advise
    from fieldloop_cloud.train.distill.distill import distill
    from fieldloop_cloud.train.lite_building import build_lite
    from fieldloop_cloud.train.nets import (
        Augmentation,
        NetSettings,
        estimate,
        plan_net,
        train_net,
    )
    from fieldloop_cloud.train.prune.prune import prune, prune_magnitude
    from fieldloop_cloud.train.qat_training import train_aware
    from fieldloop_cloud.train.run import Run
    from fieldloop_cloud.train.trainer import train
    from fieldloop_cloud.train.transfer.backbone import Backbone

__version__ = "0.1.0"

__all__ = [
    "Augmentation",
    "Backbone",
    "Dataset",
    "NetSettings",
    "Run",
    "__version__",
    "advise",
    "build_lite",
    "bundle",
    "distill",
    "estimate",
    "explain",
    "export_c",
    "lowers",
    "plan_net",
    "prune",
    "prune_magnitude",
    "supported",
    "to_tflite",
    "train",
    "train_aware",
    "train_net",
]

_HOMES = {
    "Augmentation": "fieldloop_cloud.train.nets",
    "Backbone": "fieldloop_cloud.train.transfer.backbone",
    "Dataset": "fieldloop_cloud.data.dataset",
    "NetSettings": "fieldloop_cloud.train.nets",
    "Run": "fieldloop_cloud.train.run",
    "advise": "fieldloop_cloud.select.advice",
    "build_lite": "fieldloop_cloud.train.lite_building",
    "bundle": "fieldloop_cloud.release.builder",
    "distill": "fieldloop_cloud.train.distill.distill",
    "estimate": "fieldloop_cloud.train.nets",
    "explain": "fieldloop_cloud.compile.explain",
    "export_c": "fieldloop_cloud.release.microcontroller",
    "lowers": "fieldloop_cloud.compile.lowering",
    "plan_net": "fieldloop_cloud.train.nets",
    "prune": "fieldloop_cloud.train.prune.prune",
    "prune_magnitude": "fieldloop_cloud.train.prune.prune",
    "supported": "fieldloop_cloud.compile.lowering",
    "to_tflite": "fieldloop_cloud.compile.api",
    "train": "fieldloop_cloud.train.trainer",
    "train_aware": "fieldloop_cloud.train.qat_training",
    "train_net": "fieldloop_cloud.train.nets",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        message = f"module 'fieldloop_cloud' has no attribute '{name}'"
        raise AttributeError(message)
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `fl.train` the function: importing the sub-package of that name would replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
