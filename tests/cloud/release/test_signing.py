"""The release key is made once, kept private and never overwritten; release numbers only grow."""

import multiprocessing
import stat

import pytest
from tests.support.releases import publish

from fieldloop.errors import ConfigError
from fieldloop.integrity import PublicKey
from fieldloop_cloud.release import counter
from fieldloop_cloud.release.counter import next_release
from fieldloop_cloud.release.home import Home
from fieldloop_cloud.release.signing import public_key, signing_key


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "fleet").create()


def test_the_key_is_made_once_for_its_owner_and_its_public_part_is_exported(home):
    key = signing_key(home)
    assert stat.S_IMODE(home.signing_key_file.stat().st_mode) == 0o600
    assert signing_key(home).public == key.public
    assert PublicKey.from_pem(home.public_key_file.read_bytes()) == key.public
    assert sorted(path.name for path in home.keys.iterdir()) == ["release.pem", "release.pub.pem"]


def test_a_key_that_others_can_read_is_refused(home):
    signing_key(home)
    home.signing_key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="read by other users") as caught:
        signing_key(home)
    assert "chmod 600" in caught.value.advice


def test_a_damaged_key_is_refused_and_left_alone(home):
    signing_key(home)
    home.signing_key_file.write_bytes(b"no key")
    with pytest.raises(ConfigError, match=r"release\.pem"):
        signing_key(home)
    assert home.signing_key_file.read_bytes() == b"no key"


def test_a_lost_key_is_not_replaced_in_silence(home):
    signing_key(home)
    home.signing_key_file.unlink()
    with pytest.raises(ConfigError, match=r"is lost.*release\.pem.*backup"):
        signing_key(home)
    assert not home.signing_key_file.exists()


def _key_id(path):
    return public_key(Home(path)).key_id


def test_processes_that_need_the_first_key_at_once_get_the_same_one(home):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert len(set(pool.map(_key_id, [home.path] * 6))) == 1


def test_numbers_grow_and_survive_the_loss_of_the_counter(home):
    assert [next_release(home), next_release(home)] == [1, 2]
    publish(home, release=41)
    home.counter_file.unlink()
    assert next_release(home) == 42


def test_a_number_is_written_down_before_it_is_used(home, monkeypatch):
    assert next_release(home) == 1
    real = counter.write_file

    def dies_afterwards(path, data):
        real(path, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(counter, "write_file", dies_afterwards)
    with pytest.raises(KeyboardInterrupt):
        next_release(home)
    monkeypatch.undo()
    assert next_release(home) == 3


def test_a_damaged_counter_is_not_guessed(home):
    home.counter_file.write_text("many")
    with pytest.raises(ConfigError, match="no number"):
        next_release(home)
