"""Fresh environments with nothing but one of our packages, kept between runs.

They stand in the repository's root and are made again when a package's metadata changes; the
package itself is built and installed anew in every session.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_INSTALL_TIMEOUT_S = 600
_STAMP = "installed.sha256"

FOLDERS = {"fieldloop": "sdk", "fieldloop_device": "device", "fieldloop_cloud": "cloud"}


@dataclass(frozen=True)
class Environment:
    """A virtual environment in which only one package (and the SDK) was installed."""

    path: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def run(self, command, *arguments, **variables):
        """Run one of the environment's commands, away from the repository."""
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(
            [str(self.path / "bin" / command), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=self.path,
            env=inherited | variables,
        )

    def packages(self) -> dict[str, str]:
        """Return name and version of every distribution."""
        code = (
            "import importlib.metadata as m, json; "
            "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
        )
        return json.loads(self.run("python", "-c", code).stdout)


def _pip(python, *arguments):
    done = subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_INSTALL_TIMEOUT_S,
    )
    assert done.returncode == 0, f"pip {arguments[0]} failed:\n{done.stderr[-2000:]}"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """The wheels of all packages, built as for a release."""
    directory = tmp_path_factory.mktemp("wheels")
    sources = [ROOT / folder for folder in FOLDERS.values()]
    _pip(sys.executable, "wheel", "-q", "--no-deps", "-w", directory, *sources)
    found = {path.name.split("-")[0]: path for path in directory.glob("*.whl")}
    assert sorted(found) == sorted(FOLDERS)
    return found


def _constraints(extra_pins, tmp_path):
    """Write the workspace's pins without those that the extra's own pins contradict."""
    freed = {pin.split("==")[0] for pin in extra_pins} | ({"ml_dtypes"} if extra_pins else set())
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    path = tmp_path / "constraints.txt"
    path.write_text("\n".join(line for line in pinned if line.split("==")[0] not in freed))
    return path


def _environment(name, wheels, package, tmp_path, *, extra="", pins=()) -> Environment:
    environment = Environment(ROOT / f".venv-budget-{name}")
    ours = {"fieldloop": wheels["fieldloop"], package: wheels[package]}
    metadata = [ROOT / FOLDERS[item] / "pyproject.toml" for item in ours]
    content = b"".join(path.read_bytes() for path in [*metadata, ROOT / "constraints.txt"])
    wanted = hashlib.sha256(content + f"{sys.version}{extra}{pins}".encode()).hexdigest()
    stamp = environment.path / _STAMP
    lock_name = f"{hashlib.sha256(str(environment.path).encode()).hexdigest()[:16]}.lock"
    with Path(tempfile.gettempdir(), lock_name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # sessions may run side by side
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(environment.path, clear=True, with_pip=True)
            constraints = _constraints(pins, tmp_path)
            wanted_wheels = (ours["fieldloop"], f"{ours[package]}{extra}")
            _pip(environment.python, "install", "-q", "-c", constraints, *wanted_wheels, *pins)
            stamp.write_text(wanted)
        again = ("-q", "--no-deps", "--force-reinstall", *ours.values())
        _pip(environment.python, "install", *again)
    return environment


@pytest.fixture(scope="session")
def litert(wheels, tmp_path_factory):
    """`pip install fieldloop-device` as it comes: with LiteRT."""
    return _environment("litert", wheels, "fieldloop_device", tmp_path_factory.mktemp("litert"))


@pytest.fixture(scope="session")
def tflite(wheels, tmp_path_factory):
    """`pip install fieldloop-device[tflite]` with NumPy 1.26."""
    return _environment(
        "tflite",
        wheels,
        "fieldloop_device",
        tmp_path_factory.mktemp("tflite"),
        extra="[tflite]",
        pins=("numpy==1.26.4",),
    )


@pytest.fixture(scope="session")
def workstation(wheels, tmp_path_factory):
    """`pip install fieldloop-cloud` as it comes: without the extra for nets."""
    return _environment("cloud", wheels, "fieldloop_cloud", tmp_path_factory.mktemp("cloud"))
