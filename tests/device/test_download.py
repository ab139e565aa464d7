import os

import pytest
from tests.support.file_server import serving

from fieldloop.bundle import sha256_hex
from fieldloop.errors import (
    BundleError,
    EnvironmentFaultError,
    NotConnectedError,
    RefusedError,
)
from fieldloop.state import DesiredState
from fieldloop_device import download as module
from fieldloop_device.download import download

CONTENT = bytes(range(256)) * 2000


def wish(server, **changes):
    values = {
        "ver": 1,
        "sha256": sha256_hex(CONTENT),
        "size_bytes": len(CONTENT),
        "url": server.url,
    }
    return DesiredState(**{**values, **changes})


def fetch(server, part, **changes):
    return download(wish(server, **changes), part, min_bytes_per_s=1)


@pytest.fixture
def part(tmp_path):
    return tmp_path / "x.part"


def test_a_whole_file_arrives(part):
    with serving(CONTENT) as server:
        assert fetch(server, part)
    assert part.read_bytes() == CONTENT


def test_a_cut_connection_is_resumed_where_it_stopped(part):
    with serving(CONTENT, cut_after=200_000) as server:
        with pytest.raises(NotConnectedError):
            fetch(server, part)
        assert 0 < part.stat().st_size <= 200_000
        server.cut_after = None
        assert fetch(server, part)
        assert server.requests[1].startswith("bytes=")
    assert part.read_bytes() == CONTENT


def test_a_server_without_length_and_with_an_early_end_is_resumed(part):
    with serving(CONTENT, cut_after=100_000, without_length=True) as server:
        with pytest.raises(NotConnectedError, match="ended after 100000"):
            fetch(server, part)
        server.cut_after = None
        assert fetch(server, part)
    assert part.read_bytes() == CONTENT


def test_a_complete_part_needs_no_network(part):
    part.write_bytes(CONTENT)
    with serving(CONTENT, status=500) as server:
        assert fetch(server, part)
        assert server.requests == []


def test_a_server_that_ignores_ranges_starts_over(part):
    part.write_bytes(b"\0" * 1000)
    with serving(CONTENT, ignores_range=True) as server:
        assert fetch(server, part)
    assert part.read_bytes() == CONTENT


def test_another_range_than_asked_for_is_not_written(part):
    part.write_bytes(CONTENT[:1000])
    with serving(CONTENT, wrong_range=True) as server, pytest.raises(NotConnectedError):
        fetch(server, part)
    assert part.read_bytes() == CONTENT[:1000]


def test_a_part_that_rotted_is_thrown_away(part):
    part.write_bytes(b"\0" * 1000)
    with serving(CONTENT) as server:
        with pytest.raises(BundleError, match="hash"):
            fetch(server, part)
        assert not part.exists()
        assert fetch(server, part)


@pytest.mark.parametrize("without_length", [True, False])
def test_an_endless_file_is_never_read_beyond_the_promised_size(part, without_length):
    endless = CONTENT + b"more" * 1_000_000
    with serving(endless, without_length=without_length) as server:
        if without_length:
            assert fetch(server, part)
            assert part.read_bytes() == CONTENT
        else:
            with pytest.raises(BundleError, match="offers"):
                fetch(server, part)


def test_a_part_larger_than_the_file_is_begun_anew(part):
    part.write_bytes(b"\0" * (len(CONTENT) + 1))
    with serving(CONTENT) as server:
        assert fetch(server, part)


@pytest.mark.parametrize(
    ("status", "error"), [(404, RefusedError), (403, RefusedError), (503, NotConnectedError)]
)
def test_answers_of_the_server_are_told_apart(part, status, error):
    with serving(CONTENT, status=status) as server, pytest.raises(error, match=str(status)):
        fetch(server, part)


def test_a_range_that_the_server_cannot_give_starts_over(part):
    part.write_bytes(b"\0" * 10)
    with serving(CONTENT, status=416) as server, pytest.raises(NotConnectedError):
        fetch(server, part)
    assert not part.exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "nonsense"])
def test_only_http_is_fetched(part, url):
    with serving(CONTENT) as server, pytest.raises(RefusedError, match="http"):
        fetch(server, part, url=url)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_cannot_leave_http(part, target):
    with (
        serving(CONTENT, redirect=target) as server,
        pytest.raises((NotConnectedError, RefusedError)),
    ):
        fetch(server, part)
    assert not part.exists()


def test_a_redirect_to_another_file_is_found_out_by_its_hash(part):
    with (
        serving(b"x" * len(CONTENT)) as other,
        serving(CONTENT, redirect=other.url) as server,
        pytest.raises(BundleError, match="hash"),
    ):
        fetch(server, part)
    assert not part.exists()


def test_nobody_there_is_tried_later(part):
    with serving(CONTENT) as server:
        pass
    with pytest.raises(NotConnectedError):
        fetch(server, part)


def test_a_trickle_is_given_up(part, monkeypatch):
    monkeypatch.setattr(module, "_RATE_WINDOW_S", 0.2)
    with (
        serving(CONTENT, pause_s=0.02, chunk_bytes=1) as server,
        pytest.raises(NotConnectedError, match="bytes a second"),
    ):
        download(wish(server), part, min_bytes_per_s=10_000)


def test_silence_is_given_up(part, monkeypatch):
    monkeypatch.setattr(module, "_STALL_S", 0.2)
    with serving(CONTENT, pause_s=0.8) as server, pytest.raises(NotConnectedError):
        fetch(server, part)


def test_it_stops_when_it_is_cancelled_and_goes_on_later(part):
    chunks = 0

    def enough():
        nonlocal chunks
        chunks += 1
        return chunks > 3

    with serving(CONTENT) as server:
        assert not download(wish(server), part, min_bytes_per_s=1, is_cancelled=enough)
        assert fetch(server, part)
    assert part.read_bytes() == CONTENT


def test_a_full_disk_is_named_and_its_space_given_back(part, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with serving(CONTENT) as server, pytest.raises(EnvironmentFaultError, match="No space"):
        fetch(server, part)
    assert not part.exists()


def test_an_unwritable_directory_is_not_a_network_problem(tmp_path):
    with serving(CONTENT) as server, pytest.raises(EnvironmentFaultError):
        fetch(server, tmp_path / "missing" / "x.part")
