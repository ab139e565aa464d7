"""Runs every bench and writes `tools/bench/results.md`.

    make bench

The peers live in an environment of their own, `.venv-peers`, made from `peers-requirements.txt`.
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
ENVIRONMENT = ROOT / ".venv-peers"
REQUIREMENTS = HERE / "peers-requirements.txt"
RESULTS = HERE / "results.md"
BENCHES = {"Classical models": "classical.py"}
SHARED = ("scikit-learn", "numpy", "joblib")
"""Packages that must be the same on both sides, because fitted models pass between them."""

SHOWN = ("ai-edge-litert", "scikit-learn", "numpy")
PEERS_SHOWN = ("onnxruntime", "skl2onnx", "hummingbird-ml", "torch")


def peers_python() -> Path:
    """Return the peers' Python; make their environment if it is not complete."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / "complete"
    wanted = REQUIREMENTS.read_text() + "".join(
        f"{name}=={metadata.version(name)}\n" for name in SHARED
    )
    if done.exists() and done.read_text() == wanted:
        return python
    print("making the peers' environment ...", file=sys.stderr)
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    listed = ENVIRONMENT / "requirements.txt"
    listed.write_text(wanted)
    install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(listed)]
    subprocess.run(install, check=True)
    done.write_text(wanted)
    return python


def peers_versions(python: Path) -> list[str]:
    """Return name and version of the peers."""
    code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
    made = subprocess.run(
        [str(python), "-c", code, *PEERS_SHOWN], capture_output=True, text=True, check=True
    )
    return [f"{name} {v}" for name, v in zip(PEERS_SHOWN, made.stdout.split(), strict=True)]


def heading(python: Path) -> str:
    """Say where and when this was measured."""
    versions = [f"{name} {metadata.version(name)}" for name in SHOWN] + peers_versions(python)
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
    python = peers_python()
    parts = [heading(python)]
    for title, script in BENCHES.items():
        command = [sys.executable, str(HERE / script), str(python)]
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        parts.append(f"## {title}\n\n{made.stdout}")
    RESULTS.write_text("\n".join(parts))
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
