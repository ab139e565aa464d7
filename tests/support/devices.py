"""Small signed bundles and device roots for tests, without training anything.

The model is a softmax over one dense layer, built with the project's own graph builder, so real
engines run it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fieldloop.bundle import pack, sha256_hex, to_blob
from fieldloop.device_root import DeviceRoot, write_active
from fieldloop.histogram import Bins
from fieldloop.integrity import SigningKey, TrustPolicy
from fieldloop.interpreter import open_engine
from fieldloop.manifest import GoldenSet, Lineage, Precision, Variant
from fieldloop.profile import MonitoredQuantity, ReferenceProfile
from fieldloop.signature import FeatureSpec, ImageSpec, Signature, TensorSpec, one_target
from fieldloop.state import DesiredState, HealthPolicy
from fieldloop_cloud.compile.flatbuffer import Model
from fieldloop_cloud.compile.graph import Graph

FEATURES = ("current", "voltage")
LABELS = ("good", "bad")
KEY = SigningKey.from_bytes(b"k" * 32)
OTHER_KEY = SigningKey.from_bytes(b"o" * 32)
WEIGHTS = np.array([[1.0, -1.0], [-1.0, 1.0]], dtype=np.float32)


def dense_model(weights: np.ndarray = WEIGHTS) -> bytes:
    """Return a flatbuffer: probabilities = softmax(x · weightsᵀ)."""
    graph = Graph(Model())
    x = graph.input("x", (-1, weights.shape[1]), "float32")
    graph.output("probabilities", graph.softmax(graph.fully_connected(x, weights)))
    return graph.finish()


def dense_signature(
    *, features: Sequence[str] = FEATURES, image: ImageSpec | None = None, count: int | None = None
) -> Signature:
    width = count or len(features)
    shape = (-1, width)
    return Signature(
        task="classification",
        inputs=(TensorSpec(name="x", shape=shape, dtype="float32"),),
        outputs=(
            TensorSpec(
                name="probabilities",
                shape=(-1, len(LABELS)),
                dtype="float32",
                role="probabilities",
            ),
        ),
        features=()
        if image
        else tuple(FeatureSpec(name=name, low=-5.0, high=5.0) for name in features),
        image=image,
        targets=one_target(LABELS),
    )


def dense_profile(names: Sequence[str] = FEATURES) -> ReferenceProfile:
    bins = Bins(edges=(-1.0, 0.0, 1.0))
    return ReferenceProfile(
        quantities=tuple(
            MonitoredQuantity(name=name, bins=bins, counts=(5, 5, 5, 5), low=-5.0, high=5.0)
            for name in names
        ),
        class_counts=(10, 10),
        row_count=20,
    )


def golden_set(
    model: bytes, *, width: int = 2, wrong_by: float = 0.0, precision: Precision = "float32"
) -> GoldenSet:
    rows = np.random.default_rng(0).normal(size=(8, width)).astype(np.float32)
    engine = open_engine(model)
    outputs = engine.run([rows])
    engine.close()
    return GoldenSet(
        precision=precision,
        inputs=(to_blob(rows),),
        outputs=tuple(to_blob(output + np.float32(wrong_by)) for output in outputs),
        tolerance=1e-5,
    )


def make_bundle(
    release: int = 1,
    *,
    key: SigningKey = KEY,
    device_classes: Sequence[str] = ("x86",),
    weights: np.ndarray = WEIGHTS,
    golden_wrong_by: float = 0.0,
    model: bytes | None = None,
    golden: GoldenSet | None = None,
    min_runtime: str = "2.3.0",
    name: str = "pump",
) -> bytes:
    """Return a signed bundle of the dense model."""
    width = weights.shape[1]
    model = model or dense_model(weights)
    features = FEATURES if width == len(FEATURES) else tuple(f"f{i}" for i in range(width))
    return pack(
        name=name,
        release=release,
        device_classes=device_classes,
        variants=(Variant(precision="float32", min_runtime=min_runtime, op_versions={}),),
        models={"float32": model},
        signature=dense_signature(features=features),
        profile=dense_profile(features),
        golden=(golden or golden_set(model, width=width, wrong_by=golden_wrong_by),),
        lineage=Lineage(
            data_sha256="0" * 64, split_sha256="0" * 64, candidate="test", metric="accuracy"
        ),
        key=key,
    )


def two_variants(float16: bytes | None = None) -> bytes:
    """A bundle whose two variants give opposite answers, so that one sees which one runs."""
    models = {"float32": dense_model(WEIGHTS), "float16": float16 or dense_model(-WEIGHTS)}
    good = dense_model(-WEIGHTS)
    return pack(
        name="two",
        release=1,
        device_classes=("x86",),
        variants=tuple(
            Variant(precision=name, min_runtime="2.3.0", op_versions={}, arena_bytes=arena)
            for name, arena in (("float16", 96), ("float32", 64))
        ),
        models=models,
        signature=dense_signature(),
        profile=dense_profile(),
        golden=tuple(
            golden_set(model, precision=name)
            for name, model in (("float16", good), ("float32", models["float32"]))
        ),
        lineage=Lineage(
            data_sha256="0" * 64, split_sha256="0" * 64, candidate="test", metric="accuracy"
        ),
        key=KEY,
    )


def trust(**options: object) -> TrustPolicy:
    return TrustPolicy(keys=(KEY.public,), **options)  # type: ignore[arg-type]


@dataclass
class Device:
    """A provisioned and flashed root."""

    path: Path
    bundle: bytes = field(default_factory=make_bundle)
    settings: str = ""
    device_id: str = "pump-1"

    def __post_init__(self) -> None:
        self.root = DeviceRoot(self.path)
        self.root.slots.mkdir(parents=True)
        self.root.trusted.write_bytes(KEY.public.to_pem())
        self.configure(self.settings)
        if self.bundle:
            self.root.slot("a").write_bytes(self.bundle)
            write_active(self.path, "a")

    def configure(self, settings: str) -> None:
        head = f"[device]\nid = {json.dumps(self.device_id)}\nclass = 'x86'\n"
        self.root.config.write_text(head + settings)

    @property
    def sha256(self) -> str:
        return sha256_hex(self.bundle)


def desired(
    bundle: bytes, url: str, *, ver: int = 1, health: HealthPolicy | None = None
) -> DesiredState:
    return DesiredState(
        ver=ver,
        sha256=sha256_hex(bundle),
        size_bytes=len(bundle),
        url=url,
        health=health or HealthPolicy(min_predictions=3, min_duration_ms=0),
    )
