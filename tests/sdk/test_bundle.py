"""The container and the trust rules: what is packed comes back, what was touched is refused."""

import contextlib
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fieldloop import bundle
from fieldloop.bundle import from_blob, pack, sha256_hex, to_blob, unpack
from fieldloop.errors import BundleError, CompatibilityError, DataError, TrustError
from fieldloop.histogram import Bins
from fieldloop.integrity import PublicKey, SigningKey, TrustPolicy
from fieldloop.manifest import ArrayBlob, GoldenSet, Lineage, Manifest, Variant
from fieldloop.profile import MonitoredQuantity, ReferenceProfile
from fieldloop.signature import FeatureSpec, Signature, TensorSpec, one_target

KEY = SigningKey.from_bytes(bytes(range(32)))
OTHER = SigningKey.from_bytes(bytes(32))
TRUST = TrustPolicy(keys=(KEY.public,))

SIGNATURE = Signature(
    task="classification",
    inputs=(TensorSpec(name="x", shape=(-1, 2), dtype="float32"),),
    outputs=(TensorSpec(name="label", shape=(-1,), dtype="int32", role="label"),),
    features=(FeatureSpec(name="current", unit="A"), FeatureSpec(name="fuel", categories=("b", 1))),
    targets=one_target(("ok", "fault")),
)
PROFILE = ReferenceProfile(
    quantities=(
        MonitoredQuantity(
            name="current", bins=Bins(edges=(0.5,)), counts=(3, 4), low=0.0, high=1.0
        ),
    ),
    row_count=7,
)
LINEAGE = Lineage(data_sha256="a" * 64, split_sha256="b" * 64, candidate="svm", metric="accuracy")


def parts(**changes):
    precisions = changes.pop("precisions", ("int8", "float32"))
    runtimes = changes.pop("runtimes", ("2.5.0", "2.14.0"))
    rows = np.zeros((3, 2), dtype=np.float32)
    everything = {
        "name": "pump",
        "release": 7,
        "device_classes": ("pi4", "x86"),
        "variants": [
            Variant(precision=precision, min_runtime=runtime, op_versions={"ADD": 1, "ABS": 2})
            for precision, runtime in zip(precisions, runtimes, strict=False)
        ],
        "models": {precision: f"model {precision}".encode() * 9 for precision in precisions},
        "signature": SIGNATURE,
        "profile": PROFILE,
        "golden": [
            GoldenSet(
                precision=precision,
                inputs=(to_blob(rows),),
                outputs=(to_blob(np.zeros(3, dtype=np.int32)),),
                tolerance=1e-4,
            )
            for precision in precisions
        ],
        "lineage": LINEAGE,
        "key": KEY,
    }
    return everything | changes


BUNDLE = pack(**parts())


def test_what_is_packed_comes_back():
    content = unpack(BUNDLE, trust=TRUST)

    assert content.models == {"int8": b"model int8" * 9, "float32": b"model float32" * 9}
    assert content.signature == SIGNATURE
    assert content.profile == PROFILE
    assert content.lineage == LINEAGE
    assert from_blob(content.golden[0].inputs[0]).shape == (3, 2)
    assert content.manifest.release == 7
    assert content.manifest.variants[0].op_versions == {"ABS": 2, "ADD": 1}
    assert content.sha256 == sha256_hex(BUNDLE)


def test_the_same_inputs_give_the_same_bytes():
    variants = [
        Variant(precision=item.precision, min_runtime=item.min_runtime, op_versions=versions)
        for item, versions in zip(
            parts()["variants"], ({"ABS": 2, "ADD": 1}, {"ADD": 1, "ABS": 2}), strict=True
        )
    ]
    assert pack(**parts(variants=variants)) == BUNDLE


@settings(max_examples=40)
@given(
    models=st.dictionaries(
        st.sampled_from(["float32", "float16", "dynamic", "int8", "mixed", "int16x8"]),
        st.binary(max_size=200),
        min_size=1,
    ),
    release=st.integers(1, 2**63 - 1),
    name=st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True),
)
def test_any_models_survive_the_round_trip(models, release, name):
    precisions = tuple(models)
    data = pack(
        **parts(
            precisions=precisions,
            runtimes=("2.3.0",) * len(precisions),
            models=models,
            release=release,
            name=name,
        )
    )
    content = unpack(data, trust=TRUST)
    assert content.models == models
    assert (content.manifest.release, content.manifest.name) == (release, name)


def test_every_flipped_byte_is_refused():
    # Exhaustive, so that no field can be forgotten; one bit pattern per position, varied.
    for position in range(len(BUNDLE)):
        broken = bytearray(BUNDLE)
        broken[position] ^= 1 << (position % 8)
        with pytest.raises(BundleError):
            unpack(bytes(broken), trust=TRUST)


