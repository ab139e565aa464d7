"""The bundle: one signed file that holds everything a device needs to run a model.

Layout, integers little-endian:

    magic             8 bytes   `FLBUNDLE`
    manifest length   uint32    at most 1 MiB
    signatures length uint32    at most 64 KiB
    payload length    uint64    the whole file is at most 1 GiB
    manifest          canonical JSON, see `manifest.Manifest`
    signatures        canonical JSON, a list of `integrity.KeySignature`
    payload           the entries' bytes, in the manifest's order, nothing between or after

There are no file names to extract and nothing is decompressed. The same inputs give the same
bytes. Reading checks lengths, then the signature, then the manifest, then every entry's size and
SHA-256, and only then parses an entry.
"""

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from fieldloop.canonical import canonical, check_finite
from fieldloop.errors import BundleError, DataError, FieldloopError, InputError, TrustError
from fieldloop.integrity import KeySignature, SigningKey, TrustPolicy
from fieldloop.manifest import (
    ArrayBlob,
    BundleContent,
    Entry,
    EntryName,
    GoldenSet,
    Lineage,
    Manifest,
    Precision,
    Variant,
)
from fieldloop.profile import ReferenceProfile
from fieldloop.signature import Signature

MAGIC = b"FLBUNDLE"
MAX_MANIFEST_BYTES = 1 << 20
MAX_SIGNATURES_BYTES = 1 << 16
MAX_BUNDLE_BYTES = 1 << 30

_HEADER = struct.Struct("<8sIIQ")
_DTYPES = frozenset(
    {"float32", "float16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"}
)
_DOCUMENTS: tuple[EntryName, ...] = (
    "signature.json",
    "profile.json",
    "golden.json",
    "lineage.json",
)

DocumentT = TypeVar("DocumentT")


def pack(
    *,
    name: str,
    release: int,
    device_classes: Sequence[str],
    variants: Sequence[Variant],
    models: Mapping[Precision, bytes],
    signature: Signature,
    profile: ReferenceProfile,
    golden: Sequence[GoldenSet],
    lineage: Lineage,
    key: SigningKey,
    cosigners: Sequence[SigningKey] = (),
) -> bytes:
    """Build and sign a bundle; deterministic: the same inputs give the same bytes.

    Args:
        name: The model's name, `[a-z0-9-]{1,64}`.
        release: Counter that must grow from bundle to bundle.
        device_classes: Targets that may run it.
        variants: Compiled forms, the preferred one first.
        models: The flatbuffer of every variant.
        signature: The model's contract.
        profile: The reference the field is compared with.
        golden: Golden sets, one per variant.
        lineage: Where the model comes from.
        key: Signs the manifest.
        cosigners: More keys that sign it, for example while a key is replaced.

    Raises:
        DataError: The parts contradict each other, hold NaN or infinity, or are too large.
    """
    if {variant.precision for variant in variants} != set(models):
        raise DataError(
            "models and variants differ", advice="Give one model for each variant's precision."
        )
    documents = (signature, profile, tuple(golden), lineage)
    for document in (*documents, tuple(variants)):
        check_finite(document)
    contents: dict[EntryName, bytes] = dict(zip(_DOCUMENTS, map(canonical, documents), strict=True))
    for variant in variants:
        contents[_model_entry(variant.precision)] = bytes(models[variant.precision])
    manifest = Manifest(
        name=name,
        release=release,
        device_classes=tuple(device_classes),
        variants=tuple(variants),
        entries=tuple(
            Entry(name=entry, size_bytes=len(content), sha256=sha256_hex(content))
            for entry, content in contents.items()
        ),
    )
    data = _assemble(canonical(manifest), (key, *cosigners), b"".join(contents.values()))
    try:
        # Read back what was written: a device must never be the first to try.
        unpack(data, trust=TrustPolicy(keys=(key.public,)))
    except FieldloopError as error:
        raise DataError(
            f"these parts make no bundle: {error.what}",
            where=error.where,
            advice="Check names, versions, and that every number is finite.",
        ) from error
    return data


