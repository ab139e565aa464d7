"""What a net will cost a device, before it is trained: measured on its untrained flatbuffer."""

import tempfile
from pathlib import Path

import msgspec

from fieldloop.errors import (
    ConfigError,
    EnvironmentFaultError,
    GateError,
    ModelRuntimeError,
    UnsupportedError,
)
from fieldloop_cloud.compile.conversion import INSTALL_DEEP, missing_packages
from fieldloop_cloud.compile.inspect import inspect
from fieldloop_cloud.compile.worker import Progress, last_line, quiet, run_worker
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.train.nets.macs import mac_count
from fieldloop_cloud.train.nets.plans import NetPlan

WORKER = "fieldloop_cloud.train.nets.costing_worker"
"""Module that exports; its argument is the job's directory."""

_TIMEOUT_S = 300.0
_QUARTER = 4


class NetCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a net costs, in float32, one row at a time.

    Attributes:
        parameter_count: Trainable parameters, as Keras counts them.
        mac_count: Multiplications with addition for one row.
        weight_bytes: Of the flatbuffer's constants.
        arena_bytes: Of what is computed for one row, without the kernels' own scratch.
        size_bytes: Of the flatbuffer.
    """

    parameter_count: int
    mac_count: int
    weight_bytes: int
    arena_bytes: int
    size_bytes: int

    @property
    def int8_size_bytes(self) -> int:
        """About the size of the int8 flatbuffer: a quarter of the weights, and the rest."""
        return self.size_bytes - self.weight_bytes + self.weight_bytes // _QUARTER

    def check(self, target: Target) -> "NetCost":
        """Return self if the net can fit a device in its smallest precision.

        Raises:
            GateError: It cannot; says by how much.
        """
        smallest = self.int8_size_bytes if "int8" in target.precisions else self.size_bytes
        arena = self.arena_bytes // (_QUARTER if "int8" in target.precisions else 1)
        for name, needed, allowed in (
            ("the flatbuffer", smallest, target.max_model_bytes),
            ("the model in memory", smallest + arena, target.ram_bytes),
        ):
            if needed > allowed:
                raise GateError(
                    f"{name} would take about {needed:,} bytes",
                    where=f"{target.name} allows {allowed:,}",
                    advice="Plan a smaller net or smaller rows.",
                )
        least_ms = target.least_latency_ms(self.mac_count)
        if least_ms > target.latency_budget_ms:
            raise GateError(
                f"{self.mac_count:,} multiplications a row would take {least_ms:.3g} ms or more",
                where=f"{target.name} allows {target.latency_budget_ms:g} ms",
                advice="Plan a smaller net or smaller rows.",
            )
        return self


def estimate(plan: NetPlan, *, progress: Progress = quiet) -> NetCost:
    """Measure an untrained net; some seconds, in a process of its own.

    Raises:
        ConfigError: What is given is no plan.
        EnvironmentFaultError: The packages for nets are not installed.
        UnsupportedError: The net does not convert to builtin ops.
        ModelRuntimeError: The converter aborted.
    """
    if not isinstance(plan, NetPlan):
        raise ConfigError(
            f"{plan!r} is no plan of a net", advice="Give what plan_net(kind, data) returns."
        )
    (found,) = estimate_all((plan,), progress=progress)
    if isinstance(found, UnsupportedError):
        raise found
    return found


def estimate_all(
    plans: tuple[NetPlan, ...], *, progress: Progress = quiet
) -> tuple[NetCost | UnsupportedError, ...]:
    """Measure several untrained nets in one process; what does not convert is told in its place.

    Raises:
        EnvironmentFaultError: The packages for nets are not installed.
        ModelRuntimeError: The converter aborted.
    """
    if missing := missing_packages():
        raise EnvironmentFaultError(
            f"a net cannot be measured here: {missing}",
            advice=f"Install the packages for nets: {INSTALL_DEEP}.",
        )
    with tempfile.TemporaryDirectory(prefix="fieldloop-estimate-") as folder:
        job = Path(folder)
        (job / "plans.json").write_bytes(msgspec.json.encode(plans))
        end = run_worker(WORKER, job, timeout_s=_TIMEOUT_S, progress=progress)
        if not (job / "done").exists():
            raise ModelRuntimeError(
                f"the untrained net could not be measured: {last_line(end.tail)}",
                advice="Plan a simpler net.",
            )
        return tuple(_read(job, number) for number in range(len(plans)))


def _read(job: Path, number: int) -> NetCost | UnsupportedError:
    error = job / f"{number}.error"
    if error.exists():
        return UnsupportedError(
            f"the net does not convert: {last_line(error.read_text())}",
            where=f"plan {number + 1}",
            advice="Plan another net.",
        )
    tflite = (job / f"{number}.tflite").read_bytes()
    found = inspect(tflite)
    return NetCost(
        parameter_count=int((job / f"{number}.parameters").read_text()),
        mac_count=mac_count(tflite),
        weight_bytes=found.weight_bytes,
        arena_bytes=found.arena_bytes,
        size_bytes=found.size_bytes,
    )
