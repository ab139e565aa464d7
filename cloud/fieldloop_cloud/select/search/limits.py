"""The device's limits that can be judged before anything is trained.

Each is a lower bound: what the flatbuffer must hold, and what its arithmetic must take on the
fastest processor of the device's kind. Who is over it here is over it in truth.
"""

from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.select.candidates import Candidate, Settings
from fieldloop_cloud.select.choice import Overrun

_FLOAT_BYTES = 4
_SMALLER = {"int8": 1, "dynamic": 1, "mixed": 1, "int16x8": 1, "float16": 2}


def early_overruns(
    candidate: Candidate, settings: Settings, data: Dataset, target: Target
) -> dict[str, Overrun]:
    """Return the limits that a setting must break, by name; empty if it may fit."""
    if candidate.least_values is None:
        return {}
    values = candidate.least_values(data, settings)
    per_value = min(_SMALLER.get(precision, _FLOAT_BYTES) for precision in target.precisions)
    return _over("bytes", values * per_value, target.max_model_bytes, "bytes at least") | _over(
        "latency",
        target.least_latency_ms(values),
        target.latency_budget_ms,
        "ms of arithmetic at least",
    )


def _over(name: str, least: float, limit: float, unit: str) -> dict[str, Overrun]:
    if least <= limit:
        return {}
    text = f"{least:,.6g} {unit} of {limit:,.6g}"
    return {name: Overrun(text=text, factor=least / limit, name=name)}
