"""The TFLite file itself: buffers, operator codes, subgraphs, bytes.

`Model` collects what `graph` emits and packs it with LiteRT's own schema classes. The bytes depend
on nothing but the calls made, so the same model gives the same file every time. Constants are
stored once, however often they are used, and lie on 16-byte borders as the runtime expects.

Small models are mostly their graph, so that is kept small too: tensors within have no names, and
equal shapes, names and options are written once.
"""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
BUFFER_ALIGNMENT = 16
MIN_RUNTIME_METADATA = "min_runtime_version"

TENSOR_TYPES: dict[str, int] = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int16": schema.TensorType.INT16,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
    "bool": schema.TensorType.BOOL,
}
"""NumPy's names of the types a tensor may have."""


class AlignedBuffer(schema.BufferT):  # type: ignore[misc]  # the schema has no types
    """A buffer whose bytes start on a 16-byte border (the generated class aligns to one byte)."""

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the schema's name
        """Write the bytes and return where."""
        raw = bytes(self.data)
        builder.StartVector(1, len(raw), BUFFER_ALIGNMENT)
        head = builder.Head() - len(raw)
        builder.head = head
        builder.Bytes[head : head + len(raw)] = raw
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]  # no types
    """A builder that writes equal vectors of numbers, equal strings and equal options once."""

    def __init__(self) -> None:
        super().__init__(1024)
        self.written: dict[Any, int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802 - the library's name
        key = (x.dtype.str, x.tobytes())
        if key not in self.written:
            self.written[key] = int(super().CreateNumpyVector(x))
        return self.written[key]

    def CreateString(  # noqa: N802 - the library's name
        self, s: str, encoding: str = "utf-8", errors: str = "strict"
    ) -> int:
        if s not in self.written:
            self.written[s] = int(super().CreateString(s, encoding, errors))
        return self.written[s]


class _SharedOptions:
    """An op's options, written once for all ops that have the same."""

    def __init__(self, options: Any) -> None:
        self._options = options
        entries = sorted(vars(options).items())
        self._key = (
            type(options).__name__,
            repr([(k, np.asarray(v).tolist()) for k, v in entries]),
        )

    def Pack(self, builder: _SharingBuilder) -> int:  # noqa: N802 - the schema's name
        if self._key not in builder.written:
            builder.written[self._key] = int(self._options.Pack(builder))
        return builder.written[self._key]


class Model:
    """The flatbuffer under construction: what all subgraphs share.

    Attributes:
        subgraphs: Packed in this order; the first one is the model's entrance.
    """

    def __init__(self) -> None:
        self.subgraphs: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # index 0 means "no data"
        self._buffer_index: dict[bytes, int] = {}
        self._codes: dict[tuple[int, int], int] = {}

    def buffer(self, array: NDArray[Any]) -> int:
        """Return the index of the buffer with the array's bytes (C order, little endian)."""
        raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        key = raw.tobytes()
        if key not in self._buffer_index:
            self._buffer_index[key] = len(self._buffers)
            self._buffers.append(AlignedBuffer(data=key))
        return self._buffer_index[key]

    def opcode(self, name: str, version: int) -> int:
        """Return the index of the operator code `name` (the schema's) at `version`."""
        code = int(getattr(schema.BuiltinOperator, name))
        return self._codes.setdefault((code, version), len(self._codes))

    def op_versions(self) -> dict[str, int]:
        """Return the highest version of each op used, by the schema's name."""
        names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
        versions: dict[str, int] = {}
        for code, version in self._codes:
            versions[names[code]] = max(version, versions.get(names[code], 0))
        return versions

    def to_bytes(self, *, description: str, min_runtime: str) -> bytes:
        """Pack everything.

        Args:
            description: Who made the file; shown by viewers.
            min_runtime: Lowest runtime that has every op version, for example `2.14.0`.
        """
        model = schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = description
        model.subgraphs = self.subgraphs
        model.operatorCodes = [_operator_code(*key) for key in self._codes]
        note = np.frombuffer(min_runtime.encode().ljust(BUFFER_ALIGNMENT, b"\0"), dtype=np.uint8)
        metadata = schema.MetadataT()
        metadata.name = MIN_RUNTIME_METADATA
        metadata.buffer = self.buffer(note)
        model.metadata = [metadata]
        model.buffers = self._buffers
        for operator in (op for graph in self.subgraphs for op in graph.operators):
            if operator.builtinOptions is not None:
                operator.builtinOptions = _SharedOptions(operator.builtinOptions)
        builder = _SharingBuilder()
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())


def _operator_code(code: int, version: int) -> Any:
    entry = schema.OperatorCodeT()
    entry.builtinCode = code
    # Old readers look at the one-byte field; 127 tells them to read the wide one.
    entry.deprecatedBuiltinCode = min(code, schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
    entry.version = version
    return entry
