"""Op versions: which one an op needs for its types, and which runtime first had it.

A flatbuffer names a version for every op; a runtime refuses the file if it does not know it. The
builder always asks for the lowest version that covers the types in use, so that files load on the
oldest runtime that can compute them.
"""

from collections.abc import Sequence

from fieldloop_cloud.compile.tensor import Tensor

_BY_DTYPE: dict[str, dict[str, int]] = {
    # op: dtype of the first data input -> version; others are version 1
    "ADD": {"int8": 2, "int64": 4},
    "SUB": {"int8": 2, "int64": 4},
    "MUL": {"int8": 2, "int64": 5},
    "MAXIMUM": {"int8": 2},
    "MINIMUM": {"int8": 2},
    "GATHER": {"int8": 2, "uint8": 2, "bool": 3, "int16": 4},
    "GATHER_ND": {"int8": 2, "int16": 3},
    "CAST": {"int8": 3, "uint8": 3, "int16": 3},
    "EQUAL": {"int8": 2},
    "NOT_EQUAL": {"int8": 2},
    "GREATER": {"int8": 2},
    "GREATER_EQUAL": {"int8": 2},
    "LESS": {"int8": 2, "int16": 3},
    "LESS_EQUAL": {"int8": 2},
    "ARG_MAX": {"int8": 2, "bool": 3},
    "ARG_MIN": {"int8": 2, "bool": 3},
    "TOPK_V2": {"int8": 2},
    "SELECT": {"int8": 2},
    "CONCATENATION": {"int8": 2, "int16": 3},
    "SLICE": {"int8": 2, "int16": 4},
    "STRIDED_SLICE": {"int8": 2, "bool": 3, "int16": 4},
    "SUM": {"int8": 2},
    "MEAN": {"int8": 2},
    "REDUCE_MAX": {"int8": 2},
    "REDUCE_MIN": {"int8": 2},
    "TRANSPOSE": {"int8": 2, "bool": 3},
    "TILE": {"int8": 3},
    "PACK": {"int8": 2, "int16": 3},
    "UNPACK": {"int8": 2, "bool": 3, "int16": 4},
    "DEQUANTIZE": {"uint8": 1, "int8": 2, "float16": 3},
    "FULLY_CONNECTED": {"int8": 4},
    "SOFTMAX": {"int8": 2},
    "LOGISTIC": {"int8": 2},
    "TANH": {"int8": 2},
    "FLOOR_DIV": {"float32": 2},
    "RANGE": {"int64": 2},
    "FILL": {"int8": 3, "int16": 3},
    "SPLIT": {"int8": 2},
    "ABS": {"int8": 2, "int32": 4},
}
_LOWEST: dict[str, int] = {"BROADCAST_TO": 2}


def version_for(
    op: str,
    inputs: Sequence[Tensor],
    results: Sequence[tuple[tuple[int, ...], str]],
    *,
    at_least: int = 1,
) -> int:
    """Return the lowest version of `op` for these tensors.

    Args:
        op: The schema's name, `FULLY_CONNECTED`.
        inputs: The op's inputs.
        results: Shape and dtype of each output.
        at_least: A version that one of the op's options asks for.
    """
    table = _BY_DTYPE.get(op, {})
    dtypes = [tensor.dtype for tensor in inputs[:2]] + [dtype for _, dtype in results]
    if op in {"GATHER", "GATHER_ND", "ARG_MAX", "ARG_MIN", "TOPK_V2", "TILE", "SLICE"}:
        dtypes = [inputs[0].dtype]
    if op in {"FILL", "RANGE"}:
        dtypes = [results[0][1]]
    return max(at_least, _LOWEST.get(op, 1), *(table.get(dtype, 1) for dtype in dtypes))
