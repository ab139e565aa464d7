"""The rungs of a net's precision ladder: every way to each precision that is at hand.

The converter quantizes while it converts; litert-quantizer quantizes the float32 flatbuffer. Where
both apply, both files are offered and the ladder keeps the better. `mixed` is int8 with the worst
layers left in float: as few of them as pass.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import (
    FieldloopError,
    GateError,
    ModelRuntimeError,
    SignatureError,
    UnsupportedError,
)
from fieldloop.manifest import Precision
from fieldloop_cloud.compile.calibration import Calibration
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.net_proof import LIMITS
from fieldloop_cloud.compile.quantize import Gate
from fieldloop_cloud.compile.quantizers import LitertQuantizer, Recipe
from fieldloop_cloud.compile.requantize import Requantizer
from fieldloop_cloud.compile.sensitivity import LayerSensitivity, ranked
from fieldloop_cloud.compile.worker import Progress, quiet
from fieldloop_cloud.train.measure import rows_for

INTEGER: tuple[Precision, ...] = ("int8", "mixed", "int16x8")
"""Precisions whose ranges come from calibration rows."""

QAT = "quantization-aware training"
"""As the quantizer of a net that was trained with int8's rounding."""

_MOST_IN_FLOAT = 0.75
"""With a larger share of its layers in float a net is no longer worth calling int8."""

