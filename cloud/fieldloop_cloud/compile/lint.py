"""Architecture lint: what in a net is known to suffer on devices, and what to use instead.

A net is looked at twice. Before it is converted its layers are, because some do not convert; then
the float32 flatbuffer is, whoever made it, because its ops show what int8 will do to it.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.layers import Op, ops

_SMOOTH = frozenset({"silu", "swish", "hard_silu", "hard_swish", "gelu", "elu", "selu", "mish"})
_SMOOTH_REMEDY = "use ReLU6, as the Lite variants of nets do, and train again"
_EXCITE_REMEDY = "leave the block out, as the Lite variants of nets do, and train again"
_LOOP_REMEDY = "use Conv1D layers, or unroll=True for short windows"
_FIXED_REMEDY = "give keras.Input the whole shape; only the batch may be open"
_RECURRENT = frozenset({"GRU", "LSTM", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM2D"})
_NORMALIZING = frozenset({"LayerNormalization", "GroupNormalization", "RMSNormalization"})
_GATE_DEPTH = 8
_BINARY = 2


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that may cost accuracy or speed, or not run at all.

    Attributes:
        layer: Where.
        what: What is there, and why it matters.
        remedy: What to do; begins with a verb.
    """

    layer: str
    what: str
    remedy: str

    def __str__(self) -> str:
        """One sentence for people."""
        return f"layer {self.layer}: {self.what}; {self.remedy}"


def lint_net(model: Any) -> tuple[Finding, ...]:
    """Look at a Keras model's layers before it is converted; nested ones too."""
    found = list(_open_shapes(model))
    for layer in _layers(model):
        kind = type(layer).__name__
        activation = getattr(getattr(layer, "activation", None), "__name__", "")
        if kind in _RECURRENT and not getattr(layer, "unroll", False):
            what = f"{kind} becomes a loop, which many runtimes lack and int8 does not speed up"
            found.append(Finding(layer=layer.name, what=what, remedy=_LOOP_REMEDY))
        elif activation in _SMOOTH:
            what = f"the range of {activation} is open above and fine near zero: int8 is coarse"
            found.append(Finding(layer=layer.name, what=what, remedy=_SMOOTH_REMEDY))
        elif kind in _NORMALIZING:
            what = f"{kind} is many small ops on a device, and int8 rounds its squares"
            remedy = "use BatchNormalization, which vanishes into the layer before it"
            found.append(Finding(layer=layer.name, what=what, remedy=remedy))
        elif kind == "Lambda":
            what = "a Lambda is code that no file can carry safely"
            remedy = "write it as a layer, or trust the file if you know who made it"
            found.append(Finding(layer=layer.name, what=what, remedy=remedy))
    return tuple(found)


def lint_flatbuffer(tflite: bytes) -> tuple[Finding, ...]:
    """Look at a float32 flatbuffer's ops.

    Raises:
        UnsupportedError: The bytes are no TFLite model.
    """
    found = ops(tflite)
    made_by = {output: op for op in found for output in op.outputs}
    findings = [
        *_open_inputs(tflite),
        *(finding for op in found for finding in _judged(op, made_by)),
    ]
    return tuple(dict.fromkeys(findings))


def _judged(op: Op, made_by: dict[int, Op]) -> Iterator[Finding]:
    if op.kind in ("HARD_SWISH", "GELU", "ELU"):
        name = op.kind.lower().replace("_", "-")
        yield Finding(layer=op.layer, what=f"{name} is open above", remedy=_SMOOTH_REMEDY)
    elif op.kind == "MUL" and len(op.inputs) == _BINARY:
        for gate, other in (op.inputs, op.inputs[::-1]):
            maker = made_by.get(gate)
            if maker is None:
                continue
            if maker.kind == "LOGISTIC" and maker.inputs[0] == other:
                what = "swish is open above and fine near zero: int8 is coarse there"
                yield Finding(layer=op.layer, what=what, remedy=_SMOOTH_REMEDY)
            elif _is_mean_of(maker, other, made_by):
                what = "squeeze-and-excite multiplies two ranges, and int8 rounds the product"
                yield Finding(layer=op.layer, what=what, remedy=_EXCITE_REMEDY)
    elif op.kind in ("WHILE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN"):
        what = f"a recurrent layer became {op.kind}, which small runtimes lack"
        yield Finding(layer=op.layer, what=what, remedy=_LOOP_REMEDY)


def _is_mean_of(op: Op, signal: int, made_by: dict[int, Op]) -> bool:
    """Whether a gate is computed from the average of the signal that it is multiplied with."""
    for _ in range(_GATE_DEPTH):
        if op.kind in ("MEAN", "AVERAGE_POOL_2D"):
            return op.inputs[0] == signal
        maker = made_by.get(op.inputs[0])
        if maker is None:
            return False
        op = maker
    return False


def _open_inputs(tflite: bytes) -> Iterator[Finding]:
    for spec in inspect(tflite).inputs:
        if -1 in spec.shape[1:]:
            what = f"the input's shape {spec.shape} is open: memory cannot be planned for it"
            yield Finding(layer=spec.name, what=what, remedy=_FIXED_REMEDY)


def _open_shapes(model: Any) -> Iterator[Finding]:
    for one in getattr(model, "inputs", None) or []:
        if None in tuple(one.shape)[1:]:
            what = f"the input's shape {tuple(one.shape)} is open: memory cannot be planned for it"
            yield Finding(layer=one.name, what=what, remedy=_FIXED_REMEDY)


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield layer
