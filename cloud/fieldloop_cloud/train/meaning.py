"""A compiled model gets the data's own meaning of its input: columns, pixels, labels."""

import dataclasses

import msgspec

from fieldloop.errors import UnsupportedError
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.data.dataset import Dataset


def named(compiled: Compiled, data: Dataset) -> Compiled:
    """Give a compiled model the data's own meaning of its columns or pixels, and the labels.

    Raises:
        UnsupportedError: An integer input for columns whose values may be missing, or a class
            that no training row has.
    """
    unseen = [str(label) for label in data.labels if label not in compiled.signature.labels]
    if unseen:
        raise UnsupportedError(
            f"no training row has the class {', '.join(unseen)}",
            where=data.name,
            advice="Bring more rows of it, or leave it out.",
        )
    gaps = [spec.name for spec in data.features if spec.missing_allowed]
    if gaps and compiled.signature.inputs[0].is_quantized:
        raise UnsupportedError(
            "an integer input has no code for a missing value",
            where=f"columns {', '.join(gaps)}",
            advice="Use a float precision, or fill the gaps in.",
        )
    signature = msgspec.structs.replace(
        compiled.signature, features=data.features, image=data.image
    )
    return dataclasses.replace(compiled, signature=signature.checked())
