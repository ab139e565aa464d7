"""`export_c`: a model as C source for firmware with TensorFlow Lite Micro.

Compiled model, file or bundle → integer inputs and outputs → ops and sizes checked against the
target → compared with what it was made from → C array, header and op resolver.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.codec import dequantize
from fieldloop.errors import ConfigError, DataError, GateError, UnsupportedError
from fieldloop.interpreter import open_engine
from fieldloop.manifest import BundleContent
from fieldloop.signature import Signature, TensorSpec
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.flat_model import read_model
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.micro.arena import ArenaEstimate, estimate_arena
from fieldloop_cloud.compile.micro.integer import integer_model
from fieldloop_cloud.compile.micro.ops import MicroOps, micro_ops
from fieldloop_cloud.compile.micro.source import Sketch, identifier, sources
from fieldloop_cloud.compile.saved import Saved, load_compiled
from fieldloop_cloud.files import write_file
from fieldloop_cloud.release.releases import read_bundle
from fieldloop_cloud.release.targets import Target, load_target

PROBES = 32
"""Random rows on which the exported model must answer as the one it was made from."""

_RELATIVE_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """A model as C source.

    Attributes:
        name: The C identifier that everything in it begins with.
        files: What was written: `.h`, `.c`, `_ops.h`, and the same model as `.tflite`.
        size_bytes: Of the flatbuffer, in flash.
        arena: RAM for the arena; an estimate.
        methods: What the resolver registers.
        ops_source: The TFLite Micro whose op list it was checked against.
        signature: Inputs and outputs as they are in the firmware.
        probe_count: Rows on which it was compared with the model it was made from.
    """

    name: str
    files: tuple[Path, ...]
    size_bytes: int
    arena: ArenaEstimate
    methods: tuple[str, ...]
    ops_source: str
    signature: Signature
    probe_count: int


def export_c(
    model: Compiled | BundleContent | bytes | Path | str,
    out: Path | str,
    *,
    name: str | None = None,
    target: str | Path = "mcu",
    allow_float: bool = False,
    force: bool = False,
) -> Firmware:
    """Write a model as C source for TensorFlow Lite Micro, or say why it cannot run there.

    The inputs and outputs become int8: a QUANTIZE at the beginning and a DEQUANTIZE at the end are
    cut off, and the header brings their scales. The arena is an estimate; see `Firmware.arena`.

    Args:
        model: From `to_tflite(..., precision="int8", device="mcu")`, an opened bundle, or a
            `.tflite` as file or bytes. With `NAME.signature.json` beside the file, labels and
            features are named.
        out: Directory for `NAME.h`, `NAME.c`, `NAME_ops.h` and `NAME.tflite`.
        name: Prefix of everything in C; None: from the file or bundle.
        target: A target whose runtime is tflite-micro, or the path of an own one.
        allow_float: Also take ops in floating point, for a processor with an FPU; Micro's kernels
            for them are plain C.
        force: Overwrite what is there.

    Raises:
        UnsupportedError: Ops that Micro lacks or that remain in floating point, by name.
        GateError: The model or its arena is larger than the target allows; says by how much.
        ConfigError: The target is no microcontroller, or files are there already.
        DataError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import fieldloop_cloud as fl
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> fitted = LogisticRegression(max_iter=500).fit(X, y)
        >>> compiled = fl.to_tflite(fitted, example=X, precision="int8", device="mcu")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = fl.export_c(compiled, folder, name="iris")
        ...     print([path.name for path in made.files])
        ['iris.h', 'iris.c', 'iris_ops.h', 'iris.tflite']
        >>> made.methods
        ('AddArgMax', 'AddFullyConnected', 'AddSoftmax')
    """
    device = _microcontroller(target)
    original, signature, own_name = _source(model, allow_float=allow_float)
    tflite = integer_model(original)
    flat = read_model(tflite)
    ops = micro_ops(flat)
    _check_ops(ops, allow_float=allow_float)
    arena = estimate_arena(flat)
    _check_sizes(len(tflite), arena, device)
    _compare(original, tflite)
    prefix = identifier(name or own_name)
    inner = _inner_signature(tflite, signature)
    sketch = Sketch(name=prefix, tflite=tflite, signature=inner, ops=ops, arena=arena)
    return Firmware(
        name=prefix,
        files=_write(sketch, Path(out), force=force),
        size_bytes=len(tflite),
        arena=arena,
        methods=ops.methods,
        ops_source=ops.source,
        signature=inner,
        probe_count=PROBES,
    )


def _microcontroller(target: str | Path) -> Target:
    device = load_target(target)
    if not device.integers_only:
        raise ConfigError(
            f"the target {device.name} runs {device.runtime}, not TFLite Micro",
            where=str(target),
            advice='Use mcu or an own target with runtime = "tflite-micro"; for other devices '
            "there is `fieldloop flash`.",
        )
    return device


def _source(
    model: Compiled | BundleContent | bytes | Path | str, *, allow_float: bool
) -> tuple[bytes, Signature | None, str]:
    """Return the flatbuffer, its signature if it has one, and a name."""
    if isinstance(model, Compiled):
        return model.tflite, model.signature, "model"
    if isinstance(model, BundleContent):
        return _variant(model, allow_float=allow_float)
    if isinstance(model, bytes):
        return model, None, "model"
    path = Path(model)
    if not path.is_file():
        raise DataError(
            "the model file does not exist",
            where=str(path),
            advice="Name a .tflite file as `fieldloop compile` writes it, or a .flb bundle.",
        )
    if path.suffix == ".tflite" and Saved.beside(path).signature.exists():
        compiled = load_compiled(path)
        return compiled.tflite, compiled.signature, path.stem
    return read_bundle(path), None, path.stem


def _variant(content: BundleContent, *, allow_float: bool) -> tuple[bytes, Signature, str]:
    wanted = ("int8", "int16x8", "float32") if allow_float else ("int8", "int16x8")
    for precision in wanted:
        for variant in content.manifest.variants:
            if variant.precision == precision:
                signature = variant.signature or content.signature
                return content.models[precision], signature, content.manifest.name
    raise UnsupportedError(
        f"the bundle has no int8 variant, only {', '.join(content.models)}",
        where=content.manifest.name,
        advice="Bundle a model whose int8 variant passed its gate, or train with --device mcu.",
    )


def _check_ops(ops: MicroOps, *, allow_float: bool) -> None:
    if ops.lacking:
        raise UnsupportedError(
            f"TensorFlow Lite Micro cannot run {', '.join(ops.lacking)}",
            where=ops.source,
            advice="Use a net of layers that it has, or distill this model into one with "
            "fieldloop_cloud.distill; a decision forest walks int32 tables, which Micro does not.",
        )
    if ops.floating and not allow_float:
        raise UnsupportedError(
            f"ops remain in floating point: {', '.join(ops.floating)}",
            where="export_c",
            advice="Compile a net with precision='int8', a linear model or an MLP of scikit-learn "
            "with device='mcu' too; or, for a processor with an FPU, allow floating point.",
        )


def _check_sizes(size_bytes: int, arena: ArenaEstimate, target: Target) -> None:
    limits = (
        ("the flatbuffer", size_bytes, target.max_model_bytes, "flash for a model"),
        ("the arena (estimated)", arena.total_bytes, target.ram_bytes, "RAM"),
    )
    for what, needed, allowed, of_what in limits:
        if needed > allowed:
            raise GateError(
                f"{what} needs {needed:,} bytes, {needed - allowed:,} more than the {allowed:,} "
                f"bytes of {of_what} that {target.name} has",
                where=f"target {target.name}",
                advice="Prune or distill the net (fieldloop_cloud.prune, .distill), or take a "
                "smaller input.",
            )


def _compare(original: bytes, made: bytes) -> None:
    """Run both on the same random inputs; the answers must be the same.

    Raises:
        GateError: They are not.
    """
    outer, inner = inspect(original), inspect(made)
    random = np.random.default_rng(0)
    before, after = open_engine(original), open_engine(made)
    try:
        for _ in range(PROBES):
            codes = [_random(spec, random) for spec in inner.inputs]
            wanted = before.run(
                [
                    _as(a, b, code)
                    for a, b, code in zip(outer.inputs, inner.inputs, codes, strict=True)
                ]
            )
            said = after.run(codes)
            for there, here, answer, made_answer in zip(
                outer.outputs, inner.outputs, wanted, said, strict=True
            ):
                if not np.allclose(_as(there, here, made_answer), answer, rtol=_RELATIVE_TOLERANCE):
                    raise GateError(
                        "the exported model answers differently from the one it was made from",
                        where=f"output {here.name}",
                        advice="Report this with the model; it is a fault of the export.",
                    )
    finally:
        before.close()
        after.close()


def _random(spec: TensorSpec, random: np.random.Generator) -> NDArray[np.generic]:
    shape = tuple(abs(size) for size in spec.shape)
    if spec.dtype == "float32":
        return random.normal(size=shape).astype(np.float32)
    limits = np.iinfo(spec.dtype)
    return random.integers(limits.min, limits.max, shape, endpoint=True).astype(spec.dtype)


def _as(outer: TensorSpec, inner: TensorSpec, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an inner tensor's values as the outer one has them: real where it is."""
    return dequantize(inner, values) if outer.dtype != inner.dtype else values


