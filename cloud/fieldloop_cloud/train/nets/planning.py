"""Planning: the largest of our nets whose int8 form fits a device, known before it is built.

The arithmetic here is a first filter; `estimate` exports the untrained net and measures.
"""

from collections.abc import Iterator
from typing import Literal, TypeVar

from fieldloop.errors import ConfigError, DataError, GateError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.train.nets.plans import Cnn1dPlan, CnnPlan, GruPlan, MlpPlan, NetPlan

Plan = TypeVar("Plan", CnnPlan, MlpPlan, Cnn1dPlan, GruPlan)

PlanKind = Literal["cnn", "mlp", "cnn1d", "gru"]

FIXED_BYTES = 8_192
"""Graph, options and alignment around the weights, generously."""

_BYTES_PER_STEP = 1_400
"""What one unrolled step adds to a file: ops and tensors with their names."""

_MIN_SIDE = 4
_MAX_FILTERS = 128
_FLAT_LIMIT = 2048
_MAX_UNROLLED = 32
_MIN_STEPS = 8


def plan_net(kind: PlanKind, data: Dataset, *, max_model_bytes: int = 1_000_000) -> NetPlan:
    """Plan the largest of our nets of a kind whose int8 form fits the budget.

    Args:
        kind: `cnn` for images, `mlp` for tables, `cnn1d` or `gru` for sensor windows.
        data: What it will be trained on; only the form of the rows is read.
        max_model_bytes: Largest flatbuffer allowed, in its smallest precision.

    Raises:
        ConfigError: No such kind.
        DataError: The data are of another kind.
        GateError: Even the smallest net is too large, or the input too small.
    """
    wanted = {"cnn": "image", "mlp": "tabular", "cnn1d": "series", "gru": "series"}
    if kind not in wanted:
        raise ConfigError(f"there is no net '{kind}'", advice=f"Use one of {', '.join(wanted)}.")
    if data.kind != wanted[kind]:
        fitting = [name for name, form in wanted.items() if form == data.kind]
        raise DataError(
            f"a net of kind '{kind}' takes {wanted[kind]} data, these are {data.kind}",
            where=data.name,
            advice=f"Use {' or '.join(fitting)}.",
        )
    classes = len(data.labels)
    if kind == "cnn":
        assert data.image is not None
        return plan_cnn(data.image, classes, max_model_bytes=max_model_bytes)
    if kind == "mlp":
        columns = tuple(len(spec.categories) for spec in data.features)
        return plan_mlp(columns, classes, max_model_bytes=max_model_bytes)
    steps, channels = data.X.shape[1:]
    plan = plan_cnn1d if kind == "cnn1d" else plan_gru
    return plan(steps, channels, classes, max_model_bytes=max_model_bytes)


def plan_cnn(image: ImageSpec, class_count: int, *, max_model_bytes: int) -> CnnPlan:
    """Plan a convolutional net; 0 classes for a regression.

    Raises:
        GateError: Even the smallest net is too large, or the image is too small to convolve.
    """
    side = min(image.height, image.width)
    if side < _MIN_SIDE:
        raise GateError(
            f"images of {image.height} x {image.width} are too small for a convolutional net",
            advice="Use a classical candidate.",
        )
    # Pool until about 4 pixels are left on the shorter side, at most five times.
    pools = max(1, min(5, (side // _MIN_SIDE).bit_length() - 1))

    def plan(base: int) -> CnnPlan:
        filters = tuple(min(_MAX_FILTERS, base * 2**step) for step in range(pools + 1))
        pixels = (image.height // 2**pools) * (image.width // 2**pools)
        return CnnPlan(
            height=image.height,
            width=image.width,
            channels=image.channels,
            filters=filters,
            flatten=pixels * filters[-1] <= _FLAT_LIMIT,
            dense=3 * base,
            classes=class_count,
        )

    return _largest((plan(base) for base in (16, 8, 4)), max_model_bytes, "Use smaller images")


def plan_mlp(columns: tuple[int, ...], class_count: int, *, max_model_bytes: int) -> MlpPlan:
    """Plan dense layers; for each column 0 (a number) or its count of categories.

    Raises:
        GateError: Even the smallest net is too large.
    """
    shapes = ((128, 64), (64, 32), (32, 16), (16,), (8,))
    plans = (MlpPlan(columns=columns, hidden=hidden, classes=class_count) for hidden in shapes)
    return _largest(plans, max_model_bytes, "Drop columns")


def plan_cnn1d(steps: int, channels: int, class_count: int, *, max_model_bytes: int) -> Cnn1dPlan:
    """Plan convolutions over time.

    Raises:
        GateError: Even the smallest net is too large, or the window too short.
    """
    _check_steps(steps)
    pools = max(1, min(4, (steps // _MIN_STEPS).bit_length() - 1))

    def plan(base: int) -> Cnn1dPlan:
        return Cnn1dPlan(
            steps=steps,
            channels=channels,
            filters=tuple(min(_MAX_FILTERS, base * 2**step) for step in range(pools + 1)),
            kernel_size=5 if steps >= 2 * _MIN_STEPS else 3,
            dense=2 * base,
            classes=class_count,
        )

    return _largest((plan(base) for base in (16, 8, 4)), max_model_bytes, "Use shorter windows")


def plan_gru(steps: int, channels: int, class_count: int, *, max_model_bytes: int) -> GruPlan:
    """Plan a recurrent net of at most 32 unrolled steps.

    Raises:
        GateError: Even the smallest net is too large, or the window too short.
    """
    _check_steps(steps)
    stride = -(-steps // _MAX_UNROLLED)

    def plan(units: int) -> GruPlan:
        return GruPlan(
            steps=steps,
            channels=channels,
            kernel_size=max(5, stride),
            stride=stride,
            filters=max(units // 2, 4),
            units=units,
            classes=class_count,
        )

    unrolled = _BYTES_PER_STEP * -(-steps // stride)
    plans = (plan(units) for units in (32, 16, 8))
    return _largest(plans, max_model_bytes, "Use shorter windows", beside=unrolled)


def _check_steps(steps: int) -> None:
    if steps < _MIN_SIDE:
        raise GateError(
            f"windows of {steps} readings are too short for a net over time",
            advice="Use longer windows or a classical candidate.",
        )


def _largest(plans: Iterator[Plan], max_model_bytes: int, remedy: str, *, beside: int = 0) -> Plan:
    smallest = 0
    for plan in plans:
        smallest = plan.parameter_count + FIXED_BYTES + beside
        if smallest <= max_model_bytes:
            return plan
    raise GateError(
        f"the smallest net of this kind needs {smallest} bytes in int8",
        where=f"the device allows {max_model_bytes} bytes",
        advice=f"{remedy} or a larger device.",
    )