def unpack(data: bytes, *, trust: TrustPolicy, where: str = "") -> BundleContent:
    """Verify a bundle and return its content.

    Args:
        data: The file's bytes; they are not touched again, so read the file once and use these.
        trust: Who is trusted, and what this device can run.
        where: The file, for errors.

    Raises:
        TrustError: Not signed by a trusted key, changed after signing, or a downgrade.
        BundleError: Truncated or malformed.
        CompatibilityError: For another device class, or a newer runtime or format.
    """
    try:
        return _verified(data, trust)
    except FieldloopError as error:
        error.where = error.where or where
        raise


def _verified(data: bytes, trust: TrustPolicy) -> BundleContent:
    manifest_bytes, signatures, payload = _take_apart(data)
    manifest = trust.check(manifest_bytes, signatures)
    contents = _verified_entries(manifest, payload)
    signature = _checked_signatures(manifest, contents)
    return BundleContent(
        manifest=manifest,
        sha256=sha256_hex(data),
        models={
            variant.precision: bytes(contents[_model_entry(variant.precision)])
            for variant in manifest.variants
        },
        signature=signature,
        profile=_document(contents, "profile.json", ReferenceProfile),
        golden=_checked_golden(manifest, contents, signature),
        lineage=_document(contents, "lineage.json", Lineage),
    )


