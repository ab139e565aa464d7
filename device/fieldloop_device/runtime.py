"""A verified bundle, ready to answer.

`Runtime.open` reads the bytes once, verifies them, chooses a variant, loads it and warms it up;
`predict` takes what a sensor or a person gives and returns a typed answer. Threads may share a
runtime: the engine lets one at a time run, because an interpreter has one set of tensors.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np
from msgspec.structs import asdict
from numpy.typing import NDArray

from fieldloop.bundle import MAX_BUNDLE_BYTES, from_blob, unpack
from fieldloop.codec import Codec, Prediction
from fieldloop.device_root import DeviceRoot, read_active
from fieldloop.errors import (
    BundleError,
    CompatibilityError,
    ConfigError,
    FieldloopError,
    ModelRuntimeError,
)
from fieldloop.integrity import TrustPolicy
from fieldloop.interpreter import Engine, open_engine
from fieldloop.manifest import BundleContent, GoldenSet, Precision, Variant
from fieldloop.ranges import RangePolicy
from fieldloop.signature import Signature
from fieldloop_device.config import Isolation, load_config, read_trust

_MS = 1e-6


class Runtime:
    """One model of a verified bundle; make it with `open`.

    Args:
        content: The verified bundle.
        variant: Which of its forms runs.
        engine: The loaded form.
        out_of_range: What is done with values outside the range that was seen in training.

    Example:
        with Runtime.open("model.flb", trust=policy) as runtime:
            print(runtime.predict({"temperature": 21.5, "pressure": 1013.0}).label)
    """

    def __init__(
        self,
        content: BundleContent,
        variant: Variant,
        engine: Engine,
        *,
        out_of_range: RangePolicy = "flag",
    ) -> None:
        self.content = content
        self.variant = variant
        self.signature: Signature = variant.signature or content.signature
        self._engine = engine
        self._codec = Codec(self.signature, out_of_range=out_of_range)

    @classmethod
    def open(
        cls,
        source: Path | str | bytes,
        *,
        trust: TrustPolicy | None = None,
        device_root: Path | str | None = None,
        backend: str | None = None,
        num_threads: int = 1,
        precision: Precision | None = None,
        measured: Mapping[str, float] | None = None,
        out_of_range: RangePolicy = "flag",
        xnnpack: bool = True,
        delegate: str = "",
        isolation: Isolation = "thread",
    ) -> Self:
        """Verify a bundle and load it.

        Args:
            source: The bundle's file or its bytes.
            trust: Whose signature counts. There is no way to open an unsigned bundle.
            device_root: Take trusted keys and device class from this root instead.
            backend: Which runtime; None for the preferred one.
            num_threads: Threads for one prediction.
            precision: Run this variant and no other.
            measured: p50 latency in milliseconds by precision, as measured on this device; the
                fastest runs. Without it the bundle's own order counts.
            out_of_range: `flag` (name the features in the answer), `reject` or `clip` values
                outside the range that was seen in training.
            xnnpack: Whether float work is given to XNNPACK.
            delegate: Path of an external delegate's shared library; empty for none.
            isolation: `thread` runs the model in this process; `process` in one of its own, whose
                crash is an error and no more, for tens of microseconds a call.

        Raises:
            ConfigError: Nobody is trusted, or an unknown backend, precision, range policy or
                isolation.
            BundleError: The file is missing, corrupt or truncated.
            TrustError: Not signed by a trusted key, or a downgrade.
            CompatibilityError: For another device class, or no variant runs here.
            EnvironmentFaultError: No TFLite runtime is installed, or the delegate cannot be loaded.
        """
        if trust is None:
            trust = _root_trust(device_root, backend)
        data = source if isinstance(source, bytes) else read_bundle(Path(source))
        name = "" if isinstance(source, bytes) else str(source)
        content = unpack(data, trust=trust, where=name)
        variants = _candidates(content, precision, measured or {})
        if isolation not in get_args(Isolation):
            raise ConfigError(
                f"'{isolation}' is not an isolation",
                advice=f"Use one of {', '.join(get_args(Isolation))}.",
            )
        load: Callable[..., Engine] = open_engine
        if isolation == "process":
            from fieldloop_device.isolation import IsolatedEngine  # noqa: PLC0415 - few need it

            load = IsolatedEngine
        variant, engine = _load(
            content,
            variants,
            lambda model: load(
                model,
                backend=backend,
                num_threads=num_threads,
                xnnpack=xnnpack,
                delegate=delegate,
            ),
        )
        try:
            runtime = cls(content, variant, engine, out_of_range=out_of_range)
            runtime._warm_up()
        except BaseException:
            engine.close()
            raise
        return runtime

    @classmethod
    def open_root(cls, device_root: Path | str) -> Self:
        """Open the active slot of a device root.

        Raises:
            ConfigError: The root was never flashed.
            FieldloopError: As `open`.
        """
        root = DeviceRoot(Path(device_root))
        runtime = load_config(root).runtime
        return cls.open(active_bundle(root), device_root=device_root, **asdict(runtime))

    @property
    def sha256(self) -> str:
        """Hash of the bundle."""
        return self.content.sha256

    @property
    def release(self) -> int:
        """The bundle's release counter."""
        return self.content.manifest.release

    @property
    def precision(self) -> Precision:
        """How the running variant is quantized."""
        return self.variant.precision

    @property
    def backend(self) -> str:
        """Runtime and version, for example `ai-edge-litert 2.3.0`."""
        return self._engine.backend

    @property
    def golden(self) -> GoldenSet:
        """Inputs and expected outputs of the running variant."""
        return next(golden for golden in self.content.golden if golden.precision == self.precision)

    def predict(self, raw: object) -> Prediction:
        """Answer one raw row.

        Args:
            raw: A dict by feature name, a sequence or array in the features' order, or an image
                as array, bytes or path.

        Raises:
            SignatureError: A value does not fit; names the feature.
            DataError: An image file that is none.
            ModelRuntimeError: The interpreter failed, or the runtime is closed.
        """
        return self.answer(raw)[1]

    def predict_batch(self, raw: Sequence[object] | NDArray[Any]) -> list[Prediction]:
        """Answer many raw rows in one run; each latency is the batch's divided by its rows.

        Raises:
            FieldloopError: As `predict`.
        """
        start = time.perf_counter_ns()
        rows, outside = self._codec.admit_rows(raw)
        outputs = self._engine.run(self._codec.tensors(rows))
        elapsed_ms = (time.perf_counter_ns() - start) * _MS
        latency_ms = elapsed_ms / max(len(rows), 1)
        return self._codec.decode(outputs, outside=outside, latency_ms=latency_ms)

    def answer(self, raw: object) -> tuple[NDArray[np.float32], Prediction]:
        """Like `predict`, with the encoded row, shape (1, …), for the monitor."""
        start = time.perf_counter_ns()
        rows, outside = self._codec.admit(raw)
        outputs = self._engine.run(self._codec.tensors(rows))
        elapsed_ms = (time.perf_counter_ns() - start) * _MS
        return rows, self._codec.decode(outputs, outside=(outside,), latency_ms=elapsed_ms)[0]

    def run(self, tensors: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run the engine on encoded tensors.

        Raises:
            SignatureError: A tensor that does not fit.
            ModelRuntimeError: The interpreter failed, or the runtime is closed.
        """
        return self._engine.run(tensors)

    def close(self) -> None:
        """Release the model; a prediction in another thread is finished first."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _warm_up(self) -> None:
        """Run one golden row: the first inference packs weights and is slower."""
        self.run([from_blob(blob)[:1] for blob in self.golden.inputs])


def active_bundle(root: DeviceRoot) -> Path:
    """Return the file of the active slot.

    Raises:
        ConfigError: The device was never flashed.
    """
    slot = read_active(root.path)
    if slot is None:
        raise ConfigError(
            "this device was never flashed",
            where=str(root.path),
            advice="Flash a bundle: fieldloop flash BUNDLE --to DIR.",
        )
    return root.slot(slot)


def read_bundle(path: Path) -> bytes:
    """Read a bundle's file, whose size is checked first.

    Raises:
        BundleError: It is missing, unreadable or larger than a bundle can be.
    """
    try:
        size = path.stat().st_size
        if size <= MAX_BUNDLE_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"the bundle cannot be read: {error.strerror}",
            where=str(path),
            advice="Check the path.",
        ) from error
    raise BundleError(
        f"{size} bytes are more than a bundle can have",
        where=str(path),
        advice="Check that this is a .flb file.",
    )