@settings(max_examples=300)
@given(position=st.integers(0, len(BUNDLE) - 1), flip=st.integers(1, 255))
def test_any_flip_of_any_byte_is_refused(position, flip):
    broken = bytearray(BUNDLE)
    broken[position] ^= flip
    with pytest.raises(BundleError):
        unpack(bytes(broken), trust=TRUST)


def test_every_truncation_is_refused():
    for length in range(len(BUNDLE)):
        with pytest.raises(BundleError):
            unpack(BUNDLE[:length], trust=TRUST)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_garbage_is_refused(garbage):
    with pytest.raises(BundleError):
        unpack(garbage, trust=TRUST)
    with pytest.raises(BundleError):
        unpack(bundle.MAGIC + garbage, trust=TRUST)


def test_trailing_bytes_are_refused():
    with pytest.raises(BundleError, match="should have"):
        unpack(BUNDLE + b"\0", trust=TRUST)


@pytest.mark.parametrize(
    "lengths",
    [
        (2**32 - 1, 10, 10),
        (10, 2**32 - 1, 10),
        (10, 10, 2**64 - 1),
        (10, 10, 2**63),
        (bundle.MAX_MANIFEST_BYTES + 1, 2, 0),
        (0, 0, 0),
    ],
)
def test_hostile_lengths_are_refused_before_anything_is_read(lengths):
    header = struct.pack("<8sIIQ", bundle.MAGIC, *lengths)
    with pytest.raises(BundleError):
        unpack(header + b"x" * 20, trust=TRUST)


def resigned(change, *, key=KEY, payload=None):
    """Build a bundle whose manifest was changed by someone who holds the key."""
    manifest_size, signatures_size, _ = struct.unpack_from("<IIQ", BUNDLE, 8)
    start = 24
    manifest = msgspec.json.decode(BUNDLE[start : start + manifest_size])
    change(manifest)
    if payload is None:
        payload = BUNDLE[start + manifest_size + signatures_size :]
    encoded = msgspec.json.encode(manifest, order="deterministic")
    return bundle._assemble(encoded, [key], payload)


def test_the_helper_that_signs_again_makes_a_sound_bundle():
    assert unpack(resigned(lambda _: None), trust=TRUST).manifest.name == "pump"


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["entries"][0].update(size_bytes=-1),
        lambda m: m["entries"][0].update(size_bytes=2**62),
        lambda m: m["entries"][0].update(name="../../etc/passwd"),
        lambda m: m["entries"].append(m["entries"][0]),
        lambda m: m["entries"].pop(),
        lambda m: m["entries"].reverse(),
        lambda m: m["variants"].pop(),
        lambda m: m["variants"].append(m["variants"][0]),
        lambda m: m.update(variants=[]),
        lambda m: m.update(device_classes=[]),
        lambda m: m.update(name="Pump 1"),
        lambda m: m.update(release=0),
        lambda m: m.update(release=2**64),
        lambda m: m.update(surprise=1),
        lambda m: m["variants"][0].update(min_runtime="new"),
        lambda m: m["variants"][0].update(min_runtime="9" * 9000),
    ],
)
def test_a_signed_but_malformed_manifest_is_refused(change):
    with pytest.raises(BundleError):
        unpack(resigned(change), trust=TRUST)


def test_a_signed_but_malformed_document_is_refused():
    content = b"[1, 2]"

    def change(manifest):
        entry = next(item for item in manifest["entries"] if item["name"] == "signature.json")
        change.skipped = entry["size_bytes"]
        entry.update(size_bytes=len(content), sha256=sha256_hex(content))

    manifest_size, signatures_size, _ = struct.unpack_from("<IIQ", BUNDLE, 8)
    payload = BUNDLE[24 + manifest_size + signatures_size :]
    size = len(msgspec.json.encode(SIGNATURE, order="deterministic"))
    with pytest.raises(BundleError, match=r"signature\.json"):
        unpack(resigned(change, payload=content + payload[size:]), trust=TRUST)
    assert change.skipped == size


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)  # fmt: skip


def places(document, path=()):
    """Return the path of every value in a JSON document."""
    items = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    return [path, *(place for key, value in items for place in places(value, (*path, key)))]


@settings(max_examples=400)
@given(st.data())
def test_whatever_a_signer_puts_in_is_read_or_refused(data):
    # The signature says who wrote it, not that it is well-formed: nothing else may be raised.
    parts_of = documents()
    name = data.draw(st.sampled_from(sorted(parts_of)))
    document = msgspec.json.decode(parts_of[name])
    path = data.draw(st.sampled_from(places(document)))
    value = data.draw(json_values)
    if path:
        target = document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
    else:
        document = value
    parts_of[name] = msgspec.json.encode(document, order="deterministic")
    with contextlib.suppress(BundleError, CompatibilityError):
        unpack(reassembled(parts_of), trust=TRUST)


