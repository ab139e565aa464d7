"""A model as C source: the bytes, and all that the firmware's author must know to use them.

NAME.h       sizes, scales and zero points, the features' order, conversions of inputs and outputs
NAME.c       the flatbuffer as an aligned array, labels and feature names
NAME_ops.h   (C++) registers exactly the ops that the model needs with a MicroMutableOpResolver

The conversions are the codec's: rounded half to even in double precision, saturated.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fieldloop.signature import FeatureSpec, Signature, TensorSpec
from fieldloop_cloud.compile.micro.arena import ArenaEstimate
from fieldloop_cloud.compile.micro.ops import MicroOps

_BYTES_A_LINE = 16
_C_TYPES = {
    "int8": ("int8_t", -128, 127),
    "uint8": ("uint8_t", 0, 255),
    "int16": ("int16_t", -32768, 32767),
}
_PLAIN_TYPES = {"float32": "float", "int32": "int32_t", "int64": "int64_t", "bool": "bool"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """What the texts are made of.

    Attributes:
        name: A C identifier in lower case; the prefix of everything.
        tflite: The flatbuffer as firmware takes it.
        signature: Its inputs and outputs as they are in that flatbuffer.
        ops: What it needs of TFLite Micro.
        arena: RAM that it needs.
    """

    name: str
    tflite: bytes
    signature: Signature
    ops: MicroOps
    arena: ArenaEstimate


def sources(sketch: Sketch) -> dict[str, str]:
    """Return the text of each file by its name."""
    return {
        f"{sketch.name}.h": _header(sketch),
        f"{sketch.name}.c": _array(sketch),
        f"{sketch.name}_ops.h": _resolver(sketch),
    }


def identifier(text: str) -> str:
    """Return a C identifier in lower case that resembles the text.

    Example:
        >>> identifier("Digits v2.1"), identifier("7-segment")
        ('digits_v2_1', 'model_7_segment')
    """
    made = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "model"
    return made if made[0].isalpha() else f"model_{made}"


def _header(sketch: Sketch) -> str:
    name, upper = sketch.name, sketch.name.upper()
    arena, signature = sketch.arena, sketch.signature
    guard = f"FIELDLOOP_{upper}_H_"
    lines = [
        "// Made by fieldloop; do not edit.",
        f"// SHA-256 of the flatbuffer: {hashlib.sha256(sketch.tflite).hexdigest()}",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <math.h>",
        "#include <stdbool.h>",
        "#include <stdint.h>",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        f"#define {upper}_MODEL_BYTES {len(sketch.tflite)}",
        f"extern const unsigned char {name}_model[{upper}_MODEL_BYTES];",
        f"extern const unsigned int {name}_model_bytes;",
        "",
        "// An estimate; compare with MicroInterpreter::arena_used_bytes(). In bytes:",
        f"//   {arena.tensor_bytes} of tensors, planned as TFLite Micro plans them",
        f"//   {arena.scratch_bytes} of working memory of CMSIS-NN's kernels",
        f"//   {arena.persistent_bytes} of the interpreter's records, on a 32-bit processor",
        f"#define {upper}_ARENA_BYTES {arena.total_bytes}",
    ]
    for place, spec in enumerate(signature.inputs):
        lines += ["", *_input(name, _numbered("input", place, signature.inputs), spec)]
    lines += _meaning_of_inputs(sketch)
    for place, spec in enumerate(signature.outputs):
        lines += ["", *_output(name, _numbered("output", place, signature.outputs), spec)]
    for table, labels in _labels(sketch):
        lines += [
            "",
            f"#define {table.upper()}_COUNT {len(labels)}",
            f"extern const char *const {table}[{table.upper()}_COUNT];",
        ]
    lines += ["", "#ifdef __cplusplus", '}  // extern "C"', "#endif", "", f"#endif  // {guard}", ""]
    return "\n".join(lines)


def _labels(sketch: Sketch) -> list[tuple[str, list[str]]]:
    """Return the table's name and the labels of each target that has labels."""
    targets = sketch.signature.targets
    several = len(targets) > 1
    return [
        (
            f"{sketch.name}_{identifier(target.name)}_labels"
            if several
            else f"{sketch.name}_labels",
            [str(label) for label in target.labels],
        )
        for target in targets
        if target.labels
    ]


