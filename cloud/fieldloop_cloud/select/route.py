"""The route: classical, deep or transfer, which metric and which objective, and why."""

from typing import Literal

import msgspec
import numpy as np

from fieldloop_cloud.compile.conversion import INSTALL_DEEP
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.select.machine import Machine
from fieldloop_cloud.select.probes import Probe

RouteName = Literal["classical", "deep", "transfer"]

IMBALANCED_SHARE = 0.8
"""Above this share of one class, accuracy says too little and balanced accuracy decides."""

SMALL_IMAGE_VALUES = 400
"""Up to about 20 x 20 grey pixels a classical model sees as much as a net."""

FEW_IMAGES = 300
"""Fewer a class than this do not teach a net of its own what edges and textures are."""

FEW_WINDOWS = 1000
SHORT_BUDGET_S = 120.0
WEIGHTS = "--weights backbones/NAME"
"""What transfer needs to be told."""

_GOOD_ENOUGH = 0.98
_HEAVY_TAIL = 10.0


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Which kind of model.

    Attributes:
        name: `classical`, `deep` or `transfer`.
        reasons: Why, one sentence each.
    """

    name: RouteName
    reasons: tuple[str, ...]


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """What to choose by, and what to train for.

    Attributes:
        metric: scikit-learn's name.
        objective: What training makes small.
        reasons: Why, one sentence each.
    """

    metric: str
    objective: str
    reasons: tuple[str, ...]


def route(data: Dataset, probes: tuple[Probe, ...], machine: Machine, *, budget_s: float) -> Route:
    """Decide between classical, deep and transfer.

    Args:
        data: Rows that may be learnt from.
        probes: What cheap models reach.
        machine: Where it would be trained.
        budget_s: Time allowed.
    """
    if data.kind == "tabular":
        return Route(name="classical", reasons=(_tabular(data), *_shape(probes)))
    wanted = _image(data, probes) if data.kind == "image" else _series(data)
    if wanted.name == "classical":
        return wanted
    if not machine.has_deep:
        return Route(
            name="classical",
            reasons=(
                *wanted.reasons,
                (
                    f"But this machine cannot train nets ({machine.deep_missing}): {INSTALL_DEEP}. "
                    "Until then a classical model is the best there is."
                ),
            ),
        )
    if budget_s < SHORT_BUDGET_S and not machine.gpu:
        return Route(
            name="classical",
            reasons=(
                *wanted.reasons,
                (
                    f"But {budget_s:.0f} s without a GPU are too short for a net: allow "
                    f"{SHORT_BUDGET_S:.0f} s or more."
                ),
            ),
        )
    return wanted


def aim(data: Dataset) -> Aim:
    """Decide on the metric and the training objective."""
    if data.task == "regression":
        return _regression_aim(data)
    share = max(data.class_counts) / len(data)
    if share > IMBALANCED_SHARE:
        return Aim(
            metric="balanced_accuracy",
            objective="cross-entropy with class weights",
            reasons=(
                (
                    f"One class has {share:.0%} of the rows, so always guessing it would be called "
                    f"{share:.0%} accurate. Balanced accuracy counts every class alike."
                ),
                "With class weights the rare classes are not given up for the common one.",
            ),
        )
    return Aim(
        metric="accuracy",
        objective="cross-entropy",
        reasons=(
            (
                f"The commonest of {len(data.labels)} classes has {share:.0%} of the rows: "
                "accuracy says what a user of the device sees."
            ),
            "Cross-entropy gives confidences that mean something, which drift detection needs.",
        ),
    )


def _regression_aim(data: Dataset) -> Aim:
    centred = data.y.astype(np.float64) - float(data.y.mean())
    variance = float((centred**2).mean())
    tail = float((centred**4).mean()) / variance**2 if variance else 0.0
    if tail > _HEAVY_TAIL:
        return Aim(
            metric="r2",
            objective="absolute error (or Huber's)",
            reasons=(
                (
                    f"A few targets are far from the others (kurtosis {tail:.0f}, 3 is usual): "
                    "squared errors would let them rule."
                ),
                "Look at the mean absolute error next to R², which they rule as well.",
            ),
        )
    return Aim(
        metric="r2",
        objective="squared error",
        reasons=("R² is the share of the target's variance that is explained; 0 is guessing.",),
    )


def _tabular(data: Dataset) -> str:
    return (
        f"{len(data)} rows of {data.flat.shape[1]} named features are a table: trees, kernels and "
        "linear models are as good as nets there (Grinsztajn et al., NeurIPS 2022), train in "
        "seconds and compile to kilobytes."
    )


def _shape(probes: tuple[Probe, ...]) -> tuple[str, ...]:
    """Say how the classes lie, from what a line and the others reach."""
    scores = {item.name: item for item in probes}
    line = scores.get("line")
    bent = [scores[name] for name in ("neighbours", "forest") if name in scores]
    if line is None or not bent:
        return ()
    best = max(bent, key=lambda item: item.score)
    gap = best.score - line.score
    if gap > 2 * max(best.standard_error, line.standard_error):
        return (
            (
                f"The answer bends: a {'forest' if best.name == 'forest' else 'neighbour search'} "
                f"reaches {best.score:.3f} where a straight line reaches {line.score:.3f}. "
                "Trees and kernels are worth their bytes."
            ),
        )
    return (
        (
            f"A straight line does as well as anything cheap ({line.score:.3f}): a linear model "
            "of a few kilobytes may be all that is needed."
        ),
    )


def _image(data: Dataset, probes: tuple[Probe, ...]) -> Route:
    best = max((item.score for item in probes), default=0.0)
    values = data.flat.shape[1]
    height, width = data.X.shape[1:3]
    fewest = min((count for count in data.class_counts if count), default=len(data))
    if values <= SMALL_IMAGE_VALUES or best > _GOOD_ENOUGH:
        why = (
            f"Images of {height} x {width} have few enough pixels for a classical model"
            if values <= SMALL_IMAGE_VALUES
            else "The pixels alone tell nearly everything"
        )
        return Route(
            name="classical",
            reasons=(
                (
                    f"{why}: the best probe reaches {best:.3f}. A small net is compared all the "
                    "same where nets can be trained."
                ),
                *_shape(probes),
            ),
        )
    if fewest < FEW_IMAGES:
        return Route(
            name="transfer",
            reasons=(
                (
                    f"The smallest class has {fewest} images, too few to teach a net from nothing: "
                    "start from one that already knows edges and textures."
                ),
                (
                    f"Name it: `fieldloop train … {WEIGHTS}`, from `fieldloop pretrain -o "
                    "backbones/NAME` with the most and most varied images you have, or `--weights "
                    "imagenet`, which is downloaded."
                ),
            ),
        )
    return Route(
        name="deep",
        reasons=(
            (
                f"{len(data)} images, at least {fewest} a class, of {height} x {width}: "
                f"neighbourhoods of pixels matter, which the probes cannot see (best {best:.3f})."
            ),
        ),
    )


def _series(data: Dataset) -> Route:
    steps = data.X.shape[1]
    if len(data) < FEW_WINDOWS:
        return Route(
            name="classical",
            reasons=(
                (
                    f"{len(data)} windows are few for a net that reads {steps} steps: classical "
                    "models on the window's values do as well and are cheaper."
                ),
            ),
        )
    return Route(
        name="deep",
        reasons=(
            (
                f"{len(data)} windows of {steps} steps: where in a window something happens should "
                "not matter, which a convolution over time learns."
            ),
        ),
    )
