"""Measures fieldloop side by side with its peers and writes `tools/bench/NAME.md` for each bench.

    make bench                        all of them: an hour or more
    make bench BENCH="classical device"

Peers live in environments of their own, `.venv-NAME`, made from `peers-requirements*.txt` when a
bench needs them.
"""

import argparse
import platform
import subprocess
import sys
import venv
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True, slots=True)
class Bench:
    """One script.

    Attributes:
        title: Heading of the page.
        versions: Packages whose versions are shown.
        peers: Environments of peers, whose Pythons the script gets as arguments, with the packages
            whose versions are shown.
        shared: Packages that the peers must have in our versions, because fitted models pass
            between them.
        arguments: More of them.
        writes: Whether the script writes its page itself, line by line because it takes long;
            otherwise it prints it, and gets a heading here.
    """

    title: str
    versions: tuple[str, ...] = ()
    peers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    shared: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    writes: bool = False


OURS = ("ai-edge-litert", "scikit-learn", "numpy")

BENCHES = {
    "classical": Bench(
        "Classical models beside their peers",
        OURS,
        peers=(
            ("peers", ("onnxruntime", "skl2onnx", "onnx")),
            ("peers-hummingbird", ("hummingbird-ml", "torch")),
        ),
        shared=("scikit-learn", "numpy", "joblib"),
    ),
    "device": Bench("The device runtime beside the bare interpreter", OURS),
    "curves": Bench("Learning curves", writes=True),
    "sparse": Bench("Nets with less in them", writes=True),
    "transfer": Bench("Transfer learning", writes=True),
    "families": Bench("Keras Applications on the device", writes=True),
    "selection": Bench(
        "Choosing a model beside FLAML and AutoGluon", peers=(("peers-automl", ()),), writes=True
    ),
}


def peers_python(name: str, shared: tuple[str, ...]) -> Path:
    """Return the Python of an environment of peers; make it if it is not complete."""
    environment = ROOT / f".venv-{name}"
    python = environment / "bin" / "python"
    done = environment / "complete"
    requirements = HERE / f"peers-requirements{name.removeprefix('peers')}.txt"
    wanted = requirements.read_text() + "".join(
        f"{package}=={metadata.version(package)}\n" for package in shared
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


def run(name: str) -> None:
    """Run one bench; its page appears when it went through."""
    bench = BENCHES[name]
    pythons = [peers_python(peers, bench.shared) for peers, _ in bench.peers]
    command = [sys.executable, str(HERE / f"{name}.py"), *map(str, pythons), *bench.arguments]
    if bench.writes:
        subprocess.run(command, check=True)
        return
    versions = versions_in(Path(sys.executable), bench.versions)
    for python, (_, packages) in zip(pythons, bench.peers, strict=True):
        versions += versions_in(python, packages)
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    page = (
        f"# {bench.title}\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}; "
        f"{', '.join(versions)}. Ratios carry over to other machines, digits do not.\n\n"
        f"{made.stdout.rstrip()}\n"
    )
    (HERE / f"{name}.md").write_text(page)
    print(page)


def main() -> None:
    """Run the named benches."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    names = parser.parse_args().names or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        parser.error(f"there is no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    for name in names:
        print(f"running {name} ...", file=sys.stderr)
        run(name)


if __name__ == "__main__":
    main()
