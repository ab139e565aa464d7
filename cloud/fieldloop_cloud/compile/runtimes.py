"""Which TFLite runtime has which op in which version.

`op_versions.json` was measured, not copied: `tools/op_versions/probe.py` asked each runtime for
every builtin op. It lists what each version added to the one before it. tflite-runtime 2.14.0
stands for 2.14; LiteRT 1.1.2, 1.2.0, 1.4.0, 2.1.0 and 2.3.0 for 2.18 to 2.22.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources

from fieldloop.errors import UnsupportedError


def min_runtime(op_versions: Mapping[str, int]) -> str:
    """Return the first TFLite version that has every op at its version.

    Args:
        op_versions: Highest version of each builtin op, by the schema's name.

    Raises:
        UnsupportedError: No known runtime has an op at its version.

    Example:
        >>> min_runtime({"FULLY_CONNECTED": 9}), min_runtime({"FULLY_CONNECTED": 12})
        ('2.14.0', '2.18.0')
    """
    for runtime, known in _table().items():
        if all(version <= known.get(op, 0) for op, version in op_versions.items()):
            return runtime
    newest, known = list(_table().items())[-1]
    odd = [f"{op} {version}" for op, version in op_versions.items() if version > known.get(op, 0)]
    raise UnsupportedError(
        f"TFLite {newest} does not have op {', '.join(odd)}",
        advice="Convert the model with an older converter, or update fieldloop.",
    )


@cache
def _table() -> dict[str, dict[str, int]]:
    """Return the whole table of every runtime, oldest first."""
    text = resources.files("fieldloop_cloud.compile").joinpath("op_versions.json").read_text()
    table: dict[str, dict[str, int]] = {}
    known: dict[str, int] = {}
    for runtime, added in json.loads(text).items():
        known = known | added
        table[runtime] = known
    return table