def sha256_hex(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def to_blob(array: NDArray[Any]) -> ArrayBlob:
    """Write an array in C order, little-endian.

    Raises:
        DataError: Its dtype cannot be in a bundle.

    Example:
        >>> from_blob(to_blob(np.array([[1, 2]], dtype=np.int8))).tolist()
        [[1, 2]]
    """
    if array.dtype.name not in _DTYPES:
        raise DataError(
            f"an array of {array.dtype} cannot be in a bundle",
            advice=f"Use one of {', '.join(sorted(_DTYPES))}.",
        )
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return ArrayBlob(dtype=array.dtype.name, shape=array.shape, data=little.tobytes())


def from_blob(blob: ArrayBlob) -> NDArray[Any]:
    """Read an array; it owns its memory and may be written to.

    Raises:
        BundleError: An unknown dtype, or a shape that does not fit the number of bytes.
    """
    if blob.dtype not in _DTYPES:
        raise BundleError(
            f"'{blob.dtype[:40]}' is not the dtype of an array", advice="Build the bundle again."
        )
    dtype = np.dtype(blob.dtype)
    size_bytes = math.prod(blob.shape) * dtype.itemsize
    if any(size < 0 for size in blob.shape) or size_bytes != len(blob.data):
        raise BundleError(
            f"{len(blob.data)} bytes do not make an array of shape {blob.shape}",
            advice="Build the bundle again.",
        )
    little = np.frombuffer(blob.data, dtype=dtype.newbyteorder("<"))
    return little.astype(dtype).reshape(blob.shape)


def _model_entry(precision: Precision) -> EntryName:
    entry: dict[Precision, EntryName] = {
        "float32": "model.float32.tflite",
        "float16": "model.float16.tflite",
        "dynamic": "model.dynamic.tflite",
        "int8": "model.int8.tflite",
        "mixed": "model.mixed.tflite",
        "int16x8": "model.int16x8.tflite",
    }
    return entry[precision]


def _assemble(manifest: bytes, keys: Sequence[SigningKey], payload: bytes) -> bytes:
    signatures = canonical([key.sign_manifest(manifest) for key in keys])
    header = _HEADER.pack(MAGIC, len(manifest), len(signatures), len(payload))
    return b"".join((header, manifest, signatures, payload))


def _take_apart(data: bytes) -> tuple[bytes, list[KeySignature], memoryview]:
    """Check the lengths and return manifest, signatures and payload; nothing is trusted yet."""
    if len(data) < _HEADER.size:
        raise _broken(f"{len(data)} bytes are fewer than a header has")
    magic, manifest_size, signatures_size, payload_size = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise _broken("this file is not a fieldloop bundle")
    if manifest_size > MAX_MANIFEST_BYTES or signatures_size > MAX_SIGNATURES_BYTES:
        raise _broken("the manifest or the signatures are larger than allowed")
    total = _HEADER.size + manifest_size + signatures_size + payload_size
    if total > MAX_BUNDLE_BYTES:
        raise _broken(f"the bundle is larger than {MAX_BUNDLE_BYTES} bytes")
    if total != len(data):
        raise _broken(f"the bundle should have {total} bytes and has {len(data)}")
    view = memoryview(data)[_HEADER.size :]
    signatures_bytes = bytes(view[manifest_size : manifest_size + signatures_size])
    return (
        bytes(view[:manifest_size]),
        _signatures(signatures_bytes),
        view[manifest_size + signatures_size :],
    )


def _signatures(block: bytes) -> list[KeySignature]:
    try:
        signatures = msgspec.json.decode(block, type=list[KeySignature])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _broken("the signatures cannot be read") from error
    # One spelling only: the block itself is not signed, so no byte of it may vary unnoticed.
    if canonical(signatures) != block:
        raise _broken("the signatures are not in canonical form")
    return signatures


def _verified_entries(manifest: Manifest, payload: memoryview) -> dict[str, memoryview]:
    """Cut the payload into entries and check each against the signed manifest."""
    wanted = sorted([*_DOCUMENTS, *(_model_entry(item.precision) for item in manifest.variants)])
    if sorted(entry.name for entry in manifest.entries) != wanted:
        raise _broken("the manifest does not list exactly the entries that it needs")
    if any(entry.size_bytes < 0 for entry in manifest.entries):
        raise _broken("an entry has a negative size")
    if sum(entry.size_bytes for entry in manifest.entries) != len(payload):
        raise _broken("the entries' sizes do not add up to the payload")
    contents: dict[str, memoryview] = {}
    start = 0
    for entry in manifest.entries:
        content = payload[start : start + entry.size_bytes]
        start += entry.size_bytes
        if sha256_hex(content) != entry.sha256:
            raise TrustError(
                "an entry was changed after signing",
                where=entry.name,
                advice="Fetch or build the bundle again.",
            )
        contents[entry.name] = content
    return contents


def _document(
    contents: Mapping[str, memoryview], entry: EntryName, kind: type[DocumentT]
) -> DocumentT:
    try:
        return msgspec.json.decode(contents[entry], type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(f"a document cannot be read: {error}", where=entry) from error


def _checked_signatures(manifest: Manifest, contents: Mapping[str, memoryview]) -> Signature:
    signature = _document(contents, "signature.json", Signature)
    try:
        for one in (signature, *(item.signature for item in manifest.variants)):
            if one is not None:
                one.checked()
    except InputError as error:
        raise _broken(f"the signature is wrong: {error.what}", where="signature.json") from error
    return signature


def _checked_golden(
    manifest: Manifest, contents: Mapping[str, memoryview], signature: Signature
) -> tuple[GoldenSet, ...]:
    golden = _document(contents, "golden.json", tuple[GoldenSet, ...])
    expected = sorted(variant.precision for variant in manifest.variants)
    if sorted(item.precision for item in golden) != expected:
        raise _broken("golden sets and variants differ", where="golden.json")
    signatures = {item.precision: item.signature or signature for item in manifest.variants}
    for item in golden:
        wanted = signatures[item.precision]
        if (len(item.inputs), len(item.outputs)) != (len(wanted.inputs), len(wanted.outputs)):
            raise _broken("golden tensors and the signature's differ", where="golden.json")
        counts = {from_blob(blob).shape[:1] for blob in (*item.inputs, *item.outputs)}
        if len(counts) > 1:
            raise _broken("golden tensors have different numbers of rows", where="golden.json")
    return golden


def _broken(what: str, *, where: str = "") -> BundleError:
    return BundleError(what, where=where, advice="Fetch or build the bundle again.")
