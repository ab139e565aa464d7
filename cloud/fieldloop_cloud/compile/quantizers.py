"""Two quantizers behind one interface: TensorFlow's converter and litert-quantizer.

The converter needs the net itself and TensorFlow; litert-quantizer works on the float32
flatbuffer, whoever made it, and can leave single ops in float. Which gives the better file depends
on the net and the runtime, so the ladder tries both where both apply. Both run in a worker.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.manifest import Precision
from fieldloop_cloud.compile.calibration import Calibration
from fieldloop_cloud.compile.quantized_versions import with_honest_versions

QuantizerName = Literal["converter", "litert-quantizer"]


ConverterRows = tuple[NDArray[Any], ...] | dict[str, NDArray[Any]]
"""Calibration rows: one array for the input, of several inputs by name, or none."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to quantize.

    Attributes:
        precision: What to; `mixed` is int8 with some ops in float.
        keep_float: Output tensors of the ops that stay in float.
        only: Output tensors of the ops that are quantized; empty for all.
    """

    precision: Precision
    keep_float: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FloatModel:
    """What is quantized.

    Attributes:
        tflite: The float32 flatbuffer; empty if there is none yet.
        make_converter: Returns a fresh `tf.lite.TFLiteConverter` of the net; None without a net.
        calibration: Rows for the converter's own calibration.
    """

    tflite: bytes = b""
    make_converter: Callable[[], Any] | None = None
    calibration: ConverterRows = ()


class Quantizer(Protocol):
    """Makes a flatbuffer of a precision."""

    name: QuantizerName

    def takes(self, model: FloatModel, recipe: Recipe) -> bool:
        """Whether it can quantize this model by this recipe."""

    def quantize(self, model: FloatModel, recipe: Recipe, calibration: Calibration | None) -> bytes:
        """Return the flatbuffer; inputs and outputs stay float32.

        Args:
            model: The float model.
            recipe: How.
            calibration: Ranges of the activations, for the integer precisions.
        """


def quantized(
    quantizer: Quantizer, model: FloatModel, recipe: Recipe, calibration: Calibration | None = None
) -> bytes:
    """Return the flatbuffer that a quantizer makes.

    Args:
        quantizer: The quantizer.
        model: The float model.
        recipe: How.
        calibration: Ranges of the activations, for the integer precisions.

    Raises:
        ValueError: It cannot quantize this model by this recipe.
    """
    if not quantizer.takes(model, recipe):
        raise ValueError(f"the {quantizer.name} does not make {recipe.precision} of this model")
    return quantizer.quantize(model, recipe, calibration)


class ConverterQuantizer:
    """TensorFlow's converter: conversion and quantization in one."""

    name: QuantizerName = "converter"

    def takes(self, model: FloatModel, recipe: Recipe) -> bool:
        """See `Quantizer.takes`; it knows no single ops."""
        is_whole = not recipe.keep_float and not recipe.only and recipe.precision != "mixed"
        return model.make_converter is not None and is_whole

    def quantize(self, model: FloatModel, recipe: Recipe, calibration: Calibration | None) -> bytes:
        """See `Quantizer.quantize`; it measures the ranges itself, from the rows."""
        del calibration
        assert model.make_converter is not None
        return convert(model.make_converter(), recipe.precision, model.calibration)


def convert(converter: Any, precision: Precision, calibration: ConverterRows = ()) -> bytes:
    """Convert with builtin ops only; inputs and outputs stay float32.

    Args:
        converter: A `tf.lite.TFLiteConverter`.
        precision: What to quantize to.
        calibration: Rows of the model's inputs; empty if the net carries its own ranges.
    """
    import tensorflow as tf  # noqa: PLC0415 - only workers import TensorFlow

    def rows() -> Iterator[Any]:
        if isinstance(calibration, dict):
            for number in range(min(len(one) for one in calibration.values())):
                yield {name: one[number : number + 1] for name, one in calibration.items()}
        else:
            for row in calibration[0]:
                yield [row[np.newaxis]]

    ops = tf.lite.OpsSet
    converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS]
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif precision == "dynamic":
        # Per-channel Dense weights need FULLY_CONNECTED version 12, newer than TFLite 2.14.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True  # noqa: SLF001 - the only switch there is
    elif precision in ("int8", "int16x8") and calibration:
        converter.representative_dataset = rows
        converter.target_spec.supported_ops = [
            ops.TFLITE_BUILTINS_INT8
            if precision == "int8"
            else ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    return bytes(converter.convert())


class LitertQuantizer:
    """litert-quantizer: from flatbuffer to flatbuffer, without TensorFlow."""

    name: QuantizerName = "litert-quantizer"

    def takes(self, model: FloatModel, recipe: Recipe) -> bool:
        """See `Quantizer.takes`."""
        return bool(model.tflite) and recipe.precision != "float32"

    def quantize(self, model: FloatModel, recipe: Recipe, calibration: Calibration | None) -> bytes:
        """See `Quantizer.quantize`."""
        from litert_quantizer import quantizer  # noqa: PLC0415 - only workers quantize

        made = quantizer.Quantizer(bytearray(model.tflite))
        _add_rules(made, recipe)
        result = made.quantize(
            _statistics(calibration) if recipe.precision in _STATIC_BITS else None,
            enable_progress_report=False,
        )
        return with_honest_versions(bytes(result.quantized_model))


_STATIC_BITS: dict[Precision, int] = {"int8": 8, "mixed": 8, "int16x8": 16}


def _add_rules(made: Any, recipe: Recipe) -> None:
    """Say what is quantized how; of two rules for an op the later one counts."""
    from litert_quantizer import algorithm_manager, qtyping  # noqa: PLC0415 - as above

    every, name = qtyping.TFLOperationName.ALL_SUPPORTED, qtyping.TFLOperationName
    none = algorithm_manager.AlgorithmName.NO_QUANTIZE
    whole = qtyping.QuantGranularity.TENSORWISE
    for pattern in [_exactly(tensor) for tensor in recipe.only] or [".*"]:
        if recipe.precision == "dynamic":
            made.add_dynamic_config(pattern, every, 8)
            # Per-channel Dense weights make old runtimes answer nonsense, without an error.
            made.add_dynamic_config(pattern, name.FULLY_CONNECTED, 8, whole)
        elif recipe.precision == "float16":
            casting = algorithm_manager.AlgorithmName.FLOAT_CASTING
            made.add_weight_only_config(pattern, every, 16, whole, casting)
        else:
            made.add_static_config(pattern, every, _STATIC_BITS[recipe.precision], 8)
    for tensor in recipe.keep_float:
        made.update_quantization_recipe(_exactly(tensor), every, None, none)
    if recipe.precision in _STATIC_BITS:
        # A pattern of its own: the rules of one pattern replace each other.
        for end in (name.INPUT, name.OUTPUT):
            made.update_quantization_recipe("^", end, None, none)


def _exactly(tensor: str) -> str:
    """Match the op whose first output is this tensor; the quantizer ends each name with `;`."""
    return f"^{re.escape(tensor)};"


def _statistics(calibration: Calibration | None) -> dict[str, dict[str, NDArray[np.float32]]]:
    assert calibration is not None
    return {
        one.tensor: {
            "min": np.full((1,) * one.rank, one.low, dtype=np.float32),
            "max": np.full((1,) * one.rank, one.high, dtype=np.float32),
        }
        for one in calibration.ranges
    }
