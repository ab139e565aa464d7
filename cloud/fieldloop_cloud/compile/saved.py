"""A compiled model on disk: the flatbuffer, and beside it what a flatbuffer cannot say.

NAME.tflite
NAME.signature.json   what goes in and what comes out
NAME.evidence.json    how it was compared with its original, and for which bytes that holds

The flatbuffer is written last, so that one that is there is complete.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from fieldloop.bundle import sha256_hex
from fieldloop.errors import DataError
from fieldloop.manifest import Precision
from fieldloop.signature import Signature
from fieldloop_cloud.compile.compiled import Compiled, Evidence
from fieldloop_cloud.files import write_file

SUFFIX = ".tflite"

_T = TypeVar("_T")


class _Proof(msgspec.Struct, frozen=True, kw_only=True):
    """`NAME.evidence.json`."""

    tflite_sha256: str
    precision: Precision
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a compiled model was written to."""

    tflite: Path
    signature: Path
    evidence: Path

    @classmethod
    def beside(cls, tflite: Path) -> "Saved":
        """Name the three files of a model."""
        return cls(
            tflite, tflite.with_suffix(".signature.json"), tflite.with_suffix(".evidence.json")
        )


def save_compiled(compiled: Compiled, path: Path) -> Saved:
    """Write a compiled model.

    Raises:
        EnvironmentFaultError: The place cannot be written.
    """
    files = Saved.beside(path)
    proof = _Proof(
        tflite_sha256=sha256_hex(compiled.tflite),
        precision=compiled.precision,
        evidence=compiled.evidence,
    )
    for name, document in ((files.signature, compiled.signature), (files.evidence, proof)):
        write_file(name, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    write_file(path, compiled.tflite)
    return files


def load_compiled(path: Path) -> Compiled:
    """Read what `save_compiled` wrote.

    Raises:
        DataError: A file is missing or damaged, or they do not belong together.
        SignatureError: The signature contradicts itself.
    """
    files = Saved.beside(path)
    try:
        tflite = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the model cannot be read: {error.strerror}", where=str(path), advice="Check the path."
        ) from error
    signature = _read(files.signature, Signature).checked()
    proof = _read(files.evidence, _Proof)
    if proof.tflite_sha256 != sha256_hex(tflite):
        raise DataError(
            "the evidence beside the flatbuffer is that of another one",
            where=str(files.evidence),
            advice="Compile the model again with `fieldloop compile`.",
        )
    return Compiled(tflite, signature, proof.evidence, proof.precision)


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        reason = str(error.strerror)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = str(error)
    raise DataError(
        f"what `fieldloop compile` writes beside the flatbuffer cannot be read: {reason}",
        where=str(path),
        advice="Compile the model again with `fieldloop compile`.",
    )
