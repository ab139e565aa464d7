"""Fetching a bundle over HTTP into a partial file that survives interruptions.

Only the bytes' hash decides whether a download is right, so nothing else needs to be trusted: a
server that ignores `Range`, redirects or lies about the length costs a new attempt, never more.
"""

import errno
import hashlib
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from fieldloop.errors import (
    BundleError,
    EnvironmentFaultError,
    NotConnectedError,
    RefusedError,
)
from fieldloop.state import DesiredState, ShadowWish
from fieldloop_device.stoppable_http import opened

_CHUNK_BYTES = 64 * 1024
_STALL_S = 15.0
_RATE_WINDOW_S = 30.0
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416
_PERMANENT = {400, 401, 403, 404, 405, 410, 451}
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}

Wanted = DesiredState | ShadowWish
"""A bundle's url, size and hash."""


def download(
    desired: Wanted,
    part: Path,
    *,
    min_bytes_per_s: int,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> bool:
    """Fetch a bundle; goes on where an earlier attempt stopped.

    Args:
        desired: Names url, size and hash.
        part: The partial file; complete and synced to disk when this returns True.
        min_bytes_per_s: A slower transfer is given up.
        is_cancelled: Asked ten times a second; ends whatever is waited for.

    Returns:
        False if it was cancelled.

    Raises:
        RefusedError: The server does not have it, or the address is not http(s).
        NotConnectedError: No connection, a stall, or an end before its time: try again later.
        BundleError: The bytes are not the wanted ones; the partial file is gone.
        EnvironmentFaultError: The disk is full or not writable.
    """
    _check_url(desired.url)
    have = _usable_size(part, desired)
    if have < desired.size_bytes:
        try:
            request = _request(desired.url, have)
            with opened(request, timeout_s=_STALL_S, is_stopped=is_cancelled) as response:
                offset = _offset(response, have, desired)
                complete = _receive(
                    response,
                    part,
                    offset,
                    desired,
                    min_bytes_per_s=min_bytes_per_s,
                    is_cancelled=is_cancelled,
                )
                if not complete:
                    return False
        except urllib.error.HTTPError as error:
            raise _http_failure(error, part, desired) from error
        except (OSError, HTTPException, NotConnectedError) as error:
            if is_cancelled():
                return False
            if isinstance(error, NotConnectedError):
                raise
            raise _failure(error, desired, part) from error
    _check_content(part, desired)
    return True


def _check_url(url: str) -> None:
    if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise RefusedError(
            "a bundle is only fetched over http or https", where=url, advice="Correct the url."
        )


def _usable_size(part: Path, desired: Wanted) -> int:
    try:
        size = part.stat().st_size
    except FileNotFoundError:
        return 0
    if size > desired.size_bytes:
        part.unlink()
        return 0
    return size


def _request(url: str, have: int) -> urllib.request.Request:
    request = urllib.request.Request(url)  # noqa: S310 - the scheme was checked
    if have:
        request.add_header("Range", f"bytes={have}-")
    return request


def _offset(response: HTTPResponse, have: int, desired: Wanted) -> int:
    """Return where the response's bytes begin; a server may ignore `Range`."""
    offset = 0
    if response.status == _PARTIAL_CONTENT:
        begin = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        if begin != str(have):
            raise NotConnectedError(
                "the server sent another range than asked for",
                where=desired.url,
                advice="It is tried again.",
            )
        offset = have
    length = response.headers.get("Content-Length")
    if length is not None and length.isdigit() and offset + int(length) != desired.size_bytes:
        raise BundleError(
            f"the server offers {offset + int(length)} bytes, {desired.size_bytes} are expected",
            where=desired.url,
            advice="Publish the bundle again.",
        )
    return offset


def _receive(
    response: HTTPResponse,
    part: Path,
    offset: int,
    desired: Wanted,
    *,
    min_bytes_per_s: int,
    is_cancelled: Callable[[], bool],
) -> bool:
    position = offset
    window_start, window_position = time.monotonic(), position
    with part.open("r+b" if offset else "wb") as file:
        file.seek(offset)
        while position < desired.size_bytes:
            if is_cancelled():
                return False
            chunk = response.read1(min(_CHUNK_BYTES, desired.size_bytes - position))
            if not chunk:
                _sync(file)
                raise NotConnectedError(
                    f"the connection ended after {position} of {desired.size_bytes} bytes",
                    where=desired.url,
                    advice="It is resumed.",
                )
            file.write(chunk)
            position += len(chunk)
            elapsed = time.monotonic() - window_start
            if elapsed >= _RATE_WINDOW_S:
                if position - window_position < min_bytes_per_s * elapsed:
                    raise NotConnectedError(
                        f"the server sends less than {min_bytes_per_s} bytes a second",
                        where=desired.url,
                        advice="It is resumed.",
                    )
                window_start, window_position = time.monotonic(), position
        _sync(file)
    return True


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check_content(part: Path, desired: Wanted) -> None:
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != desired.sha256:
        part.unlink()
        raise BundleError(
            "the downloaded bytes do not have the expected hash",
            where=desired.url,
            advice="Publish the bundle again.",
        )


def _http_failure(
    error: urllib.error.HTTPError, part: Path, desired: Wanted
) -> RefusedError | NotConnectedError:
    error.close()
    if error.code == _RANGE_NOT_SATISFIABLE:
        part.unlink(missing_ok=True)
    kind = RefusedError if error.code in _PERMANENT else NotConnectedError
    return kind(
        f"the server answered {error.code} {error.reason}",
        where=desired.url,
        advice="Check that the release is published.",
    )


def _failure(
    error: OSError | HTTPException, desired: Wanted, part: Path
) -> NotConnectedError | EnvironmentFaultError:
    if isinstance(error, OSError) and error.filename == str(part):
        return _disk_failure(error, part)
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return _disk_failure(error, part)
    return NotConnectedError(
        f"the bundle cannot be fetched: {error}",
        where=desired.url,
        advice="Check network and address; it is tried again.",
    )


def _disk_failure(error: OSError, part: Path) -> EnvironmentFaultError:
    # A half download must not keep the outbox from its space.
    part.unlink(missing_ok=True)
    return EnvironmentFaultError(
        f"the download cannot be stored: {error.strerror}",
        where=str(part),
        advice="Free disk space or check whether the root is mounted read-only.",
    )
