"""Models that ask for ops which no runtime here has."""

from collections.abc import Callable
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated as schema


def with_first_op(model: bytes, change: Callable[[Any], None]) -> bytes:
    """Return the model with its first operator code changed."""
    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    change(tree.operatorCodes[0])
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def newer_op(model: bytes) -> bytes:
    """Ask for a version of an op that does not exist yet."""
    return with_first_op(model, lambda code: setattr(code, "version", 99))


def custom_op(model: bytes, name: bytes) -> bytes:
    """Ask for a custom op; those of TensorFlow begin with Flex."""

    def change(code: Any) -> None:
        code.builtinCode = schema.BuiltinOperator.CUSTOM
        code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = name

    return with_first_op(model, change)
