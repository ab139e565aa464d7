"""The families of Keras Applications: members, the pixels they expect, sizes, int8 hazards.

Only facts stand here; nothing imports Keras. `convention` says what a family's own
`preprocess_input` does to pixels of 0 … 255; `pixels` folds it into the graph.
"""

from dataclasses import dataclass
from typing import Literal

from fieldloop.errors import ConfigError

Convention = Literal["symmetric", "caffe", "torch", "included"]
"""`symmetric`: -1 … 1. `caffe`: BGR minus ImageNet's mean. `torch`: 0 … 1, minus the mean, by the
deviation. `included`: 0 … 255, because the family's first layers scale them themselves."""

Hazard = Literal["swish", "hard-swish", "squeeze-excite", "gelu", "layer-norm"]
"""What is known to lose accuracy in int8 without care."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    Attributes:
        module: Its module in `keras.applications`.
        members: Names of the builders there, smallest first.
        convention: What pixels its members expect.
        min_side: Smallest height and width.
        alphas: Widths with ImageNet weights; empty if the family has no width.
        hazards: What int8 may stumble over.
    """

    module: str
    members: tuple[str, ...]
    convention: Convention
    min_side: int = 32
    alphas: tuple[float, ...] = ()
    hazards: tuple[Hazard, ...] = ()

    @property
    def has_width(self) -> bool:
        """Whether `alpha` scales the number of filters."""
        return bool(self.alphas)


FAMILIES: tuple[Family, ...] = (
    Family("mobilenet", ("MobileNet",), "symmetric", alphas=(0.25, 0.5, 0.75, 1.0)),
    Family(
        "mobilenet_v2",
        ("MobileNetV2",),
        "symmetric",
        alphas=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
    ),
    Family(
        "mobilenet_v3",
        ("MobileNetV3Small", "MobileNetV3Large"),
        "included",
        alphas=(0.75, 1.0),
        hazards=("hard-swish", "squeeze-excite"),
    ),
    Family(
        "efficientnet",
        tuple(f"EfficientNetB{number}" for number in range(8)),
        "included",
        hazards=("swish", "squeeze-excite"),
    ),
    Family(
        "efficientnet_v2",
        tuple(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
        "included",
        hazards=("swish", "squeeze-excite"),
    ),
    Family("resnet", ("ResNet50", "ResNet101", "ResNet152"), "caffe"),
    Family("resnet_v2", ("ResNet50V2", "ResNet101V2", "ResNet152V2"), "symmetric"),
    Family("densenet", ("DenseNet121", "DenseNet169", "DenseNet201"), "torch"),
    Family("nasnet", ("NASNetMobile", "NASNetLarge"), "symmetric"),
    Family("xception", ("Xception",), "symmetric", min_side=71),
    Family("inception_v3", ("InceptionV3",), "symmetric", min_side=75),
    Family("inception_resnet_v2", ("InceptionResNetV2",), "symmetric", min_side=75),
    Family(
        "convnext",
        tuple(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
        "included",
        hazards=("gelu", "layer-norm"),
    ),
    Family("vgg16", ("VGG16",), "caffe"),
    Family("vgg19", ("VGG19",), "caffe"),
)

MEMBERS: tuple[str, ...] = tuple(member for family in FAMILIES for member in family.members)
"""Every net that can be a backbone, by the name it has in `keras.applications`."""


def family_of(member: str) -> Family:
    """Return the family of a member.

    Raises:
        ConfigError: No family has it.

    Example:
        >>> family_of("ResNet50").convention
        'caffe'
    """
    for family in FAMILIES:
        if member in family.members:
            return family
    raise ConfigError(
        f"'{member}' is no net of Keras Applications that fieldloop knows",
        where="member",
        advice=f"Use one of {', '.join(MEMBERS)}.",
    )
