"""A machine of another kind, emulated: Debian's Python with the wheels that such a machine gets.

Packages come from the system's own package sources, in another architecture and into a folder;
nothing is installed on this machine but the emulator. Wheels are those that pip would choose
there. Speed under emulation says nothing; answers do.
"""

import os
import shlex
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

PYTHON = "3.11"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of machine.

    Attributes:
        name: As in wheels' names.
        debian: As Debian names the architecture.
        emulator: The user-mode emulator and its options.
        packages: What the machine needs from Debian besides Python.
    """

    name: str
    debian: str
    emulator: tuple[str, ...]
    packages: tuple[str, ...] = ()


HERE = "x86_64"
"""This machine: its own Python without an emulator, with wheels in a folder all the same."""

KINDS = {
    HERE: Kind(HERE, "amd64", ()),
    # LiteRT asks for instructions that the emulator's default processor lacks.
    "aarch64": Kind("aarch64", "arm64", ("qemu-aarch64-static", "-cpu", "cortex-a72")),
}


class Machine:
    """An emulated machine below a folder.

    Args:
        kind: Which kind.
        folder: Where it lives; what is there already is used again.
    """

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        self._root = folder / kind.name / "root"
        self._sites = folder / kind.name / "sites"
        self._apt = folder / kind.name / "apt"
        self._launcher = folder / kind.name / "launcher" / "python"

    def prepare(self) -> None:
        """Unpack Python and what it needs.

        Raises:
            subprocess.CalledProcessError: A package cannot be had.
        """
        if self.kind.name == HERE or (self._root / "ready").exists():
            return
        for part in ("lists/partial", "cache/archives/partial"):
            (self._apt / part).mkdir(parents=True, exist_ok=True)
        (self._apt / "status").write_text("")
        configuration = self._apt / "apt.conf"
        configuration.write_text(
            f'APT::Architecture "{self.kind.debian}";\n'
            f'APT::Architectures {{ "{self.kind.debian}"; }};\n'
            f'Dir::State "{self._apt}";\nDir::State::status "{self._apt}/status";\n'
            f'Dir::Cache "{self._apt}/cache";\nAPT::Install-Recommends "false";\n'
            'APT::Sandbox::User "root";\n'
        )
        environment = {**os.environ, "APT_CONFIG": str(configuration)}
        wanted = [f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6"]
        apt = ["apt-get", "-y", "-qq"]
        _run([*apt, "update"], environment)
        _run([*apt, "install", "--download-only", *wanted, *self.kind.packages], environment)
        for package in sorted((self._apt / "cache/archives").glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(self._root)])
        self._write_launcher()
        (self._root / "ready").touch()

    def _write_launcher(self) -> None:
        """Let the machine's Python start itself again, as the doctor does, under the emulator."""
        self._launcher.parent.mkdir(exist_ok=True)
        python = self._root / f"usr/bin/python{PYTHON}"
        command = shlex.join([*self.kind.emulator, "-L", str(self._root), str(python)])
        self._launcher.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        self._launcher.chmod(0o755)
        (self._launcher.parent / "sitecustomize.py").write_text(
            f"import sys\nsys.executable = {str(self._launcher)!r}\n"
        )

    def site(self, name: str, requirements: list[str]) -> Path:
        """Return a folder with the wheels of these requirements, dependencies included."""
        site = self._sites / name
        if (site / "ready").exists():
            return site
        wheels = self._sites / f"{name}-wheels"
        wheels.mkdir(parents=True, exist_ok=True)
        glibcs = ["2_36", "2_35", "2_34", "2_31", "2_28", "2_27", "2_17"]
        platforms = [f"manylinux_{glibc}_{self.kind.name}" for glibc in glibcs]
        platforms += [f"manylinux2014_{self.kind.name}", f"linux_{self.kind.name}"]
        tags = [f"--platform={platform}" for platform in platforms]
        tags += ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
        tags += ["--abi=cp311", "--abi=abi3", "--abi=none"]
        pip = [sys.executable, "-m", "pip", "download", "--quiet"]
        _run([*pip, *tags, "--dest", str(wheels), *requirements])
        for wheel in wheels.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(site)
        (site / "ready").touch()
        return site

    def run(
        self, paths: list[Path], arguments: list[str], *, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run Python on the machine.

        Args:
            paths: Its PYTHONPATH.
            arguments: Of Python.
            stdin: What it reads.
        """
        settings = {
            "PYTHONPATH": ":".join(str(path) for path in paths),
            "OPENBLAS_NUM_THREADS": "1",
        }
        if self.kind.name == HERE:
            # Not the virtual environment's Python, whose packages would be found as well.
            command = [str(Path(sys.executable).resolve()), *arguments]
        else:
            settings["PYTHONPATH"] = f"{self._launcher.parent}:{settings['PYTHONPATH']}"
            command = [str(self._launcher), *arguments]
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            env={**os.environ, **settings},
        )


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
