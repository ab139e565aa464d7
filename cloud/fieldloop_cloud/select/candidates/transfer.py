"""Transfer: nets that start from a backbone which somebody names, for images.

Two ways: the backbone is fine-tuned under a new head, or stays as it is under a classical one,
which is stronger where labels are few. What a backbone decides itself (which net it is, how far
it goes) a search cannot: a net is drawn only for ImageNet's weights, and a cut only before the end.
"""

import re
from typing import Any

from fieldloop.errors import DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.candidates.candidate import BOTH, Candidate
from fieldloop_cloud.select.candidates.space import Among, Real, Settings, Space, Whole
from fieldloop_cloud.train.nets.settings import NetSettings
from fieldloop_cloud.train.transfer.backbone import Backbone
from fieldloop_cloud.train.transfer.plan import ALL, NOTHING, TransferPlan, plan_transfer

_OWN = "own"
"""As the backbone has it itself."""

_STAGE = re.compile(r"stage\d")
_NETS = (
    "MobileNetV2 0.35",
    "MobileNetV2 0.5",
    "MobileNetV2 1",
    "MobileNetV3Small 1",
    "EfficientNetB0 1",
)


def _backbone(settings: Settings, backbone: Backbone) -> dict[str, Any]:
    """Return the plan's fields that the two ways share."""
    member, alpha = backbone.member, backbone.alpha
    if member is None:
        member, _, width = settings["architecture"].partition(" ")
        alpha = float(width)
    options = {
        "weights": backbone.weights,
        "member": member,
        "alpha": alpha,
        "cut": _cut(settings["cut"], backbone),
    }
    return options if settings["pooling"] == _OWN else {**options, "pooling": settings["pooling"]}


def _cut(drawn: str, backbone: Backbone) -> str:
    """Return the cut; a file that ends within a net fits no other one."""
    if backbone.files and backbone.cut and not backbone.says_itself:
        return backbone.cut
    return _not_behind(drawn, backbone.cut)


def _not_behind(stage: str, end: str) -> str:
    """Return a stage, or the end where it does not lie before it; `own` is the end."""
    if not _STAGE.fullmatch(stage) or (end and not _STAGE.fullmatch(end)):
        return end
    return min(stage, end) if end else stage


def _planned(dataset: Dataset, **options: Any) -> TransferPlan:
    if dataset.image is None:
        raise DataError(
            "a backbone takes images",
            where=dataset.name,
            advice="Leave weights out: they are for images.",
        )
    return plan_transfer(dataset.image, len(dataset.labels), **options)


def _fine_tuned(dataset: Dataset, settings: Settings, backbone: Backbone) -> TransferPlan:
    options = _backbone(settings, backbone)
    first = settings["fine_tune"]
    if _STAGE.fullmatch(first):
        end = options["cut"]
        first = _not_behind(first, end) if not end or _STAGE.fullmatch(end) else ALL
    names = ("dense", "dropout", "fine_tune_rate", "stage_decay")
    own = {name: settings[name] for name in names}
    return _planned(dataset, **options, **own, fine_tune=first)


def _tuned(settings: Settings) -> NetSettings:
    names = ("optimizer", "learning_rate", "batch_size", "epochs")
    return NetSettings(**{name: settings[name] for name in names})


def _frozen(dataset: Dataset, settings: Settings, backbone: Backbone) -> TransferPlan:
    return _planned(dataset, **_backbone(settings, backbone))


_USUAL: Settings = {"architecture": _NETS[0], "cut": _OWN, "pooling": _OWN}
_BACKBONES: Space = {
    "architecture": Among(_NETS),
    "cut": Among((_OWN, "stage4", "stage3", "stage2")),
    "pooling": Among((_OWN, "average", "max", "flatten")),
}
FEATURES = Candidate(
    name="transfer-features",
    tasks=("classification",),
    kinds=("image",),
    portfolio=({**_USUAL, "head": "logistic"},),
    space={**_BACKBONES, "head": Among(("logistic", "linear_svm", "svm"))},
    transfer=_frozen,
    is_costly=True,
)
FINE_TUNED = Candidate(
    name="transfer",
    tasks=BOTH,
    kinds=("image",),
    portfolio=(
        {
            **_USUAL,
            "dense": 0,
            "dropout": 0.2,
            "fine_tune": ALL,
            "fine_tune_rate": 0.1,
            "stage_decay": 0.5,
            "optimizer": "adam",
            "learning_rate": 3e-3,
            "batch_size": 16,
            "epochs": 30,
        },
    ),
    space={
        **_BACKBONES,
        "dense": Among((0, 32, 64, 128)),
        "dropout": Real(0.0, 0.5, log=False),
        "fine_tune": Among((ALL, "stage4", "stage3", NOTHING)),
        "fine_tune_rate": Real(0.01, 1.0),
        "stage_decay": Real(0.2, 1.0, log=False),
        "optimizer": Among(("adam", "adamw", "rmsprop", "sgd")),
        "learning_rate": Real(2e-4, 2e-2),
        "batch_size": Among((8, 16, 32, 64)),
        "epochs": Whole(5, 60, log=True),
    },
    transfer=_fine_tuned,
    net_settings=_tuned,
    is_costly=True,
)