def _inner_signature(tflite: bytes, outer: Signature | None) -> Signature:
    """Return what goes in and out of the exported flatbuffer, with the meaning from outside."""
    facts = inspect(tflite)
    if outer is None:
        return Signature(task="transform", inputs=facts.inputs, outputs=facts.outputs)
    return msgspec.structs.replace(
        outer,
        inputs=_merged(outer.inputs, facts.inputs),
        outputs=_merged(outer.outputs, facts.outputs),
    )


def _merged(outer: tuple[TensorSpec, ...], inner: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Take names and roles (and scales, where the type is the same) from outside."""
    merged = []
    for there, here in zip(outer, inner, strict=True):
        kept = there if there.dtype == here.dtype else here
        merged.append(
            msgspec.structs.replace(
                there,
                shape=here.shape,
                dtype=here.dtype,
                scale=kept.scale,
                zero_point=kept.zero_point,
            )
        )
    return tuple(merged)


def _write(sketch: Sketch, out: Path, *, force: bool) -> tuple[Path, ...]:
    contents = {name: text.encode() for name, text in sources(sketch).items()}
    contents[f"{sketch.name}.tflite"] = sketch.tflite
    taken = [name for name in contents if (out / name).exists()]
    if taken and not force:
        raise ConfigError(
            f"{', '.join(taken)} exist already",
            where=str(out),
            advice="Name another directory, or overwrite with force (--force).",
        )
    for name, data in contents.items():
        write_file(out / name, data)
    return tuple(out / name for name in contents)
