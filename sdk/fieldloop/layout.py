"""Where each input of a model lies in an encoded row.

A model with one input has rows of that input's shape. The inputs of a model with several lie side
by side in one flat row, in the signature's order; so rows are one array everywhere, and are cut
apart only where tensors are made from them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fieldloop.errors import SignatureError, UnsupportedError
from fieldloop.signature import Signature, TensorSpec


@dataclass(frozen=True, slots=True)
class Layout:
    """Places in an encoded row, flattened.

    Attributes:
        columns: Of each input.
        features_at: The input that the named features make up; None without features.
        image_at: The input that takes the image; None without one.
    """

    columns: tuple[slice, ...]
    features_at: int | None
    image_at: int | None

    @property
    def features(self) -> slice:
        """Columns of the named features."""
        return slice(0, 0) if self.features_at is None else self.columns[self.features_at]

    @property
    def image(self) -> slice:
        """Columns of the image."""
        return slice(0, 0) if self.image_at is None else self.columns[self.image_at]


def layout(signature: Signature) -> Layout:
    """Lay out the encoded rows of a model.

    Raises:
        SignatureError: Features or an image fit none of several inputs, or more than one.
        UnsupportedError: One of several inputs has rows without a fixed shape.

    Example:
        >>> from fieldloop.signature import FeatureSpec, TensorSpec
        >>> found = layout(Signature(
        ...     task="regression",
        ...     inputs=(
        ...         TensorSpec(name="spectrum", shape=(-1, 8, 2), dtype="float32"),
        ...         TensorSpec(name="weather", shape=(-1, 1), dtype="float32"),
        ...     ),
        ...     outputs=(TensorSpec(name="value", shape=(-1, 1), dtype="float32", role="value"),),
        ...     features=(FeatureSpec(name="temperature"),),
        ... ))
        >>> found.columns, found.features_at
        ((slice(0, 16, None), slice(16, 17, None)), 1)
    """
    has_features, has_image = bool(signature.features), signature.image is not None
    if len(signature.inputs) == 1:
        return Layout((slice(None),), 0 if has_features else None, 0 if has_image else None)
    columns, start = [], 0
    for spec in signature.inputs:
        if min(spec.shape[1:], default=0) < 0:
            raise UnsupportedError(
                f"rows of shape {spec.shape[1:]} have no fixed size, and the model has "
                f"{len(signature.inputs)} inputs",
                where=f"input {spec.name}",
                advice="Fix the shape of every input, the batch apart.",
            )
        size = math.prod(spec.shape[1:])
        columns.append(slice(start, start + size))
        start += size
    width = (len(signature.features),)
    return Layout(
        columns=tuple(columns),
        features_at=_only(signature, "features", lambda spec: spec.shape[1:] == width)
        if has_features
        else None,
        image_at=_only(signature, "image", lambda spec: fits_image(signature, spec))
        if has_image
        else None,
    )


def fits_image(signature: Signature, spec: TensorSpec) -> bool:
    """Tell whether the signature's image makes a row of this input, as it is or flat."""
    if signature.image is None:
        return False
    pixels = (signature.image.height, signature.image.width, signature.image.channels)
    return spec.shape[1:] in (pixels, (math.prod(pixels),))


def _only(signature: Signature, what: str, fits: Callable[[TensorSpec], bool]) -> int:
    found = [place for place, spec in enumerate(signature.inputs) if fits(spec)]
    if len(found) != 1:
        raise SignatureError(
            f"the {what} could be {len(found)} of the {len(signature.inputs)} inputs",
            where=", ".join(spec.name for spec in signature.inputs),
            advice="Give exactly one input the shape of the image or the number of the features.",
        )
    return found[0]
