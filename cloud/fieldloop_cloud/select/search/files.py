"""What trials need and leave, as files named by their SHA-256: whoever reads them checks it.

bench/bench.json        rows' meaning, device, rules, and the hashes of the arrays
bench/<part>.<array>.npy
bench/weights/…         the backbone, where there is one
artifacts/<sha256>      flatbuffers, held-out answers, outcomes
"""

import dataclasses
import hashlib
import io
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.errors import DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.files import write_file
from fieldloop_cloud.release.targets import Target
from fieldloop_cloud.train.bench import Bench, Fold
from fieldloop_cloud.train.transfer.backbone import Backbone

_WEIGHTS = "weights"
_HASH = re.compile(r"[0-9a-f]{64}")


class _BenchFile(msgspec.Struct, frozen=True, kw_only=True):
    """`bench.json`."""

    format: typing.Literal[1] = 1
    target: Target
    metric: str
    epsilon: float
    seed: int
    fold_count: int
    rows: dict[str, dict[str, Any]]
    arrays: dict[str, str]
    backbone: Backbone | None = None


def save_bench(bench: Bench, directory: Path) -> str:
    """Write rows and rules, and return the hash that `load_bench` wants."""
    parts = {"train": bench.train, "validation": bench.validation}
    arrays: dict[str, NDArray[Any]] = {}
    for name, data in parts.items():
        arrays |= {f"{name}.{key}": value for key, value in _arrays(data).items()}
    for number, fold in enumerate(bench.folds):
        arrays |= {f"fold-{number}.fit": fold.fit, f"fold-{number}.held": fold.held}
    hashes = {}
    for name, array in arrays.items():
        encoded = _npy(array)
        hashes[name] = hashlib.sha256(encoded).hexdigest()
        write_file(directory / f"{name}.npy", encoded, mode=0o600)
    backbone = bench.backbone
    if backbone is not None:
        for name, wanted in backbone.files.items():
            original = _checked(Path(backbone.weights).parent / name, wanted)
            write_file(directory / _WEIGHTS / name, original, mode=0o600)
    document = msgspec.json.encode(
        _BenchFile(
            target=bench.target,
            metric=bench.metric,
            epsilon=bench.epsilon,
            seed=bench.seed,
            fold_count=len(bench.folds),
            rows={name: _meaning(data) for name, data in parts.items()},
            arrays=hashes,
            backbone=backbone and backbone.named,
        ),
        order="deterministic",
    )
    write_file(directory / "bench.json", document, mode=0o600)
    return hashlib.sha256(document).hexdigest()


def load_bench(directory: Path, sha256: str, *, deadline: float) -> Bench:
    """Read what `save_bench` wrote.

    Raises:
        DataError: A file is missing, or is not the one that was written.
    """
    found = msgspec.json.decode(_checked(directory / "bench.json", sha256), type=_BenchFile)
    arrays = {
        name: np.load(io.BytesIO(_checked(directory / f"{name}.npy", wanted)), allow_pickle=False)
        for name, wanted in found.arrays.items()
    }
    for name, wanted in found.backbone.files.items() if found.backbone else ():
        _checked(directory / _WEIGHTS / name, wanted)
    return Bench(
        train=_dataset(found.rows["train"], _of("train", arrays)),
        validation=_dataset(found.rows["validation"], _of("validation", arrays)),
        target=found.target,
        metric=found.metric,
        epsilon=found.epsilon,
        seed=found.seed,
        deadline=deadline,
        folds=tuple(
            Fold(arrays[f"fold-{number}.fit"], arrays[f"fold-{number}.held"])
            for number in range(found.fold_count)
        ),
        backbone=found.backbone and found.backbone.inside(directory.resolve() / _WEIGHTS),
    )


def put(directory: Path, data: bytes) -> str:
    """Write bytes under their hash and return it."""
    name = hashlib.sha256(data).hexdigest()
    path = directory / "artifacts" / name
    if not path.exists():
        write_file(path, data)
    return name


def get(directory: Path, sha256: str) -> bytes:
    """Return the bytes with this hash.

    Raises:
        DataError: They are missing or damaged, or this is no hash.
    """
    if not _HASH.fullmatch(sha256):
        raise _damaged(directory, f"'{sha256[:80]}' is no hash")
    return _checked(directory / "artifacts" / sha256, sha256)


def put_arrays(directory: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write named arrays under their hash and return it."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type] # the stubs take **kwds for options
    return put(directory, buffer.getvalue())


def get_arrays(directory: Path, sha256: str) -> dict[str, NDArray[Any]]:
    """Return the arrays that `put_arrays` wrote.

    Raises:
        DataError: They are missing or damaged.
    """
    with np.load(io.BytesIO(get(directory, sha256)), allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def _arrays(data: Dataset) -> dict[str, NDArray[Any]]:
    values = {item.name: getattr(data, item.name) for item in dataclasses.fields(data)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def _meaning(data: Dataset) -> dict[str, Any]:
    values = {item.name: getattr(data, item.name) for item in dataclasses.fields(data)}
    plain = {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}
    built: dict[str, Any] = msgspec.to_builtins(plain)
    return built


def _dataset(meaning: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Dataset:
    types = typing.get_type_hints(Dataset)
    fields: dict[str, Any] = {
        name: None if value is None else msgspec.convert(value, types[name])
        for name, value in meaning.items()
    }
    return Dataset(**(fields | arrays))


def _of(part: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    prefix = f"{part}."
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _checked(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _damaged(path, "it does not have the hash that the study names")
    return data


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"a file of the study cannot be used: {reason}",
        where=str(path),
        advice="Give --files the directory that all workers of the study share.",
    )
