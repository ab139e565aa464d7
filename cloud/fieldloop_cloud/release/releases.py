"""The releases of a home: bundles that it has signed, found by file or by hash."""

from pathlib import Path

from fieldloop.bundle import MAX_BUNDLE_BYTES, sha256_hex, unpack
from fieldloop.errors import BundleError, ConfigError, DataError
from fieldloop.integrity import TrustPolicy
from fieldloop.manifest import BundleContent
from fieldloop_cloud.files import write_file
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import public_key


def published(home: Home) -> dict[str, BundleContent]:
    """Return the home's readable releases by hash, the newest release number last."""
    trust = TrustPolicy(keys=(public_key(home),))
    found = []
    for path in home.releases.glob("*.flb"):
        try:
            found.append(unpack(read_bundle(path), trust=trust))
        except (BundleError, DataError):
            # Not ours or damaged: devices refuse it too.
            continue
    found.sort(key=lambda content: content.manifest.release)
    return {content.sha256: content for content in found}


def find_release(home: Home, model: str) -> BundleContent | None:
    """Return the release whose hash begins with these hex digits; None if there is no such one."""
    found = [content for sha256, content in published(home).items() if sha256.startswith(model)]
    return found[-1] if found and model else None


def publish(home: Home, bundle: Path) -> BundleContent:
    """Put a bundle that this home signed among its releases (if it is not there) and return it.

    Raises:
        DataError: The file cannot be read.
        BundleError: It is malformed or signed by somebody else.
    """
    data = read_bundle(bundle)
    content = unpack(data, trust=TrustPolicy(keys=(public_key(home),)), where=str(bundle))
    path = home.release_file(sha256_hex(data))
    if not path.exists():
        write_file(path, data)
    return content


def resolve(home: Home, bundle: str) -> BundleContent:
    """Return a release given as a file or as the beginning of its hash.

    Raises:
        ConfigError: There is no such release.
        DataError: The file cannot be read.
        BundleError: It is malformed or signed by somebody else.
    """
    path = Path(bundle)
    if path.is_file() or path.suffix == ".flb":
        return publish(home, path)
    content = find_release(home, bundle.lower())
    if content is None:
        raise ConfigError(
            f"there is no release {bundle!r}",
            where=str(home.releases),
            advice="Name a .flb file or the first digits of a release's hash.",
        )
    return content


def open_bundle(path: Path | str, home: Home) -> BundleContent:
    """Read a bundle that this home signed.

    Raises:
        DataError: The file cannot be read.
        BundleError: It is malformed or signed by somebody else.
    """
    return unpack(read_bundle(Path(path)), trust=TrustPolicy(keys=(public_key(home),)))


def read_bundle(path: Path) -> bytes:
    """Read a bundle's bytes, refusing what cannot be one by its size.

    Raises:
        DataError: The file is missing, unreadable or too large.
    """
    try:
        size = path.stat().st_size
        if size <= MAX_BUNDLE_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the file cannot be read: {error.strerror}",
            where=str(path),
            advice="Check the path; `fieldloop bundle` writes .flb files.",
        ) from error
    raise DataError(
        f"a file of {size} bytes is no bundle",
        where=str(path),
        advice=f"A bundle has at most {MAX_BUNDLE_BYTES} bytes.",
    )