_PROBES = 256


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One way to a precision: the model, or the reason why there is none."""

    precision: Precision
    compiled: Compiled | None
    reason: str = ""


Judge = Callable[[Compiled], Gate]
"""Compares a variant with the reference."""

Offers = Callable[[Precision, Judge], tuple[Attempt, ...]]
"""Gives every way to a precision; the reference first of all. The judge is for a precision that
must find its own settings."""


def compiled_directly(compile_to: Callable[[Precision], Compiled]) -> Offers:
    """Return the offers of a model that has one way to each precision: a classical one.

    The float32 reference raises what `compile_to` raises.
    """

    def offer(precision: Precision, judge: Judge) -> tuple[Attempt, ...]:
        del judge
        if precision == "float32":
            return (Attempt(precision, compile_to(precision)),)
        return (attempt(compile_to, precision),)

    return offer


def attempt(compile_to: Callable[[Precision], Compiled], precision: Precision) -> Attempt:
    """Compile, and turn an error into the reason of an attempt without a model."""
    try:
        return Attempt(precision, compile_to(precision))
    except (UnsupportedError, GateError, ModelRuntimeError, SignatureError) as error:
        return Attempt(precision, None, str(error))


@dataclass(eq=False)
class NetRungs:
    """All rungs of one net.

    Args:
        compile_to: The converter's flatbuffer of a precision, compared with the net; raises what
            `to_tflite` raises. For a model that is a flatbuffer already, float32 only.
        calibration: Encoded training rows that set the ranges.
        rows: Encoded rows to compare a variant with the float32 reference on.
        progress: Receives what the quantizer's process reports.
    """

    compile_to: Callable[[Precision], Compiled]
    calibration: NDArray[np.float32]
    rows: NDArray[np.float32]
    progress: Progress = quiet

    def __post_init__(self) -> None:
        """Compile the reference; everything else is compared with it."""
        self.reference = self.compile_to("float32")
        codec, signature = self.reference.codec, self.reference.signature
        self._requantizer = Requantizer(
            self.reference.tflite,
            tuple(codec.tensors(rows_for(signature, self.calibration))),
            self.progress,
        )
        some = self.rows[:: max(1, len(self.rows) // _PROBES)]
        self._probes = rows_for(signature, some)
        self._said = self._outputs(self.reference)
        self._sensitivity: tuple[LayerSensitivity, ...] | None = None

    def __call__(self, precision: Precision, judge: Judge) -> tuple[Attempt, ...]:
        """Return every way to a precision; see `Offers`."""
        if precision == "float32":
            return (Attempt(precision, self.reference),)
        if precision == "mixed":
            return (self._mixed(judge),)
        return (self._converted(precision), self._requantized(Recipe(precision=precision)))

    def _mixed(self, judge: Judge) -> Attempt:
        """Leave the worst layers in float, as few as pass the gate."""
        worst = [one for one in self.sensitivity() if one.snr_db is not None]
        most = math.floor(_MOST_IN_FLOAT * len(worst))
        counts = sorted({min(2**power, most) for power in range(12)} - {0})
        recipes = [
            Recipe(precision="mixed", keep_float=_tensors(worst[:count])) for count in counts
        ]
        made = self._requantizer.run(recipes)
        reason = "no layer can be quantized by itself"
        for count, tflite, failure in zip(counts, made.models, made.failures, strict=True):
            kept = tuple(one.layer for one in worst[:count])
            if tflite is None:
                reason = failure
                continue
            try:
                compiled = self._derived(tflite, "mixed", kept)
                gate = judge(compiled)
            except FieldloopError as error:
                reason = str(error)
                continue
            if gate.passed:
                return Attempt("mixed", compiled)
            reason = f"with {count} of {len(worst)} layers in float: {gate.reason}"
        return Attempt("mixed", None, reason)

    @property
    def calibration_used(self) -> Calibration | None:
        """The ranges that the integers got; None before any were needed."""
        return self._requantizer.calibration

    def aware(self, tflite: bytes) -> Attempt:
        """Take an int8 flatbuffer that training with rounding gave, as a rung like the others."""
        return attempt(lambda precision: self._derived(tflite, precision, quantizer=QAT), "int8")

    def sensitivity(
        self, drop: Callable[[Compiled], float] | None = None
    ) -> tuple[LayerSensitivity, ...]:
        """Return the sensitivity table, the most sensitive layer first.

        Args:
            drop: Gives the score that a variant lost; None leaves the losses out.
        """
        if self._sensitivity is None or drop is not None:
            made = self._as_variant
            self._sensitivity = ranked(
                self._requantizer,
                lambda tflite: self._outputs(made(tflite)),
                None if drop is None else lambda tflite: drop(made(tflite)),
            )
        return self._sensitivity

    def _converted(self, precision: Precision) -> Attempt:
        made = attempt(self.compile_to, precision)
        if made.compiled is None:
            return made
        evidence = msgspec.structs.replace(made.compiled.evidence, quantizer="converter")
        return Attempt(precision, dataclasses.replace(made.compiled, evidence=evidence))

    def _requantized(self, recipe: Recipe) -> Attempt:
        made = self._requantizer.run([recipe])
        if made.models[0] is None:
            return Attempt(recipe.precision, None, made.failures[0])
        tflite = made.models[0]
        return attempt(lambda precision: self._derived(tflite, precision), recipe.precision)

    def _as_variant(self, tflite: bytes) -> Compiled:
        return dataclasses.replace(self.reference, tflite=tflite, precision="int8")

    def _derived(
        self,
        tflite: bytes,
        precision: Precision,
        kept_float: tuple[str, ...] = (),
        quantizer: str = LitertQuantizer.name,
    ) -> Compiled:
        """Compare a requantized flatbuffer with the reference.

        Raises:
            GateError: A precision without integers deviates beyond its limit.
        """
        variant = dataclasses.replace(self.reference, tflite=tflite, precision=precision)
        limit = LIMITS.get(precision, math.inf)
        deviation: dict[str, float] = {}
        said = self._outputs(variant)
        for spec, wanted, made in zip(variant.signature.outputs, self._said, said, strict=True):
            size = max(1.0, float(np.abs(wanted).max()))
            deviation[spec.name] = float(np.abs(made - wanted).max()) / size
            if not deviation[spec.name] <= limit:  # NaN fails too
                raise GateError(
                    f"the {precision} flatbuffer deviates from float32 by "
                    f"{deviation[spec.name]:.2g}, allowed is {limit:g}",
                    where=spec.name,
                    advice="Take another precision.",
                )
        is_calibrated = precision in INTEGER and quantizer != QAT
        calibration = self._requantizer.calibration if is_calibrated else None
        evidence = msgspec.structs.replace(
            self.reference.evidence,
            original=f"{self.reference.evidence.original} as float32 flatbuffer",
            row_count=len(self._probes),
            label_changes=_changes(self._said, said),
            deviation=deviation,
            limit=dict.fromkeys(deviation, limit) if math.isfinite(limit) else {},
            calibration_sha256=calibration.sha256 if calibration else "",
            quantizer=quantizer,
            kept_float=kept_float,
            warnings=calibration.warnings if calibration else (),
        )
        return dataclasses.replace(variant, evidence=evidence)

    def _outputs(self, compiled: Compiled) -> tuple[NDArray[np.float32], ...]:
        said = compiled.run_encoded(self._probes)
        if not all(np.isfinite(one).all() for one in said.values()):
            raise UnsupportedError(
                "the flatbuffer answers what is no number",
                where=compiled.precision,
                advice="Check the net for overflows.",
            )
        return tuple(said.values())


def _tensors(layers: Sequence[LayerSensitivity]) -> tuple[str, ...]:
    return tuple(tensor for layer in layers for tensor in layer.tensors)


def _changes(wanted: Sequence[NDArray[np.float32]], made: Sequence[NDArray[np.float32]]) -> int:
    """Count rows of the first output whose largest entry is another one; 0 for single values."""
    first, other = wanted[0].reshape(len(wanted[0]), -1), made[0].reshape(len(made[0]), -1)
    return int((first.argmax(axis=1) != other.argmax(axis=1)).sum())
