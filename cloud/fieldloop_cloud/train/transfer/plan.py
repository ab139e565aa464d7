"""What a transfer net is to be: backbone, cut, head, and where the backbone's weights come from.

The plan is plain data and is checked without Keras, before a process is started.
"""

from pathlib import Path
from typing import Literal, Self

import msgspec

from fieldloop.errors import ConfigError, DataError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.train.transfer.families import Family, family_of

IMAGENET = "imagenet"
ALL = "all"
NOTHING = "nothing"


BACKBONE_FILE = "backbone.keras"
BACKBONE_FACTS = "backbone.json"
"""What the directory of a backbone of one's own holds."""

Pooling = Literal["average", "max", "flatten"]


class BackboneFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a backbone of one's own is: `backbone.json`.

    Attributes:
        member: As in `TransferPlan`.
        alpha: As in `TransferPlan`.
        minimalistic: As in `TransferPlan`.
        side: Height that it saw in training.
        cut: As in `TransferPlan`.
        pooling: As in `TransferPlan`.
        source: Name of the source task's data set.
        source_sha256: Hash of its content.
        accuracy: On held-out rows of the source task.
    """

    member: str
    alpha: float
    minimalistic: bool
    side: int
    cut: str
    pooling: Pooling
    source: str
    source_sha256: str
    accuracy: float


class TransferPlan(msgspec.Struct, frozen=True, kw_only=True, tag="transfer"):
    """A backbone from Keras Applications and a new head.

    Attributes:
        height: Input height, as the data have it.
        width: Input width.
        channels: 1 (grey, repeated in the graph) or 3.
        black: The encoded value of black.
        white: The encoded value of white.
        classes: Number of classes; 0 for a regression.
        member: The backbone's name in `keras.applications`.
        alpha: Width of a MobileNet; 1.0 for all others.
        minimalistic: MobileNetV3 without squeeze-excite and hard-swish, which int8 likes better.
        side: Height and width that the backbone sees; the graph resizes to it. 0: no resize.
        cut: Where the backbone ends: "" (at its end), a stage (`stage3`) or a layer's name.
        pooling: How the last feature map becomes a row.
        dropout: Share of the features that is dropped in training.
        dense: Units of a hidden layer in the head; 0 for none.
        weights: `imagenet`, a file (`.keras`, `.weights.h5`, ImageNet's `.h5`), a SavedModel's
            directory, the directory of `fieldloop pretrain`, or None to train from scratch.
        fine_tune: The first stage whose layers are trained in the second phase (`stage3`), `all`,
            or `nothing`.
        fine_tune_rate: Learning rate of the second phase, as a share of the first one's.
        stage_decay: Factor by which each earlier stage learns more slowly than the one behind it.
    """

    height: int
    width: int
    channels: Literal[1, 3]
    black: float = 0.0
    white: float = 1.0
    classes: int
    member: str = "MobileNetV2"
    alpha: float = 1.0
    minimalistic: bool = False
    side: int = 0
    cut: str = ""
    pooling: Pooling = "average"
    dropout: float = 0.2
    dense: int = 0
    weights: str | None = IMAGENET
    fine_tune: str = ALL
    fine_tune_rate: float = 0.1
    stage_decay: float = 0.5

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One row's shape."""
        return (self.height, self.width, self.channels)

    @property
    def family(self) -> Family:
        """The backbone's family."""
        return family_of(self.member)

    @property
    def seen_shape(self) -> tuple[int, int, int]:
        """Height, width and channels that the backbone sees."""
        if self.side:
            return self.side, self.side, 3
        return self.height, self.width, 3

    def drawn(self) -> Self:
        """Return the plan with weights as drawn: for measuring what it costs."""
        return msgspec.structs.replace(self, weights=None)

    def checked(self) -> Self:
        """Return self after checking what can be checked without Keras.

        Raises:
            ConfigError: An unknown member, a width it does not have, an input below its smallest,
                a file that is not there, or a share outside its range.
        """
        family = self.family
        _check_width(self, family)
        low = min(self.seen_shape[:2])
        if low < family.min_side:
            raise ConfigError(
                f"{self.member} needs images of {family.min_side} x {family.min_side} or more",
                where=f"{self.seen_shape[0]} x {self.seen_shape[1]}",
                advice=f"Set side={family.min_side}: the graph resizes then.",
            )
        if self.white == self.black:
            raise ConfigError("black and white are the same value", advice="Give both.")
        _check_shares(self)
        source = self.weights
        if source not in (None, IMAGENET) and not Path(str(source)).exists():
            raise no_weights(str(source))
        return self


def plan_transfer(image: ImageSpec, class_count: int, **options: object) -> TransferPlan:
    """Plan a transfer net for a data set's images.

    The range of the pixels is taken from the codec's scaling; images below the family's smallest
    size are enlarged in the graph. With a backbone of one's own, what is not named is as it was
    there.

    Args:
        image: The data set's image preprocessing.
        class_count: Number of classes; 0 for a regression.
        options: Further fields of `TransferPlan`.

    Raises:
        ConfigError: As `TransferPlan.checked`, or an unknown option.
        DataError: The directory of a backbone is damaged.

    Example:
        >>> from fieldloop.signature import ImageSpec
        >>> image = ImageSpec(height=8, width=8, channels=1, max_value=16, scale=1 / 16)
        >>> plan = plan_transfer(image, 10, member="MobileNetV2", alpha=0.35)
        >>> plan.side, plan.black, plan.white
        (32, 0.0, 1.0)
    """
    fields = _decided(options.get("weights")) | {
        "height": image.height,
        "width": image.width,
        "channels": image.channels,
        "black": image.offset,
        "white": image.max_value * image.scale + image.offset,
        "classes": class_count,
        **options,
    }
    try:
        plan = msgspec.convert(fields | {"type": "transfer"}, TransferPlan)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"the plan is not valid: {error}", where="transfer", advice="Correct the named field."
        ) from error
    unknown = fields.keys() - set(TransferPlan.__struct_fields__)
    if unknown:
        raise ConfigError(
            f"a transfer plan has no {', '.join(sorted(unknown))}",
            advice=f"Use {', '.join(TransferPlan.__struct_fields__)}.",
        )
    smallest = plan.family.min_side
    if not plan.side and min(plan.height, plan.width) < smallest:
        plan = msgspec.structs.replace(plan, side=smallest)
    return plan.checked()