def _numbered(word: str, place: int, specs: Sequence[TensorSpec]) -> str:
    return word if len(specs) == 1 else f"{word}{place}"


def _input(name: str, word: str, spec: TensorSpec) -> list[str]:
    lines = _tensor(name, word, spec)
    if spec.dtype not in _C_TYPES or not spec.is_quantized:
        return lines
    kind, low, high = _C_TYPES[spec.dtype]
    by_place = ", int index" if len(spec.scale) > 1 else ""
    scale, zero = _scaling(name, word, spec)
    return [
        *lines,
        "// A real value as the model takes it; a missing value (NaN) has no code.",
        f"static inline {kind} {name}_quantize_{word}(double value{by_place}) {{",
        f"  double q = rint(value / {scale}) + {zero};",
        f"  if (q < {low}) q = {low};",
        f"  if (q > {high}) q = {high};",
        f"  return ({kind})q;",
        "}",
    ]


def _output(name: str, word: str, spec: TensorSpec) -> list[str]:
    lines = _tensor(name, word, spec)
    if spec.dtype not in _C_TYPES or not spec.is_quantized:
        return lines
    by_place = ", int index" if len(spec.scale) > 1 else ""
    scale, zero = _scaling(name, word, spec)
    return [
        *lines,
        f"static inline float {name}_dequantize_{word}({_C_TYPES[spec.dtype][0]} q{by_place}) {{",
        f"  return (float)((q - {zero}) * {scale});",
        "}",
    ]


def _tensor(name: str, word: str, spec: TensorSpec) -> list[str]:
    """Say type, shape, size and scaling of a tensor."""
    prefix, sizes = f"{name}_{word}".upper(), tuple(abs(size) for size in spec.shape)
    kind = _C_TYPES[spec.dtype][0] if spec.dtype in _C_TYPES else _PLAIN_TYPES.get(spec.dtype, "")
    count = 1
    for size in sizes:
        count *= size
    role = f", {spec.role}" if spec.role else ""
    shape = " x ".join(map(str, sizes)) or "scalar"
    lines = [
        f"// {word}: {_quoted(spec.name)}{role}, {kind or spec.dtype} {shape}",
        f"#define {prefix}_COUNT {count}",
    ]
    if not spec.is_quantized:
        return lines
    if len(spec.scale) == 1:
        return [
            *lines,
            "// real = (q - zero point) * scale",
            f"#define {prefix}_SCALE {spec.scale[0]!r}",
            f"#define {prefix}_ZERO_POINT ({spec.zero_point[0]})",
        ]
    return [
        *lines,
        "// real = (q - zero point) * scale, with one pair for each element of the last axis",
        f"extern const double {name}_{word}_scale[{len(spec.scale)}];",
        f"extern const int {name}_{word}_zero_point[{len(spec.scale)}];",
    ]


def _scaling(name: str, word: str, spec: TensorSpec) -> tuple[str, str]:
    if len(spec.scale) > 1:
        return f"{name}_{word}_scale[index]", f"{name}_{word}_zero_point[index]"
    prefix = f"{name}_{word}".upper()
    return f"{prefix}_SCALE", f"{prefix}_ZERO_POINT"


def _meaning_of_inputs(sketch: Sketch) -> list[str]:
    """Tell the order of the features with units, ranges and codes, or what an image becomes."""
    signature, upper = sketch.signature, sketch.name.upper()
    if signature.image is not None:
        image = signature.image
        return [
            f"// An image, {image.height} rows of {image.width} pixels, channels together.",
            f"// Pixel p, 0 to {image.max_value:g}: real = p * {image.scale!r} + {image.offset!r}.",
        ]
    if not signature.features:
        return []
    lines = ["", "// The input's values in this order:"]
    lines += [f"// {place}: {_feature(spec)}" for place, spec in enumerate(signature.features)]
    return [
        *lines,
        f"#define {upper}_FEATURE_COUNT {len(signature.features)}",
        f"extern const char *const {sketch.name}_feature_names[{upper}_FEATURE_COUNT];",
    ]


