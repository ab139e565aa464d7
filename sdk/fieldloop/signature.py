"""What goes into a model and what comes out, in the user's terms.

A `Signature` travels with every compiled model. It names the features with their units, ranges
and categories, the tensors with shape, dtype and quantization, the labels, and the preprocessing
that is not in the graph. `codec` turns raw values into tensors by it and tensors into answers; the
workstation's evaluation and the device's runtime use the same signature and the same codec, so
they cannot disagree.

A *target* is one thing that the model predicts, with labels of its own. Most models have one. With
several, an output either speaks of one of them (`TensorSpec.target`) or has a column for each.
"""

from typing import Literal, Self

import msgspec

from fieldloop.errors import SignatureError, UnsupportedError

Category = str | bool | int | float
"""A category or class label as the user wrote it."""

Task = Literal["classification", "regression", "clustering", "anomaly", "transform"]

OutputRole = Literal[
    "label", "probabilities", "decision", "value", "transformed", "distances", "score"
]
"""What an output tensor means; scikit-learn's words where it has one."""


PER_TARGET = frozenset({"label", "probabilities", "decision", "value"})
"""Roles of outputs that answer for a target."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor of the flatbuffer.

    Attributes:
        name: The tensor's name in the signature, for example `x` or `probabilities`.
        shape: Dimensions; -1 stands for the batch (or another dynamic dimension).
        dtype: NumPy's name: `float32`, `float16`, `int8`, `uint8`, `int16`, `int32`, `int64`,
            `bool`.
        scale: Quantization scales: empty (not quantized), one (per tensor) or one per last-axis
            element (per feature). real = (q - zero_point) · scale.
        zero_point: Zero points, as many as scales.
        role: For an output, what it means; None for an input.
        target: For an output, the number of the target that it speaks of. None: of the only one,
            or of all, its columns being one for each.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    role: OutputRole | None = None
    target: int | None = None

    @property
    def is_quantized(self) -> bool:
        """Whether real values must be scaled before they go in (or after they come out)."""
        return bool(self.scale)


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One named value that the user gives.

    A feature with `categories` is given raw (say `"diesel"`) and encoded as the index of its
    category, as float32; what is not among them becomes -1 when `unknown` is `"encode"` and an
    error when it is `"reject"`. A missing value (None, NaN) becomes NaN, if `missing_allowed`.

    Attributes:
        name: The column's name.
        unit: The physical unit, for people.
        low: Smallest value seen in training, for range checks; None if not known.
        high: Largest value seen in training.
        categories: The known categories, in the order of their codes; empty for a number.
        missing_allowed: Whether the model has an answer for a missing value.
        unknown: What to do with a category that was not seen in training.
    """

    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    categories: tuple[Category, ...] = ()
    missing_allowed: bool = False
    unknown: Literal["reject", "encode"] = "reject"


class TargetSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that the model predicts.

    Attributes:
        name: What a person calls it, for example `species`.
        labels: Its class labels, in the order of their numbers and of the probabilities' columns;
            empty for a value.
    """

    name: str = "target"
    labels: tuple[Category, ...] = ()


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image becomes a tensor; what is not in the graph is said here.

    The device decodes (if given bytes or a path), converts to `channels`, resizes to
    `height` x `width` with `resize`, and multiplies by `scale` and adds `offset`.
    Arrays are taken in the user's range, 0 … `max_value`.
    """

    height: int
    width: int
    channels: Literal[1, 3]
    resize: Literal["bilinear", "nearest"] = "bilinear"
    max_value: float = 255.0
    scale: float = 1.0
    offset: float = 0.0


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole contract of one model.

    Attributes:
        task: What the model does.
        inputs: Input tensors, in the flatbuffer's order.
        outputs: Output tensors, in the flatbuffer's order; each has a role.
        features: The named raw values that make up one row of the tabular input, in order; empty
            without one.
        image: The preprocessing of the image input; None without one. `layout` says which of
            several inputs these are.
        targets: What the model predicts; empty where that has neither labels nor a name of its own
            (a single value, a cluster, a transformed row).
    """

    task: Task
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    features: tuple[FeatureSpec, ...] = ()
    image: ImageSpec | None = None
    targets: tuple[TargetSpec, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the raw values of one row."""
        return tuple(feature.name for feature in self.features)

    @property
    def labels(self) -> tuple[Category, ...]:
        """Class labels of a model with one target; empty for a value.

        Raises:
            UnsupportedError: The model has several targets; whoever asks can work with one only.
        """
        if len(self.targets) > 1:
            names = ", ".join(target.name for target in self.targets)
            raise UnsupportedError(
                f"this works for models with one target, and this one has {len(self.targets)}",
                where=names,
                advice="Use a model for each target.",
            )
        return self.targets[0].labels if self.targets else ()

    def output(self, role: OutputRole) -> TensorSpec | None:
        """Return the first output with this role, or None."""
        return next((spec for spec in self.outputs if spec.role == role), None)

    def checked(self) -> Self:
        """Return self after checking that the parts fit together.

        Raises:
            SignatureError: Without inputs or outputs, with a name, category or label twice, with
                scales and zero points that differ in number, with an image of no size, with both
                features and an image for one input, or with an output that does not fit the
                targets.
        """
        if not self.inputs or not self.outputs:
            raise SignatureError(
                "a signature needs at least one input and one output", advice="Compile again."
            )
        self._check_names()
        for spec in (*self.inputs, *self.outputs):
            if len(spec.scale) != len(spec.zero_point):
                raise SignatureError(
                    "as many zero points as scales are needed",
                    where=f"tensor {spec.name}",
                    advice="Quantize again.",
                )
        for spec in self.outputs:
            self._check_targets_of(spec)
        if self.image is not None and (
            min(self.image.height, self.image.width) < 1 or self.image.max_value <= 0
        ):
            raise SignatureError(
                "an image needs a height, a width and a range", advice="Give positive numbers."
            )
        if self.image is not None and self.features and len(self.inputs) == 1:
            raise SignatureError(
                "an input is either an image or named features, not both",
                advice="Split the inputs or drop one.",
            )
        return self

    def _check_names(self) -> None:
        for group in (self.inputs, self.outputs, self.features, self.targets):
            names = [item.name for item in group]
            if len(set(names)) != len(names):
                raise SignatureError(
                    f"names stand twice among {names}", advice="Give every column its own name."
                )
        for what, known in (
            *((f"labels of '{item.name}'", item.labels) for item in self.targets),
            *((f"categories of '{item.name}'", item.categories) for item in self.features),
        ):
            # Python's equality, as in the look-up: True, 1 and 1.0 are one category.
            if len(set(known)) != len(known):
                raise SignatureError(
                    f"the {what} stand twice: {known}", advice="Make them different."
                )

    def _check_targets_of(self, spec: TensorSpec) -> None:
        """Check that an output speaks of a target that there is, or of each in a column."""
        count = len(self.targets)
        if spec.target is not None:
            is_wrong = not 0 <= spec.target < count
        else:
            is_wrong = count > 1 and spec.role in PER_TARGET and spec.shape[1:] != (count,)
        if is_wrong:
            raise SignatureError(
                f"an output of shape {spec.shape} for target {spec.target} does not fit "
                f"{count} targets",
                where=f"output {spec.name}",
                advice="Name the output's target, or give it a column for each.",
            )


def one_target(labels: tuple[Category, ...], *, name: str = "target") -> tuple[TargetSpec, ...]:
    """Return the targets of a model with one: none, where it has no labels.

    Example:
        >>> one_target(("ok", "fault"))[0].labels
        ('ok', 'fault')
    """
    return (TargetSpec(name=name, labels=labels),) if labels else ()
