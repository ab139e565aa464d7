"""Bad input through the command line: a code, one paragraph, a way out, nothing half-written."""

import errno
import io
import os
import pickle
import socket

import joblib
import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from tests.support.commands import fieldloop
from tests.support.releases import bundle_bytes, publish

from fieldloop.integrity import SigningKey
from fieldloop.manifest import Variant
from fieldloop_cloud.cli import main
from fieldloop_cloud.cli.output import table
from fieldloop_cloud.release.home import BrokerSettings, FleetSettings, Home, HttpSettings
from fieldloop_cloud.release.provision import provision


def _snapshot(path):
    return {
        str(item.relative_to(path)): item.read_bytes() for item in path.rglob("*") if item.is_file()
    }


def refused(done, code, *said):
    """Check what every refusal has in common."""
    assert done.code == code, done.err
    assert "Traceback" not in done.err + done.out
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    assert done.err.rstrip().endswith("."), "it ends with advice"
    for words in said:
        assert words in errors[0]


def _csv(path, rows, header="a,b,y"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


GOOD = [f"{k % 7},{k % 5},{'hot' if k % 2 else 'cold'}" for k in range(60)]

TABLES = {
    "three rows": GOOD[:3],
    "one class only": [f"{k},{k % 5},hot" for k in range(60)],
    "a class with one row": [*GOOD, "1,2,warm"],
    "infinity": ["inf,1,hot", *GOOD],
    "constant features": [f"1,1,{'hot' if k % 2 else 'cold'}" for k in range(60)],
    "no rows": [],
    "a row too long": ["1,2,3,4,5", *GOOD],
    "no target in a row": ["1,2,", *GOOD],
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_no_honest_model_can_come_from(tmp_path, case):
    table = _csv(tmp_path / "a.csv", TABLES[case])
    before = _snapshot(tmp_path)
    done = fieldloop(
        "train", table, "--target", "y", "--candidate", "logistic", "-o", tmp_path / "run"
    )
    assert done.code in {1, 2}
    refused(done, done.code)
    assert _snapshot(tmp_path) == before


def _files(path):
    (path / "empty.csv").touch()
    (path / "binary.csv").write_bytes(bytes(range(256)))
    (path / "a.txt").write_text("a")
    (path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    np.savez(path / "pickled.npz", X=np.array([{}], dtype=object), y=np.array([1]))
    (path / "bad.parquet").write_bytes(b"PAR1 no table")
    (path / "folder").mkdir()
    for label in ("cat", "dog"):
        (path / "images" / label).mkdir(parents=True)
        (path / "images" / label / "1.png").write_bytes(b"no picture")
    _csv(path / "good.csv", GOOD)


@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        ("none.csv", [], "none.csv"),
        ("empty.csv", ["--target", "y"], "empty.csv"),
        ("binary.csv", ["--target", "y"], "binary.csv"),
        ("a.txt", [], "a.txt"),
        ("bad.npz", [], "bad.npz"),
        ("pickled.npz", [], "pickled.npz"),
        ("bad.parquet", ["--target", "y"], "bad.parquet"),
        ("folder", [], "folder"),
        ("images", [], "1.png"),
        ("good.csv", ["--target", "z"], "'z'"),
        ("good.csv", ["--target", "y", "--drop", "z"], "z"),
        ("good.csv", ["--target", "y", "--device", "pi9"], "pi9"),
        ("good.csv", ["--target", "y", "--candidate", "oracle"], "oracle"),
    ],
)
def test_a_source_or_an_option_that_is_not_right_is_named(tmp_path, source, more, said):
    _files(tmp_path)
    before = _snapshot(tmp_path)
    done = fieldloop("train", tmp_path / source, *more, "-o", tmp_path / "run")
    refused(done, 2, said)
    assert _snapshot(tmp_path) == before


def test_a_run_is_never_written_over_something_else(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    done = fieldloop("train", "sklearn:iris", "-o", tmp_path / "run")
    refused(done, 2, "already")
    assert _snapshot(tmp_path) == {"run/precious.txt": b"mine"}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "fleet").create()


@pytest.fixture
def root(home, tmp_path):
    return provision(home, "pi-1", "x86", tmp_path / "root").root


NEWER = Variant(precision="float32", min_runtime="99.0.0", op_versions={"ADD": 99})


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("truncated", ""),
        ("corrupt", ""),
        ("re-signed", "not signed by a trusted key"),
        ("another class", "pi4"),
        ("newer runtime", "99.0.0"),
        ("no bundle", ""),
        ("missing", "none.flb"),
    ],
)
def test_a_bundle_that_the_device_must_not_get(home, root, tmp_path, case, said):
    good = publish(home).read_bytes()
    path = tmp_path / ("none.flb" if case == "missing" else "m.flb")
    if case == "another class":
        path = publish(home, device_classes=("pi4",))
    elif case == "newer runtime":
        path = publish(home, variants=[NEWER])
    elif case != "missing":
        path.write_bytes(
            {
                "truncated": good[: len(good) // 2],
                "corrupt": good[:-5] + b"\0" + good[-4:],
                "re-signed": bundle_bytes(SigningKey.generate()),
                "no bundle": b"hello",
            }[case]
        )
    before = _snapshot(root)
    done = fieldloop("flash", path, "--to", root)
    refused(done, 2 if case == "missing" else 1, said)
    assert _snapshot(root) == before


def test_a_full_disk_leaves_the_device_as_it_was(home, root, monkeypatch):
    bundle, before = publish(home), _snapshot(root)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(fieldloop("flash", bundle, "--to", root), 1, "No space left")
    assert _snapshot(root) == before


def test_a_taken_port_stops_the_server_before_it_serves(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        home = Home(tmp_path / "fleet").create(
            FleetSettings(broker=BrokerSettings(tls=False, port=1), http=HttpSettings(port=port))
        )
        refused(fieldloop("serve", "--home", home.path), 1, str(port), "choose another port")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["provision", "Pi 1", "--class", "x86"], "Pi 1"),
        (["provision", "pi-1", "--class", "pi9"], "pi9"),
        (["provision", "pi-1", "--class", "x86", "--broker-port", "99999"], "99999"),
        (["provision", "pi-1", "--window-s", "nan"], "window_s"),
        (["provision", "pi-1", "--window-s", "-1"], "window_s"),
        (["provision", "pi-1", "--host", "my host"], "'my host' is no host"),
        (["rollout", "status"], "no fleet home"),
        (["fleet", "drift"], "no fleet home"),
        (["label", "export", "-o", "s.csv"], "no fleet home"),
        (["bundle", "nowhere", "--name", "a"], "run.json"),
        (["retrain", "nowhere", "sklearn:iris", "-o", "run"], "run.json"),
    ],
)
def test_a_command_that_cannot_begin_leaves_nothing(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    refused(fieldloop(*words), 2, said)
    assert not [item for item in _snapshot(tmp_path) if "device" in item or "run" in item]


def test_an_inspected_file_that_is_none_is_named(home, tmp_path):
    path = tmp_path / "m.flb"
    for content in (publish(home).read_bytes()[:500], b"hello", b""):
        path.write_bytes(content)
        done = fieldloop("inspect", path, "--home", home.path)
        refused(done, 1 if len(content) > 10 else 2, "m.flb")


def test_a_file_that_is_no_model_is_named_when_it_is_exported(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(20))
    refused(fieldloop("export", path, "-o", tmp_path / "c"), 2, "m.tflite")


def test_what_stands_in_brackets_is_shown_in_a_table(capsys):
    Console(width=80).print(table("[a]", ["[b]"], [["[broker] host"]]))
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("[a]", "[b]", "[broker] host"))