def documents():
    """Take the bundle apart: name to bytes of the manifest and of every JSON entry."""
    manifest_size, signatures_size, _ = struct.unpack_from("<IIQ", BUNDLE, 8)
    found = {"manifest": BUNDLE[24 : 24 + manifest_size]}
    start = 24 + manifest_size + signatures_size
    for entry in msgspec.json.decode(found["manifest"], type=Manifest).entries:
        if entry.name.endswith(".json"):
            found[entry.name] = BUNDLE[start : start + entry.size_bytes]
        start += entry.size_bytes
    return found


def reassembled(parts_of):
    """Put documents together again, with sizes, hashes and signature as a signer would."""
    original = msgspec.json.decode(documents()["manifest"], type=Manifest)
    manifest = msgspec.json.decode(parts_of["manifest"])
    manifest_size, signatures_size, _ = struct.unpack_from("<IIQ", BUNDLE, 8)
    start = 24 + manifest_size + signatures_size
    payload = []
    for position, entry in enumerate(original.entries):
        content = parts_of.get(entry.name, BUNDLE[start : start + entry.size_bytes])
        start += entry.size_bytes
        payload.append(content)
        with contextlib.suppress(TypeError, KeyError, IndexError, AttributeError):
            if parts_of.get(entry.name) != documents().get(entry.name):
                manifest["entries"][position].update(
                    size_bytes=len(content), sha256=sha256_hex(content)
                )
    encoded = msgspec.json.encode(manifest, order="deterministic")
    return bundle._assemble(encoded, [KEY], b"".join(payload))


def test_a_newer_format_is_a_matter_of_compatibility():
    with pytest.raises(CompatibilityError, match="format 3"):
        unpack(resigned(lambda m: m.update(format=3)), trust=TRUST)


def test_signed_by_another_key_is_refused():
    stranger = pack(**parts(key=OTHER))
    with pytest.raises(TrustError, match=OTHER.public.key_id):
        unpack(stranger, trust=TRUST)
    with pytest.raises(TrustError):
        unpack(BUNDLE, trust=TrustPolicy(keys=()))


def test_a_signature_by_another_key_under_a_trusted_name_is_refused():
    forged = resigned(lambda _: None, key=OTHER)
    forged = forged.replace(OTHER.public.key_id.encode(), KEY.public.key_id.encode())
    with pytest.raises(TrustError, match="does not fit"):
        unpack(forged, trust=TRUST)


def test_the_manifest_is_not_parsed_before_its_signature_was_checked():
    # Not JSON at all: only a signature check can answer TrustError here.
    data = bundle._assemble(b"not json", [OTHER], b"")
    with pytest.raises(TrustError):
        unpack(data, trust=TRUST)


def test_a_signature_over_the_bare_manifest_is_not_one_over_a_bundle():
    manifest = BUNDLE[24 : 24 + struct.unpack_from("<I", BUNDLE, 8)[0]]
    bare = {"key_id": KEY.public.key_id, "signature": KEY.sign(manifest)}
    block = msgspec.json.encode([bare], order="deterministic")
    payload = BUNDLE[24 + sum(struct.unpack_from("<II", BUNDLE, 8)) :]
    header = struct.pack("<8sIIQ", bundle.MAGIC, len(manifest), len(block), len(payload))
    with pytest.raises(TrustError):
        unpack(header + manifest + block + payload, trust=TRUST)


def test_either_of_two_signers_is_enough():
    data = pack(**parts(cosigners=[OTHER]))
    for key in (KEY, OTHER):
        assert unpack(data, trust=TrustPolicy(keys=(key.public,))).manifest.release == 7
    stranger = SigningKey.generate().public
    assert unpack(data, trust=TrustPolicy(keys=(stranger, OTHER.public))).manifest.release == 7


def test_a_downgrade_is_refused():
    assert unpack(BUNDLE, trust=TrustPolicy(keys=(KEY.public,), release_floor=7))
    with pytest.raises(TrustError, match="older"):
        unpack(BUNDLE, trust=TrustPolicy(keys=(KEY.public,), release_floor=8))


def test_another_device_class_is_refused():
    assert unpack(BUNDLE, trust=TrustPolicy(keys=(KEY.public,), device_class="pi4"))
    with pytest.raises(CompatibilityError, match="pi3"):
        unpack(BUNDLE, trust=TrustPolicy(keys=(KEY.public,), device_class="pi3"))


