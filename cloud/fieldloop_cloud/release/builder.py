"""Build a release: a finished run becomes one signed, published bundle.

The way: take the run's shippable variants, keep those that every device class can run, give the
bundle the next release number, pack and sign it, read it back as a device would, and only then
publish it under its hash. The same run, key, name and number give the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fieldloop.bundle import pack, sha256_hex, unpack
from fieldloop.errors import BundleError, CompatibilityError, ConfigError
from fieldloop.integrity import SigningKey, TrustPolicy
from fieldloop.manifest import Precision, Variant
from fieldloop_cloud.compile.inspect import ModelFacts, inspect
from fieldloop_cloud.compile.runtimes import min_runtime
from fieldloop_cloud.files import write_file
from fieldloop_cloud.release.counter import next_release
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import signing_key
from fieldloop_cloud.release.targets import Target, is_class_name, load_target, version_tuple
from fieldloop_cloud.select.scored import Scored
from fieldloop_cloud.train.run import Run


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
    run: Run,
    *,
    name: str,
    home: Home | Path | str,
    device_classes: Sequence[str | Path] = (),
    parent_sha256: str = "",
    out: Path | None = None,
) -> BundleFile:
    """Sign and publish the chosen model of a run.

    Args:
        run: From `train` or `Run.load`.
        name: The model's name, `[a-z0-9-]{1,64}`.
        home: The fleet's home; made if missing, with its signing key.
        device_classes: Names or TOML paths of the targets; by default the run's own.
        parent_sha256: Bundle that this one replaces; empty for the first.
        out: A second place to write the bundle to.

    Raises:
        ConfigError: The name or a device class is wrong.
        CompatibilityError: No variant runs on every device class; names op, version and runtime.
        EnvironmentFaultError: The home or `out` cannot be written.
    """
    home = home if isinstance(home, Home) else Home(Path(home))
    _check_name(name)
    targets = [load_target(item) for item in (device_classes or (run.device,))]
    facts = {item.precision: inspect(item.compiled.tflite) for item in run.chosen_variants}
    chosen, left_out = _runnable(run.chosen_variants, facts, targets)
    key = signing_key(home.create())
    lineage = msgspec.structs.replace(
        run.lineage, parent_sha256=parent_sha256 or run.lineage.parent_sha256
    )
    precisions = [item.precision for item in chosen]
    data = pack(
        name=name,
        release=next_release(home),
        device_classes=tuple(dict.fromkeys(target.name for target in targets)),
        variants=tuple(_variant(run, item, facts[item.precision]) for item in chosen),
        models={item.precision: item.compiled.tflite for item in chosen},
        signature=chosen[0].compiled.signature,
        profile=run.profile,
        golden=tuple(item for item in run.golden if item.precision in precisions),
        lineage=lineage,
        key=key,
    )
    return _publish(data, key, home, left_out=left_out, out=out)


def _check_name(name: str) -> None:
    if not is_class_name(name):
        raise ConfigError(
            f"{name!r} is no model name",
            advice="Use 1 to 64 lower-case letters, digits and hyphens.",
        )


def _variant(run: Run, item: Scored, facts: ModelFacts) -> Variant:
    shared = item.compiled.signature == run.signature
    return Variant(
        precision=item.precision,
        min_runtime=facts.min_runtime,
        op_versions=dict(facts.op_versions),
        score=run.score(item.precision),
        latency_p50_ms=item.latency_p50_ms,
        latency_p90_ms=item.latency_p90_ms,
        signature=None if shared else item.compiled.signature,
    )


def _runnable(
    variants: Sequence[Scored], facts: Mapping[Precision, ModelFacts], targets: Sequence[Target]
) -> tuple[list[Scored], dict[str, str]]:
    """Keep the variants that every target can run; the others with the reason."""
    chosen: list[Scored] = []
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
            "or train with --device set to the weakest of them.",
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