def test_a_demo_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    refused(fieldloop("demo", "-o", tmp_path / "file" / "demo"), 1, "cannot be written")


@pytest.mark.parametrize(
    "words",
    [
        ["trian"],
        ["train"],
        ["train", "sklearn:iris"],
        ["train", "sklearn:iris", "-o", "run", "--budget", "soon"],
        ["train", "sklearn:iris", "-o", "run", "--seed", "x"],
        ["train", "sklearn:iris", "-o", "run", "--seed", "-1"],
        ["demo", "--seed", "4294967296"],
        ["rollout"],
        ["rollout", "stop"],
    ],
)
def test_wrong_words_are_usage_errors(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    done = fieldloop(*words)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_with_json_an_error_is_an_object_on_stdout(tmp_path):
    done = fieldloop("train", tmp_path / "none.csv", "-o", tmp_path / "run", "--json")
    assert done.code == 2
    assert done.result["error"] == "DataError"
    assert done.result["where"].endswith("none.csv")
    assert done.result["advice"]
    usage = fieldloop("trian", "--json")
    assert (usage.code, usage.result["error"]) == (2, "UsageError")


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


def test_a_pickled_model_is_not_loaded_unless_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _csv(tmp_path / "x.csv", ["1,2", "3,4"], header="a,b")
    for name in ("m.pkl", "m.joblib"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        done = fieldloop("compile", name, "--example", "x.csv", "-o", "m.tflite")
        refused(done, 2, "any code")
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "m.tflite").exists()


def test_rows_written_as_text_are_numbers_to_a_model_of_numbers(tmp_path):
    X = np.random.default_rng(0).normal(size=(20, 2))
    joblib.dump(LogisticRegression().fit(X, X[:, 0] > 0), tmp_path / "m.joblib")
    words = ["compile", tmp_path / "m.joblib", "--trust", "--example", tmp_path / "x.csv"]
    _csv(tmp_path / "x.csv", [f"{a},{b}" for a, b in X], header="a,b")
    assert fieldloop(*words, "-o", tmp_path / "good.tflite").code == 0
    _csv(tmp_path / "x.csv", [f"{a},blue" for a, _ in X], header="a,b")
    refused(fieldloop(*words, "-o", tmp_path / "bad.tflite"), 2, "'blue'")
    assert not (tmp_path / "bad.tflite").exists()


def test_a_model_that_is_none_or_does_not_fit_its_example_is_refused(tmp_path):
    table = _csv(tmp_path / "x.csv", [f"{k},{k * 2},{k * 3}" for k in range(9)], header="a,b,c")
    (tmp_path / "bad.joblib").write_bytes(b"no pickle")
    model = LogisticRegression().fit(np.arange(20.0).reshape(10, 2), np.arange(10) % 2)
    joblib.dump(model, tmp_path / "two.joblib")
    joblib.dump({"not": "a model"}, tmp_path / "dict.joblib")
    (tmp_path / "bad.keras").write_bytes(b"no archive")
    for name in ("bad.joblib", "two.joblib", "dict.joblib", "none.joblib", "x.csv", "bad.keras"):
        done = fieldloop(
            "compile", tmp_path / name, "--trust", "--example", table, "-o", tmp_path / "m.tflite"
        )
        refused(done, 2)
    assert not (tmp_path / "m.tflite").exists()


def test_an_unexpected_error_is_one_line_and_debug_shows_more(tmp_path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("fieldloop_cloud.cli.doctor.examine", broken)
    refused(fieldloop("doctor"), 1, "internal error: RuntimeError: a bug")
    assert "Traceback" in fieldloop("--debug", "doctor").err


def test_a_terminal_that_is_not_utf8_gets_escapes(tmp_path, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    home = Home(tmp_path / "größe").create()
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(publish(home)), "--home", str(home.path)])
    assert end.value.code == 0
    out.flush()
    assert b"sha256" in out.buffer.getvalue()


def test_ctrl_c_is_told_by_its_own_code(monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fieldloop_cloud.cli.doctor.examine", interrupted)
    done = fieldloop("doctor")
    assert (done.code, done.err.strip()) == (130, "error: interrupted")
