"""Small signed bundles for tests of flashing, rollouts and commands; no training needed."""

from pathlib import Path

import numpy as np

from fieldloop.bundle import pack, sha256_hex, to_blob
from fieldloop.histogram import Bins
from fieldloop.integrity import SigningKey
from fieldloop.manifest import GoldenSet, Lineage, Variant
from fieldloop.profile import MonitoredQuantity, ReferenceProfile
from fieldloop.signature import FeatureSpec, Signature, TensorSpec, one_target
from fieldloop.telemetry import CONFIDENCE_EDGES
from fieldloop_cloud.files import write_file
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import signing_key

SIGNATURE = Signature(
    task="classification",
    inputs=(TensorSpec(name="x", shape=(-1, 1), dtype="float32"),),
    outputs=(TensorSpec(name="label", shape=(-1,), dtype="int32", role="label"),),
    features=(FeatureSpec(name="current", unit="A"),),
    targets=one_target(("ok", "fault")),
)

_CELLS = len(CONFIDENCE_EDGES) + 1

PROFILE = ReferenceProfile(
    quantities=(
        MonitoredQuantity(
            name="current", bins=Bins(edges=(1.0, 2.0, 3.0)), counts=(250,) * 4, low=0.0, high=4.0
        ),
    ),
    class_counts=(50, 50),
    confidence_counts=((0,) * (_CELLS - 2) + (20, 30),) * 2,
    confidence_accuracy=((0.5,) * (_CELLS - 2) + (0.8, 1.0),) * 2,
    row_count=1000,
)


def bundle_bytes(key: SigningKey, **changes: object) -> bytes:
    """Return a bundle that is well-formed and signed; its model is not run by anybody."""
    golden = GoldenSet(
        precision="float32",
        inputs=(to_blob(np.zeros((3, 1), dtype=np.float32)),),
        outputs=(to_blob(np.zeros(3, dtype=np.int32)),),
        tolerance=1e-4,
    )
    parts = {
        "name": "pump",
        "release": 1,
        "device_classes": ("x86",),
        "variants": [Variant(precision="float32", min_runtime="2.5.0", op_versions={"ADD": 1})],
        "models": {"float32": b"model" * 100},
        "signature": SIGNATURE,
        "profile": PROFILE,
        "golden": [golden],
        "lineage": Lineage(
            data_sha256="a" * 64, split_sha256="b" * 64, candidate="logistic", metric="accuracy"
        ),
        "key": key,
    }
    return pack(**(parts | changes))


def publish(home: Home, **changes: object) -> Path:
    """Sign a bundle with the home's key and put it among its releases."""
    data = bundle_bytes(signing_key(home.create()), **changes)
    path = home.release_file(sha256_hex(data))
    write_file(path, data)
    return path
