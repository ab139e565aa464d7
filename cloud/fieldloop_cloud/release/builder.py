"""Build a release: a finished run or a compiled model becomes one signed, published bundle.

The way: take the shippable variants, keep those that every device class can run, give the bundle
the next release number, pack and sign it, read it back as a device would, and only then publish it
under its hash. The same model, key, name and number give the same bytes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fieldloop.bundle import pack, sha256_hex, unpack
from fieldloop.errors import BundleError, CompatibilityError, ConfigError
from fieldloop.integrity import SigningKey, TrustPolicy
from fieldloop.manifest import Precision, Variant
from fieldloop.signature import Signature
from fieldloop_cloud.compile.compiled import Compiled
from fieldloop_cloud.compile.inspect import ModelFacts, inspect
from fieldloop_cloud.compile.runtimes import min_runtime
from fieldloop_cloud.files import check_writable, write_file
from fieldloop_cloud.release.contents import Contents, Shipped, contents_of_run
from fieldloop_cloud.release.counter import next_release
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.own_model import contents_of_model
from fieldloop_cloud.release.signing import signing_key
from fieldloop_cloud.release.targets import Target, is_class_name, load_target, version_tuple
from fieldloop_cloud.train.run import Run

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """A published bundle.

    Attributes:
        path: The file.
        sha256: Hash of its bytes, hex: the name it goes by.
        size_bytes: Its size.
        name: The model's name.
        release: Its release number.
        device_classes: Who may run it.
        precisions: Variants inside, the preferred first.
        left_out: Variants that some device class cannot run, and why.
    """

    path: Path
    sha256: str
    size_bytes: int
    name: str
    release: int
    device_classes: tuple[str, ...]
    precisions: tuple[str, ...]
    left_out: Mapping[str, str]


def bundle(
    model: Run | Compiled,
    *,
    name: str,
    home: Home | Path | str,
    device_classes: Sequence[str | Path] = (),
    reference: Any = None,
    truth: Any = None,
    parent_sha256: str = "",
    out: Path | None = None,
) -> BundleFile:
    """Sign and publish the chosen model of a run, or a compiled model of one's own.

    Args:
        model: A run, from `train` or `Run.load`; or a compiled model, from `to_tflite`.
        name: The model's name, `[a-z0-9-]{1,64}`.
        home: The fleet's home; made if missing, with its signing key.
        device_classes: Names or TOML paths of the targets; by default the run's own.
        reference: For a compiled model: ordinary rows, (n, n_features), as given to `to_tflite`
            (float32 as encoded, or raw: array, list, DataFrame). The field is compared with them
            and golden answers are drawn from them; best are rows that it was not fitted on.
        truth: Their labels in the model's own words, or their values, (n,); gives the score, and
            lets accuracy be estimated in the field.
        parent_sha256: Bundle that this one replaces; empty for the first.
        out: A second place to write the bundle to.

    Raises:
        ConfigError: The name or a device class is wrong; a compiled model without device classes
            or reference rows, or a run with reference rows.
        DataError: Reference rows or truth that do not fit each other or the model.
        SignatureError: A reference row that does not fit the model.
        CompatibilityError: No variant runs on every device class; names op, version and runtime.
        EnvironmentFaultError: The home or `out` cannot be written.
    """
    home = home if isinstance(home, Home) else Home(Path(home))
    _check_name(name)
    _check_request(parent_sha256, out)
    contents = _contents(model, device_classes, reference, truth)
    targets = [load_target(item) for item in (device_classes or contents.device_classes)]
    facts = {item.precision: inspect(item.compiled.tflite) for item in contents.variants}
    chosen, left_out = _runnable(contents.variants, facts, targets)
    key = signing_key(home.create())
    lineage = contents.lineage
    signature = chosen[0].compiled.signature
    data = pack(
        name=name,
        release=next_release(home),
        device_classes=tuple(dict.fromkeys(target.name for target in targets)),
        variants=tuple(_variant(item, facts[item.precision], signature) for item in chosen),
        models={item.precision: item.compiled.tflite for item in chosen},
        signature=signature,
        profile=contents.profile,
        golden=tuple(item.golden for item in chosen),
        lineage=msgspec.structs.replace(
            lineage, parent_sha256=parent_sha256 or lineage.parent_sha256
        ),
        key=key,
    )
    return _publish(data, key, home, left_out=left_out, out=out)


def _contents(
    model: Run | Compiled, device_classes: Sequence[str | Path], reference: Any, truth: Any
) -> Contents:
    if isinstance(model, Compiled):
        if not device_classes:
            raise ConfigError(
                "it is not known which devices may run this model",
                where="device_classes",
                advice="Name at least one device class, for example pi4.",
            )
        return contents_of_model(model, reference=reference, truth=truth)
    if not isinstance(model, Run):
        raise ConfigError(
            f"a bundle is made from a run or a compiled model, not from {type(model).__name__}",
            where="model",
            advice="Compile it first: to_tflite(model, example=X).",
        )
    if reference is not None or truth is not None:
        raise ConfigError(
            "a run brings its own reference rows",
            where="reference",
            advice="Leave reference and truth out; they are for a compiled model of your own.",
        )
    return contents_of_run(model)


def _check_name(name: str) -> None:
    if not is_class_name(name):
        raise ConfigError(
            f"{name!r} is no model name",
            advice="Use 1 to 64 lower-case letters, digits and hyphens.",
        )


def _check_request(parent_sha256: str, out: Path | None) -> None:
    """Check what would otherwise be found out after the release was published."""
    if parent_sha256 and not _SHA256.fullmatch(parent_sha256):
        raise ConfigError(
            f"{parent_sha256!r} is no bundle's hash",
            where="replaces",
            advice="Give the 64 hex digits that `fieldloop inspect` shows.",
        )
    if out is None:
        return
    if out.is_dir():
        raise ConfigError("the output is a directory", where=str(out), advice="Name a file.")
    check_writable(out.parent)


def _variant(item: Shipped, facts: ModelFacts, signature: Signature) -> Variant:
    shared = item.compiled.signature == signature
    return Variant(
        precision=item.precision,
        min_runtime=facts.min_runtime,
        op_versions=dict(facts.op_versions),
        score=item.score,
        latency_p50_ms=item.latency_p50_ms,
        latency_p90_ms=item.latency_p90_ms,
        arena_bytes=facts.arena_bytes,
        signature=None if shared else item.compiled.signature,
    )


def _runnable(
    variants: Sequence[Shipped], facts: Mapping[Precision, ModelFacts], targets: Sequence[Target]
) -> tuple[list[Shipped], dict[str, str]]:
    """Keep the variants that every target can run; the others with the reason."""
    chosen: list[Shipped] = []
    left_out: dict[str, str] = {}
    for item in variants:
        problems = [
            problem
            for target in targets
            for problem in incompatibilities(item.precision, facts[item.precision], target)
        ]
        if problems:
            left_out[item.precision] = "; ".join(problems)
        else:
            chosen.append(item)
    if not chosen:
        raise CompatibilityError(
            "no variant of the model runs on every device class: "
            + "; ".join(f"{name}: {reason}" for name, reason in left_out.items()),
            where=", ".join(target.name for target in targets),
            advice="Update the runtime of these devices, build one bundle for each device class, "
            "or train for (compile to) what the weakest of them runs.",
        )
    return chosen, left_out


def incompatibilities(precision: str, facts: ModelFacts, target: Target) -> list[str]:
    """Say why a device class cannot run a flatbuffer; empty if it can."""
    problems: list[str] = []
    if precision not in target.precisions:
        problems.append(f"{target.name} runs {', '.join(target.precisions)}, not {precision}")
    if facts.size_bytes > target.max_model_bytes:
        problems.append(
            f"{facts.size_bytes} bytes are more than the {target.max_model_bytes} of {target.name}"
        )
    if facts.custom_ops:
        problems.append(f"{target.name} has no custom op {', '.join(facts.custom_ops)}")
    for op, version in facts.op_versions.items():
        needed = min_runtime({op: version})
        if (version_tuple(needed) or ()) > (version_tuple(target.runtime_version) or ()):
            problems.append(
                f"{op} version {version} needs TFLite {needed}, but {target.name} has "
                f"{target.runtime} with the ops of {target.runtime_version}"
            )
    return problems


def _publish(
    data: bytes, key: SigningKey, home: Home, *, left_out: Mapping[str, str], out: Path | None
) -> BundleFile:
    """Read the bundle back as a device would, then write it under its hash."""
    sha256 = sha256_hex(data)
    content = unpack(data, trust=TrustPolicy(keys=(key.public,)))
    if content.sha256 != sha256:
        raise BundleError(
            "the bundle reads back differently from what was written",
            advice="Report this with the run's directory; nothing was published.",
        )
    path = home.release_file(sha256)
    write_file(path, data)
    if out is not None:
        write_file(out, data)
    return BundleFile(
        path=out or path,
        sha256=sha256,
        size_bytes=len(data),
        name=content.manifest.name,
        release=content.manifest.release,
        device_classes=content.manifest.device_classes,
        precisions=tuple(item.precision for item in content.manifest.variants),
        left_out=left_out,
    )