def _root_trust(device_root: Path | str | None, backend: str | None) -> TrustPolicy:
    if device_root is None:
        raise ConfigError(
            "nobody is trusted: a bundle is only opened with trusted keys",
            advice="Give trust=TrustPolicy(keys=…) or device_root=….",
        )
    root = DeviceRoot(Path(device_root))
    device_class = load_config(root).device.device_class
    return read_trust(root.trusted, device_class=device_class, backend=backend)


def _candidates(
    content: BundleContent, precision: Precision | None, measured: Mapping[str, float]
) -> list[Variant]:
    """Return the variants to try: the named one, or all, the fastest measured first."""
    variants = content.manifest.variants
    if precision is None:
        return sorted(variants, key=lambda item: measured.get(item.precision, float("inf")))
    named = [item for item in variants if item.precision == precision]
    if not named:
        raise ConfigError(
            f"the bundle has no {precision} variant",
            where=content.manifest.name,
            advice=f"Use one of {', '.join(item.precision for item in variants)}.",
        )
    return named


def _load(
    content: BundleContent,
    variants: Sequence[Variant],
    load: Callable[[bytes], Engine],
) -> tuple[Variant, Engine]:
    """Load the first variant that runs here."""
    reasons: list[FieldloopError] = []
    for variant in variants:
        try:
            return variant, load(content.models[variant.precision])
        except (CompatibilityError, ModelRuntimeError) as error:
            reasons.append(error)
    if len(reasons) == 1:
        raise reasons[0]
    raise CompatibilityError(
        "no variant of the bundle runs here: " + "; ".join(error.what for error in reasons),
        where=content.manifest.name,
        advice="Compile the model for this device's runtime.",
    )
