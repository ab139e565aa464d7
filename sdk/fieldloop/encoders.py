"""Which encoder a model's raw rows need; several inputs are encoded side by side."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fieldloop.arrays import ArrayEncoder
from fieldloop.errors import InputError, SignatureError
from fieldloop.images import ImageEncoder
from fieldloop.layout import Layout, fits_image
from fieldloop.signature import Signature, TensorSpec
from fieldloop.tabular import TabularEncoder


class Encoder(Protocol):
    """Turns raw rows into real numbers."""

    def row(self, raw: object) -> NDArray[np.float32]:
        """Encode one row; rows first, so the first dimension is 1."""

    def rows(self, raw: object) -> NDArray[np.float32]:
        """Encode many rows."""


def encoder_of(signature: Signature, places: Layout) -> Encoder:
    """Return the encoder of a model's raw rows.

    Raises:
        SignatureError: Features or image do not fit the input.
    """
    each = [
        _encoder(
            signature,
            spec,
            has_features=place == places.features_at,
            has_image=place == places.image_at,
        )
        for place, spec in enumerate(signature.inputs)
    ]
    names = tuple(spec.name for spec in signature.inputs)
    return each[0] if len(each) == 1 else SeveralInputs(names, each)


class SeveralInputs:
    """Encodes the raw rows of a model with several inputs into flat rows, input after input.

    Args:
        names: The inputs', in order.
        encoders: One for each.
    """

    def __init__(self, names: tuple[str, ...], encoders: Sequence[Encoder]) -> None:
        self._names = names
        self._encoders = tuple(encoders)

    def row(self, raw: object) -> NDArray[np.float32]:
        """Encode one row; returns shape (1, values of all inputs).

        Raises:
            SignatureError: An input is missing or unknown, or a value does not fit; names it.
            DataError: An image file that is missing or not an image.
        """
        parts = self._parts(raw, "")
        return self._joined([(encoder.row, part) for encoder, part in parts])

    def rows(self, raw: object) -> NDArray[np.float32]:
        """Encode many rows; returns shape (n, values of all inputs).

        Args:
            raw: A dict by input name of what that input takes for many rows, or a list of what
                `row` takes.

        Raises:
            SignatureError: As for `row`, or inputs with different numbers of rows.
            DataError: As for `row`.
        """
        if isinstance(raw, Mapping):
            parts = self._parts(raw, "")
        elif isinstance(raw, Sequence) and not isinstance(raw, (str, bytes)):
            each = [self._parts(row, f"row {number}") for number, row in enumerate(raw)]
            parts = [
                (encoder, [row[place][1] for row in each])
                for place, encoder in enumerate(self._encoders)
            ]
        else:
            raise SignatureError(
                f"a batch must be a dict by input or a list of rows, not {type(raw).__name__}",
                advice=f"Give a dict with {', '.join(self._names)}.",
            )
        return self._joined([(encoder.rows, part) for encoder, part in parts])

    def _parts(self, raw: object, where: str) -> list[tuple[Encoder, object]]:
        """Return what each input is given."""
        if isinstance(raw, Mapping):
            odd = sorted(set(self._names) ^ set(map(str, raw)))
            if odd:
                raise SignatureError(
                    f"the inputs {', '.join(map(str, raw))} came where {', '.join(self._names)} "
                    "are needed",
                    where=where,
                    advice=f"Give each input by its name; look at {', '.join(odd)}.",
                )
            given = [raw[name] for name in self._names]
        elif isinstance(raw, Sequence) and not isinstance(raw, (str, bytes)):
            given = list(raw)
        else:
            given = []
        if len(given) != len(self._names):
            raise SignatureError(
                f"this row does not give the {len(self._names)} inputs of the model",
                where=where,
                advice=f"Give a dict with {', '.join(self._names)}.",
            )
        return list(zip(self._encoders, given, strict=True))

    def _joined(
        self, parts: Sequence[tuple[Callable[[object], NDArray[np.float32]], object]]
    ) -> NDArray[np.float32]:
        """Encode each input's part and put them side by side."""
        tables = []
        for name, (encode, part) in zip(self._names, parts, strict=True):
            try:
                table = encode(part)
            except InputError as error:
                error.where = f"input {name}" + (f", {error.where}" if error.where else "")
                raise
            tables.append(table.reshape(len(table), math.prod(table.shape[1:])))
        counts = {name: len(table) for name, table in zip(self._names, tables, strict=True)}
        if len(set(counts.values())) > 1:
            raise SignatureError(
                f"the inputs have different numbers of rows: {counts}",
                advice="Give every input the same rows.",
            )
        return np.concatenate(tables, axis=1)


def _encoder(
    signature: Signature, spec: TensorSpec, *, has_features: bool, has_image: bool
) -> Encoder:
    shape = spec.shape[1:]
    if has_image and signature.image is not None:
        if not fits_image(signature, spec):
            image = signature.image
            raise SignatureError(
                f"an image of {(image.height, image.width, image.channels)} does not fit an input "
                f"of {shape}",
                where=f"input {spec.name}",
                advice="Compile again.",
            )
        return ImageEncoder(signature.image)
    if not has_features:
        is_whole = np.dtype(spec.dtype).kind in "iu" and not spec.is_quantized
        return ArrayEncoder(shape, whole=is_whole)
    if shape != (len(signature.features),):
        raise SignatureError(
            f"{len(signature.features)} features do not fit an input of {shape}",
            where=f"input {spec.name}",
            advice="Compile again.",
        )
    return TabularEncoder(signature.features)
