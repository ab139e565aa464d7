"""What a bundle says about itself: the signed manifest and the documents it lists.

The manifest is the only thing a device trusts on its own word (because it is signed); every other
byte of a bundle is trusted because the manifest names its size and SHA-256.
"""

import re
from typing import Literal

import msgspec

from fieldloop.errors import BundleError, CompatibilityError
from fieldloop.profile import ReferenceProfile
from fieldloop.signature import Signature

MANIFEST_FORMAT = 2
"""Newest manifest format that this release can read."""

_MAX_RELEASE = 2**63 - 1
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){0,3}")

Precision = Literal["float32", "float16", "dynamic", "int8", "mixed", "int16x8"]

EntryName = Literal[
    "model.float32.tflite",
    "model.float16.tflite",
    "model.dynamic.tflite",
    "model.int8.tflite",
    "model.mixed.tflite",
    "model.int16x8.tflite",
    "signature.json",
    "profile.json",
    "golden.json",
    "lineage.json",
]
"""Every name a bundle may contain; there are no others, so no path can escape."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle, in the order of the container."""

    name: EntryName
    size_bytes: int
    sha256: str


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One compiled form of the model.

    Attributes:
        precision: How it was quantized; its file is `model.<precision>.tflite`.
        min_runtime: Lowest TFLite runtime that has every op version, for example `2.14.0`.
        op_versions: Highest version of each builtin op used.
        score: Score on the sealed test set (for a model trained elsewhere: on its reference rows)
            in the lineage's metric; None if not measured.
        latency_p50_ms: As measured on the workstation or on the target.
        latency_p90_ms: The same.
        arena_bytes: Memory for what is computed for one row, without the kernels' own scratch.
        signature: The variant's own signature; None if it is the bundle's.
    """

    precision: Precision
    min_runtime: str
    op_versions: dict[str, int]
    score: float | None = None
    latency_p50_ms: float | None = None
    latency_p90_ms: float | None = None
    arena_bytes: int | None = None
    signature: Signature | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The signed description of a bundle.

    Attributes:
        format: Of the container and this schema.
        name: The model's name, `[a-z0-9-]{1,64}`.
        release: Counter that only grows; a device refuses a lower one.
        device_classes: Targets that may run it.
        variants: Compiled forms, the preferred one first.
        entries: Files, in the order in which their bytes follow.
    """

    format: Literal[2] = 2
    name: str
    release: int
    device_classes: tuple[str, ...]
    variants: tuple[Variant, ...]
    entries: tuple[Entry, ...]


class ArrayBlob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dense array: NumPy dtype name, shape, and C-order little-endian bytes (base64 in JSON)."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class GoldenSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inputs and the outputs they must give, replayed on the device before every switch.

    Attributes:
        precision: The variant it belongs to.
        inputs: For each input tensor the rows, already encoded, shape (n, …).
        outputs: For each output tensor the expected rows, shape (n, …), as dequantised reals.
        tolerance: Largest absolute deviation allowed on a floating-point output; integer label
            outputs must be equal.
    """

    precision: Precision
    inputs: tuple[ArrayBlob, ...]
    outputs: tuple[ArrayBlob, ...]
    tolerance: float


class Lineage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a model comes from, so that anybody can ask why it is on a device.

    Attributes:
        data_sha256: Hash of the data set's content; for a model trained elsewhere of its
            reference rows.
        split_sha256: Hash of the split's row numbers; empty if there was none.
        calibration_sha256: Hash of the calibration rows; empty if none were needed.
        candidate: Name of the chosen candidate, for example `random-forest`.
        parameters: Its hyper-parameters as text.
        metric: The score's name; empty without a score.
        gate: Evidence of the gates: name to sentence.
        parent_sha256: Bundle that this one replaces; empty for the first.
        tools: Version of every tool that had a part in it.
    """

    data_sha256: str
    split_sha256: str
    calibration_sha256: str = ""
    candidate: str
    parameters: dict[str, str] = {}
    metric: str
    gate: dict[str, str] = {}
    parent_sha256: str = ""
    tools: dict[str, str] = {}


class BundleContent(msgspec.Struct, frozen=True, kw_only=True):
    """A verified bundle, in memory.

    Attributes:
        manifest: The signed manifest.
        sha256: Hash of the whole bundle file, hex: the name the bundle goes by.
        models: For each precision the flatbuffer's bytes.
        signature: The model's contract (a variant may bring its own).
        profile: The reference the field is compared with.
        golden: Golden sets, one per variant.
        lineage: Where it comes from.
    """

    manifest: Manifest
    sha256: str
    models: dict[str, bytes]
    signature: Signature
    profile: ReferenceProfile
    golden: tuple[GoldenSet, ...]
    lineage: Lineage


def parse_manifest(manifest_bytes: bytes) -> Manifest:
    """Parse a manifest; only after its signature was checked.

    Raises:
        BundleError: It is not JSON of the schema, or contradicts itself.
        CompatibilityError: It has a newer format than this release knows.
    """
    try:
        manifest = msgspec.json.decode(manifest_bytes, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _check_format(manifest_bytes)
        raise BundleError(
            f"the manifest cannot be read: {error}", advice="Build the bundle again."
        ) from error
    problem = _problem(manifest)
    if problem:
        raise BundleError(f"the manifest is malformed: {problem}", advice="Build the bundle again.")
    return manifest


class _Format(msgspec.Struct):
    format: int = 0


def _check_format(manifest_bytes: bytes) -> None:
    try:
        found = msgspec.json.decode(manifest_bytes, type=_Format).format
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if found > MANIFEST_FORMAT:
        raise CompatibilityError(
            f"the bundle has format {found}, format {MANIFEST_FORMAT} is the newest known",
            advice="Update fieldloop on this machine.",
        )


def _problem(manifest: Manifest) -> str:
    """Return what the types alone do not rule out; empty if all is well."""
    names = [manifest.name, *manifest.device_classes]
    wrong = next((name for name in names if not _NAME.fullmatch(name)), None)
    if wrong is not None:
        return f"'{wrong[:80]}' is not a name of 1 to 64 lower-case letters, digits and hyphens"
    if not manifest.device_classes or not manifest.variants:
        return "it names no device class or no variant"
    if not 0 < manifest.release <= _MAX_RELEASE:
        return f"the release counter {manifest.release} is not between 1 and {_MAX_RELEASE}"
    precisions = [variant.precision for variant in manifest.variants]
    if len(set(precisions)) != len(precisions):
        return "a variant stands twice"
    odd = next(
        (item for item in manifest.variants if not _VERSION.fullmatch(item.min_runtime)), None
    )
    if odd is not None:
        return f"'{odd.min_runtime[:80]}' is not a version"
    return ""