def _feature(spec: FeatureSpec) -> str:
    words = [_quoted(spec.name)]
    if spec.unit:
        words.append(f"in {_quoted(spec.unit)}")
    if spec.low is not None and spec.high is not None:
        words.append(f"{spec.low:g} to {spec.high:g}")
    if spec.categories:
        codes = ", ".join(f"{_quoted(str(c))} {code}" for code, c in enumerate(spec.categories))
        other = "; another is -1" if spec.unknown == "encode" else ""
        words.append(f"codes: {codes}{other}")
    return ", ".join(words)


def _array(sketch: Sketch) -> str:
    name, upper, data = sketch.name, sketch.name.upper(), sketch.tflite
    rows = [data[start : start + _BYTES_A_LINE] for start in range(0, len(data), _BYTES_A_LINE)]
    lines = [
        "// Made by fieldloop; do not edit.",
        f'#include "{name}.h"',
        "",
        "#include <stdalign.h>",
        "",
        f"alignas(16) const unsigned char {name}_model[{upper}_MODEL_BYTES] = {{",
        *(f"    {', '.join(f'0x{byte:02x}' for byte in row)}," for row in rows),
        "};",
        f"const unsigned int {name}_model_bytes = {upper}_MODEL_BYTES;",
    ]
    signature = sketch.signature
    for word, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for place, spec in enumerate(specs):
            if len(spec.scale) > 1:
                lines += ["", *_scale_tables(f"{name}_{_numbered(word, place, specs)}", spec)]
    if signature.features:
        lines += ["", *_texts(f"{name}_feature_names", signature.feature_names)]
    for table, labels in _labels(sketch):
        lines += ["", *_texts(table, labels)]
    return "\n".join([*lines, ""])


def _scale_tables(prefix: str, spec: TensorSpec) -> list[str]:
    count = len(spec.scale)
    scales, zeros = ", ".join(map(repr, spec.scale)), ", ".join(map(str, spec.zero_point))
    return [
        f"const double {prefix}_scale[{count}] = {{{scales}}};",
        f"const int {prefix}_zero_point[{count}] = {{{zeros}}};",
    ]


def _texts(name: str, texts: Sequence[str]) -> list[str]:
    rows = [f"    {_literal(text)}," for text in texts]
    return [f"const char *const {name}[{len(texts)}] = {{", *rows, "};"]


def _literal(text: str) -> str:
    """Return a C string literal of UTF-8; octal, as a hexadecimal escape does not end by itself."""
    safe = set(b" !#$%&'()*+,-./0123456789:;<=>@[]^_`{|}~") | set(range(65, 91))
    safe |= set(range(97, 123))
    return '"' + "".join(chr(b) if b in safe else f"\\{b:03o}" for b in text.encode()) + '"'


def _quoted(text: str) -> str:
    """Return a text for a line comment: one line of ASCII that cannot end with a backslash."""
    return json.dumps(text)


def _resolver(sketch: Sketch) -> str:
    name, methods = sketch.name, sketch.ops.methods
    guard = f"FIELDLOOP_{name.upper()}_OPS_H_"
    lines = [
        "// Made by fieldloop; do not edit. C++, for TensorFlow Lite Micro.",
        f"// Ops checked against {sketch.ops.source}.",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"',
        "",
        f"using {name}_resolver = tflite::MicroMutableOpResolver<{len(methods)}>;",
        "",
        f"inline TfLiteStatus {name}_register_ops({name}_resolver& resolver) {{",
        "  TfLiteStatus status = kTfLiteOk;",
        *(f"  if (status == kTfLiteOk) status = resolver.{method}();" for method in methods),
        "  return status;",
        "}",
        "",
        f"#endif  // {guard}",
        "",
    ]
    return "\n".join(lines)