def read_facts(weights: Path | str) -> BackboneFacts | None:
    """Return what a backbone of one's own says of itself; None where nothing is said.

    Raises:
        DataError: It is damaged.
    """
    path = Path(weights) / BACKBONE_FACTS
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=BackboneFacts)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(
            f"this backbone is damaged: {error}", where=str(path), advice="Pretrain it again."
        ) from error


def no_weights(path: Path | str) -> ConfigError:
    """Return the error of a backbone that is not there."""
    return ConfigError(
        "the backbone's weights are not there",
        where=str(path),
        advice="Give a .keras or .weights.h5 file, a SavedModel's directory, a directory of "
        f"`fieldloop pretrain`, or '{IMAGENET}'.",
    )


def _decided(weights: object) -> dict[str, object]:
    """Return the fields that a backbone of one's own decides."""
    facts = read_facts(weights) if isinstance(weights, (str, Path)) else None
    names = ("member", "alpha", "minimalistic", "side", "cut", "pooling")
    return {} if facts is None else {name: getattr(facts, name) for name in names}


def _check_width(plan: TransferPlan, family: Family) -> None:
    if not family.has_width and plan.alpha != 1.0:
        raise ConfigError(
            f"{plan.member} has no width",
            where="alpha",
            advice="Leave alpha at 1, or use a MobileNet.",
        )
    if plan.alpha <= 0:
        raise ConfigError("a width is positive", where="alpha", advice="Use 0.35 or more.")
    if plan.weights == IMAGENET and family.has_width and plan.alpha not in family.alphas:
        raise ConfigError(
            f"ImageNet weights of {plan.member} do not exist for alpha={plan.alpha:g}",
            where="alpha",
            advice=f"Use one of {', '.join(f'{alpha:g}' for alpha in family.alphas)}.",
        )
    if plan.minimalistic and family.module != "mobilenet_v3":
        raise ConfigError(
            f"{plan.member} has no minimalistic form",
            where="minimalistic",
            advice="Use MobileNetV3Small or MobileNetV3Large.",
        )


def _check_shares(plan: TransferPlan) -> None:
    ranges = {
        "dropout": 0 <= plan.dropout < 1,
        "dense": plan.dense >= 0,
        "classes": plan.classes != 1 and plan.classes >= 0,
        "fine_tune_rate": 0 < plan.fine_tune_rate <= 1,
        "stage_decay": 0 < plan.stage_decay <= 1,
    }
    wrong = [name for name, good in ranges.items() if not good]
    if wrong:
        raise ConfigError(
            f"{wrong[0]} is out of its range",
            where=f"{wrong[0]}={getattr(plan, wrong[0])}",
            advice="Use shares between 0 and 1, and two classes or more (0: a regression).",
        )
