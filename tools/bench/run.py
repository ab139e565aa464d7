"""Runs every bench and writes `tools/bench/results.md`.

    make bench

The peers live in environments of their own, `.venv-peers` and `.venv-peers-hummingbird`, made from
`peers-requirements.txt` and `peers-requirements-hummingbird.txt`.
"""

import platform
import subprocess
import sys
import venv
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.md"
BENCHES = {"Classical models": "classical.py"}
SHARED = ("scikit-learn", "numpy", "joblib")
"""Packages that must be the same on both sides, because fitted models pass between them."""

SHOWN = ("ai-edge-litert", "scikit-learn", "numpy")
PEERS = {
    "peers": ("onnxruntime", "skl2onnx", "onnx"),
    "peers-hummingbird": ("hummingbird-ml", "torch"),
}
"""Environments, and the packages in them whose versions are shown."""


def peers_python(name: str) -> Path:
    """Return the Python of an environment of peers; make it if it is not complete."""
    environment = ROOT / f".venv-{name}"
    python = environment / "bin" / "python"
    done = environment / "complete"
    requirements = HERE / f"peers-requirements{name.removeprefix('peers')}.txt"
    wanted = requirements.read_text() + "".join(
        f"{name}=={metadata.version(name)}\n" for name in SHARED
    )
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"making {environment.name} ...", file=sys.stderr)
    venv.create(environment, clear=True, with_pip=True)
    listed = environment / "requirements.txt"
    listed.write_text(wanted)
    install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(listed)]
    subprocess.run(install, check=True)
    done.write_text(wanted)
    return python


def versions_in(python: Path, packages: tuple[str, ...]) -> list[str]:
    """Return name and version of packages in an environment."""
    code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    made = subprocess.run(
        [str(python), "-c", code, *packages], capture_output=True, text=True, check=True
    )
    return [f"{name} {v}" for name, v in zip(packages, made.stdout.split(), strict=True)]


def heading(pythons: dict[str, Path]) -> str:
    """Say where and when this was measured."""
    versions = versions_in(Path(sys.executable), SHOWN)
    for name, python in pythons.items():
        versions += versions_in(python, PEERS[name])
    return (
        "# Measured side by side\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}; "
        f"{', '.join(versions)}. One thread. Latencies are medians of single calls from Python, "
        "the contenders in turns; ratios carry over to other machines, digits do not. Labels and "
        "probabilities are compared with scikit-learn's on the same rows; an int8 model is given "
        "the quantized rows, so its deviation is that of the quantization.\n"
    )


def main() -> None:
    """Run all benches; the results appear only when all went through."""
    pythons = {name: peers_python(name) for name in PEERS}
    parts = [heading(pythons)]
    for title, script in BENCHES.items():
        command = [sys.executable, str(HERE / script), *map(str, pythons.values())]
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        parts.append(f"## {title}\n\n{made.stdout}")
    RESULTS.write_text("\n".join(parts))
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
