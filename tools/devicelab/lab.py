"""The device lab: does the device package work on other machines, with their real wheels?

Each row of the table is run: the doctor, the golden replay of a self-test, and `run` on raw
inputs, whose answers must be those of this machine. Emulated speed says nothing and is not shown.

    python tools/devicelab/lab.py [--folder DIR] [--keep]

Needs `qemu-user-static`, and apt for the packages of the other machine.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from emulated import HERE, KINDS, Machine
from models import Case, make_cases

from fieldloop.device_root import read_active

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results.md"
ELSEWHERE = {"broker", "clock"}
"""What the doctor rightly misses here: no broker runs, and the machine's clock is this one's."""
DEPENDENCIES = ["msgspec", "paho-mqtt", "cryptography", "click"]


@dataclass(frozen=True, slots=True)
class Combination:
    """A machine and a backend with its NumPy."""

    machine: str
    backend: str
    requirements: tuple[str, ...]


COMBINATIONS = (
    Combination("x86_64", "tflite-runtime 2.14.0", ("tflite-runtime==2.14.0", "numpy<2")),
    Combination("x86_64", "ai-edge-litert 1.1.2", ("ai-edge-litert==1.1.2",)),
    Combination("x86_64", "ai-edge-litert 1.4.0", ("ai-edge-litert==1.4.0",)),
    Combination("x86_64", "ai-edge-litert 2.1.6", ("ai-edge-litert==2.1.6",)),
    Combination("x86_64", "ai-edge-litert 2.3.0", ("ai-edge-litert==2.3.0",)),
    Combination("aarch64", "tflite-runtime 2.14.0", ("tflite-runtime==2.14.0", "numpy<2")),
    Combination("aarch64", "ai-edge-litert 1.4.0", ("ai-edge-litert==1.4.0",)),
    Combination("aarch64", "ai-edge-litert 2.1.6", ("ai-edge-litert==2.1.6",)),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one combination did."""

    combination: Combination
    python: str
    passed: int
    case_count: int
    problems: tuple[str, ...]


def main() -> int:
    """Run every combination and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where machines live; kept if it is named")
    options = parser.parse_args()
    if not shutil.which("qemu-aarch64-static"):
        sys.exit("error: qemu-user-static is not installed. Install it with the package manager.")
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="devicelab-"))).resolve()
    try:
        with tempfile.TemporaryDirectory() as work:
            cases = make_cases(Path(work) / "home")
            verdicts = [_try(item, cases, folder, Path(work)) for item in COMBINATIONS]
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    table = _table(verdicts)
    RESULTS.write_text(table)
    print(table)
    return 0 if all(not verdict.problems for verdict in verdicts) else 1


def _try(combination: Combination, cases: list[Case], folder: Path, work: Path) -> Verdict:
    print(f"{combination.backend} on {combination.machine} …", file=sys.stderr)
    machine = Machine(KINDS[combination.machine], folder)
    machine.prepare()
    name = combination.backend.replace(" ", "-")
    site = machine.site(name, [*combination.requirements, *DEPENDENCIES])
    paths = [REPOSITORY / "sdk", REPOSITORY / "device", site]
    python = machine.run(paths, ["-c", "import platform as p; print(p.python_version())"])
    problems = []
    for case in cases:
        problem = _replay(machine, paths, case, work / name / case.name, work / "home")
        if problem:
            problems.append(f"{case.name}: {problem}")
            print(f"  {problems[-1]}", file=sys.stderr)
    version = python.stdout.strip()
    return Verdict(combination, version, len(cases) - len(problems), len(cases), tuple(problems))


def _replay(machine: Machine, paths: list[Path], case: Case, root: Path, home: Path) -> str:
    """Return what went wrong; empty if nothing did."""
    fieldloop = Path(sys.executable).with_name("fieldloop")
    device = f"lab-{case.name}-{root.parent.name}".lower().replace(".", "-")
    _here([fieldloop, "provision", device, "--class", "pi4", "--home", home, "--to", root])
    _here([fieldloop, "flash", case.bundle, "--to", root])
    doctor = ["-m", "fieldloop_device.cli", "doctor", "--root", str(root), "--json"]
    findings = [json.loads(line) for line in machine.run(paths, doctor).stdout.splitlines()]
    wrong = [item for item in findings if not item["is_fine"] and item["check"] not in ELSEWHERE]
    if wrong or not findings:
        return f"the doctor says: {wrong}"
    slot = read_active(root)
    assert slot is not None
    test = machine.run(paths, ["-m", "fieldloop_device.selftest", str(root), slot])
    if test.returncode:
        return f"the golden replay failed: {test.stdout} {_tail(test)}"
    run = machine.run(
        paths, ["-m", "fieldloop_device.cli", "run", "--root", str(root)], stdin=case.rows
    )
    said = [json.loads(line).get("label") for line in run.stdout.splitlines()]
    if said != case.labels:
        return f"it answers {said} instead of {case.labels}: {_tail(run)}"
    return ""


def _here(command: list[object]) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split())[-300:]


def _table(verdicts: list[Verdict]) -> str:
    lines = [
        "| machine | Python | backend | bundles replayed |",
        "|---|---|---|---|",
    ]
    for verdict in verdicts:
        backend = verdict.combination.backend
        how = "" if verdict.combination.machine == HERE else ", emulated"
        cells = (
            verdict.combination.machine + how,
            verdict.python,
            backend,
            f"{verdict.passed} of {verdict.case_count}",
        )
        lines.append(f"| {' | '.join(cells)} |")
        lines += [f"\n- {backend}: {problem}" for problem in verdict.problems]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
