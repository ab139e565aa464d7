"""Every Keras Applications family to TFLite, in both device runtimes; writes `families.md`.

    python tools/bench/families.py [MEMBER ...]

The smallest member of each family with fieldloop's folded preprocessing, a reduced input and random
weights is converted to float32, dynamic and int8, each in a process that may be killed, loaded in
LiteRT and in tflite-runtime 2.14, and compared with the Keras model. Random weights say nothing
about accuracy in int8; the table says what converts, loads and computes the same.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "families.md"
sys.path.insert(0, str(ROOT))  # the other runtime's environment is the tests'

from tests.support.runtimes import Worker  # noqa: E402 - the same

from fieldloop.errors import FieldloopError  # noqa: E402 - after the path
from fieldloop.interpreter import open_engine  # noqa: E402 - the same
from fieldloop.manifest import Precision  # noqa: E402 - the same
from fieldloop.signature import ImageSpec  # noqa: E402 - the same
from fieldloop_cloud.compile.inspect import inspect  # noqa: E402 - the same
from fieldloop_cloud.compile.keras import compiler  # noqa: E402 - the same
from fieldloop_cloud.train.transfer.families import FAMILIES, family_of  # noqa: E402 - the same
from fieldloop_cloud.train.transfer.plan import TransferPlan, plan_transfer  # noqa: E402 - the same

PRECISIONS: tuple[Precision, ...] = ("float32", "dynamic", "int8")
CLASSES = 10
ROWS = 16
SETTLED = 64
"""Rows whose statistics batch normalization is given."""


def plan_of(member: str) -> TransferPlan:
    """Return the plan of a member at its family's smallest input."""
    family = family_of(member)
    image = ImageSpec(height=family.min_side, width=family.min_side, channels=3, scale=1.0 / 255.0)
    alpha = family.alphas[0] if family.has_width else 1.0
    return plan_transfer(image, CLASSES, member=member, alpha=alpha, weights=None)


def save(members: list[str], folder: Path) -> None:
    """Build each member and save it as `.keras`; runs in a process of its own."""
    from fieldloop_cloud.train.nets.build import build  # noqa: PLC0415 - loads TensorFlow

    for member in members:
        plan = plan_of(member)
        model = build(plan)
        settle(model, rows_of(plan, SETTLED))
        model.save(folder / f"{member}.keras")


def settle(model: Any, X: NDArray[np.float32]) -> None:
    """Give batch normalization the statistics of these rows.

    Otherwise the features of a net with drawn weights fade to nothing on their way, and every
    flatbuffer seems to compute the same.
    """
    layers = [
        layer
        for layer in model.get_layer("backbone").layers
        if type(layer).__name__ == "BatchNormalization"
    ]
    for layer in layers:
        layer.momentum = 0.0
    model(X, training=True)


def rows_of(plan: TransferPlan, count: int = ROWS) -> NDArray[np.float32]:
    """Return encoded pictures with some structure."""
    random = np.random.default_rng(0)
    coarse = random.random((count, 8, 8, 3), dtype=np.float32)
    side = plan.height
    places = np.arange(side) * 8 // side
    return coarse[:, places][:, :, places]


def measured(member: str, folder: Path, old: Worker) -> list[str]:
    """Return one line a precision."""
    plan = plan_of(member)
    X = rows_of(plan)
    try:
        compile_to = compiler(folder / f"{member}.keras", PRECISIONS, example=X)
    except FieldloopError as error:
        return [f"| {member} | all | {error} | | | | |"]
    lines, reference = [], None
    for precision in PRECISIONS:
        try:
            model = compile_to(precision).tflite
        except FieldloopError as error:
            lines.append(f"| {member} | {precision} | {error} | | | | |")
            continue
        made = {"litert": tried(lambda m=model: fresh(m, X))}
        made["2.14"] = tried(lambda m=model: old.run(m, [X])[0][0])
        if reference is None:
            reference = made["litert"]
        facts = inspect(model)
        cells = [
            f"{facts.size_bytes / 1000:,.0f} kB",
            facts.min_runtime,
            *(deviation(made[name], reference) for name in made),
        ]
        side = f"{plan.height} x {plan.width}"
        lines.append(f"| {member} | {precision} | {side} | " + " | ".join(cells) + " |")
    return lines


def fresh(model: bytes, X: NDArray[np.float32]) -> NDArray[Any]:
    """Run in LiteRT."""
    engine = open_engine(model)
    try:
        return engine.run([X])[0]
    finally:
        engine.close()


def tried(run: Any) -> Any:
    """Return what a runtime gives, or why it does not."""
    try:
        return run()
    except (FieldloopError, RuntimeError) as error:
        return str(error)


def deviation(made: Any, reference: Any) -> str:
    """Return the largest deviation of probabilities from the float32 reference, as text."""
    if isinstance(made, str):
        return made.splitlines()[0][:80]
    if isinstance(reference, str):
        return "runs"
    return f"{np.abs(made - reference).max():.1e}"


def main(members: list[str]) -> None:
    """Measure and write the table; rows of other members stay as they are."""
    old = Worker()
    for member in members:
        with tempfile.TemporaryDirectory(prefix="fieldloop-families-") as name:
            folder = Path(name)
            command = [sys.executable, __file__, "--save", name, member]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            made = measured(member, folder, old)
        print("\n".join(made), flush=True)
        write(member, made)
    old.close()


def write(member: str, made: list[str]) -> None:
    """Put a member's lines into the table, in the order of the families."""
    known = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    lines = {
        name: [line for line in known if line.startswith(f"| {name} |")]
        for name in (family.members[0] for family in FAMILIES)
    } | {member: made}
    RESULTS.write_text(HEAD + "".join(f"{line}\n" for part in lines.values() for line in part))


HEAD = """# Keras Applications on the device

The smallest member of each family with folded preprocessing, its smallest input and random weights,
converted in a process of its own. The last two columns are the largest deviation of a probability
from the float32 flatbuffer in LiteRT, in each runtime; float32 itself is held to 1e-4 against
Keras. Random weights amplify rounding: the deviations of the quantized say nothing about accuracy.

| member | precision | input | size | oldest runtime | LiteRT | tflite-runtime 2.14 |
|---|---|---|---:|---|---:|---:|
"""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--save"]:
        save(sys.argv[3:], Path(sys.argv[2]))
    else:
        main(sys.argv[1:] or [family.members[0] for family in FAMILIES])
