"""Files that are whole or absent, and settings as TOML."""

import contextlib
import os
import tempfile
import tomllib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fieldloop.errors import ConfigError, EnvironmentFaultError

StructType = TypeVar("StructType", bound=msgspec.Struct)

_SCALARS = (str, int, float, bool)


def read_toml(path: Path, kind: type[StructType]) -> StructType:
    """Read a TOML file into a struct.

    Raises:
        ConfigError: The file is missing, no TOML, or does not fit the struct.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return msgspec.convert(tomllib.loads(text), kind)
    except OSError as error:
        raise ConfigError(
            f"the file cannot be read: {error.strerror}",
            where=str(path),
            advice="Check the path and its permissions.",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"the file is not valid: {error}", where=str(path), advice="Correct the named place."
        ) from error


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a whole file or nothing: temporary name, fsync, rename, fsync of the directory.

    Raises:
        EnvironmentFaultError: The disk is full or the place cannot be written.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the temporary name is a string
        fsync_directory(path.parent)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def check_writable(directory: Path) -> None:
    """Find out whether a directory can be made and written, and leave no trace.

    Raises:
        EnvironmentFaultError: The disk is full or the place cannot be written.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    probe = directory / f".probe-{os.getpid()}"
    try:
        write_file(probe, b"probe")
        probe.unlink()
    except EnvironmentFaultError as error:
        error.where = str(directory)
        raise
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # someone else has put something there
                path.rmdir()


def fsync_directory(path: Path) -> None:
    """Make renames inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> EnvironmentFaultError:
    """Return the error that says what could not be written, and why."""
    return EnvironmentFaultError(
        f"this place cannot be written: {error.strerror or error}",
        where=str(path),
        advice="Free disk space or choose a directory that you may write.",
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, _SCALARS) and not (isinstance(value, float) and not isfinite(value))


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Write tables of scalars as TOML (JSON's scalars are TOML's); empty tables are left out.

    Raises:
        ConfigError: A value is neither text, number nor boolean.

    Example:
        >>> print(to_toml({"device": {"id": "pi-17", "spare": False}, "privacy": {}}), end="")
        [device]
        id = "pi-17"
        spare = false
    """
    lines: list[str] = []
    for section, values in tables.items():
        wrong = [name for name, value in values.items() if not _is_scalar(value)]
        if wrong:
            raise ConfigError(
                "a setting must be text, a finite number or true/false",
                where=f"[{section}] {wrong[0]}",
                advice="Give a plain value.",
            )
        if values:
            lines.append(f"[{section}]")
            lines += [f"{name} = {msgspec.json.encode(v).decode()}" for name, v in values.items()]
            lines.append("")
    return "\n".join(lines)