@pytest.mark.parametrize(
    ("runtime", "runnable"),
    [
        ("2.14.0", ["int8", "float32"]),
        ("2.14.0rc1", ["int8", "float32"]),
        ("2.5", ["int8"]),
        ("2.10.1", ["int8"]),
        ("3", ["int8", "float32"]),
        (None, ["int8", "float32"]),
    ],
)
def test_variants_are_chosen_by_the_runtime(runtime, runnable):
    policy = TrustPolicy(keys=(KEY.public,), runtime_version=runtime)
    manifest = unpack(BUNDLE, trust=policy).manifest
    assert [variant.precision for variant in policy.runnable(manifest)] == runnable


def test_a_bundle_for_newer_runtimes_only_is_refused_with_what_it_needs():
    policy = TrustPolicy(keys=(KEY.public,), runtime_version="2.4.9")
    with pytest.raises(CompatibilityError, match=r"int8 2\.5\.0, float32 2\.14\.0"):
        unpack(BUNDLE, trust=policy)


def with_low(low):
    feature = msgspec.structs.replace(SIGNATURE.features[0], low=low)
    return msgspec.structs.replace(SIGNATURE, features=(feature, SIGNATURE.features[1]))


def with_golden(**changes):
    return [msgspec.structs.replace(item, **changes) for item in parts()["golden"]]


def with_score(score):
    return msgspec.structs.replace(parts()["variants"][0], score=score)


def test_the_parts_that_the_next_test_breaks_are_sound():
    variants = [with_score(0.5), parts()["variants"][1]]
    assert pack(**parts(signature=with_low(-1.5), variants=variants))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Pump"},
        {"name": ""},
        {"release": 0},
        {"device_classes": ()},
        {"models": {"int8": b""}},
        {"golden": []},
        {"golden": with_golden(inputs=())},
        {"golden": with_golden(inputs=(to_blob(np.zeros((3, 2), np.float32)),) * 2)},
        {"golden": with_golden(outputs=(to_blob(np.zeros(2, np.int32)),))},
        {"lineage": msgspec.structs.replace(LINEAGE, parameters={"depth": object()})},
        {"profile": msgspec.structs.replace(PROFILE, row_count=float("nan"))},
        {"signature": msgspec.structs.replace(SIGNATURE, inputs=())},
        {"signature": with_low(float("-inf"))},
        {"variants": [with_score(float("nan")), parts()["variants"][1]]},
    ],
)
def test_parts_that_make_no_bundle_are_refused_when_packing(changes):
    with pytest.raises(DataError):
        pack(**parts(**changes))


def test_keys_survive_pem_and_do_not_show_themselves():
    again = SigningKey.from_pem(KEY.to_pem())
    assert again.public == KEY.public
    assert PublicKey.from_pem(KEY.public.to_pem()) == KEY.public
    both = KEY.public.to_pem() + b"# a comment\n" + OTHER.public.to_pem()
    assert PublicKey.all_from_pem(both) == (KEY.public, OTHER.public)
    assert len(KEY.public.key_id) == 16
    secret = KEY.to_pem().splitlines()[1].decode()
    assert secret not in repr(KEY)
    assert bytes(range(32)).hex() not in repr(KEY)


RSA_PEM = b"""-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf
9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize("pem", [b"", b"hello", RSA_PEM, KEY.to_pem(), KEY.public.to_pem() * 2])
def test_what_is_not_one_public_key_is_refused(pem):
    with pytest.raises(DataError):
        PublicKey.from_pem(pem)


@pytest.mark.parametrize("pem", [b"", b"hello", RSA_PEM, KEY.public.to_pem()])
def test_what_is_not_a_private_key_is_refused(pem):
    with pytest.raises(DataError):
        SigningKey.from_pem(pem)


@given(
    hnp.arrays(
        dtype=st.sampled_from(["float32", ">f4", "float16", "int8", "int64", "bool", "uint8"]),
        shape=hnp.array_shapes(min_dims=0, min_side=0),
    )
)
def test_arrays_survive_the_blob(array):
    again = from_blob(to_blob(array))
    assert again.shape == array.shape
    assert again.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(again, array)
    assert again.flags.writeable


@pytest.mark.parametrize(
    "blob",
    [
        ArrayBlob(dtype="object", shape=(1,), data=b"12345678"),
        ArrayBlob(dtype="float32", shape=(2,), data=b"1234"),
        ArrayBlob(dtype="float32", shape=(-1, -1), data=b"1234"),
        ArrayBlob(dtype="int8", shape=(2**40,), data=b"1"),
    ],
)
def test_blobs_that_lie_about_their_shape_are_refused(blob):
    with pytest.raises(BundleError):
        from_blob(blob)


def test_an_array_of_objects_is_refused():
    with pytest.raises(DataError):
        to_blob(np.array([None]))


def test_the_manifest_stays_readable_as_json():
    size = struct.unpack_from("<I", BUNDLE, 8)[0]
    assert msgspec.json.decode(BUNDLE[24 : 24 + size], type=Manifest).name == "pump"
