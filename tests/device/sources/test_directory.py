import json
import threading

import numpy as np

from fieldloop_device.sources.directory import DirectorySource

STOP = threading.Event


def serve(path):
    return list(DirectorySource(path, once=True).items(STOP()))


def test_files_are_served_in_order_and_moved_away(tmp_path):
    (tmp_path / "b.json").write_text("[1, 2]")
    (tmp_path / "a.json").write_text(json.dumps({"x": [3, 4]}))
    np.save(tmp_path / "c.npy", np.array([5.0, 6.0]))
    (tmp_path / "d.png").write_bytes(b"image bytes")
    (tmp_path / "notes.txt").write_text("not mine")
    items = serve(tmp_path)
    assert [item.id for item in items] == ["a.json", "b.json", "c.npy", "d.png"]
    assert items[0].raw == [3, 4]
    assert items[2].raw.tolist() == [5.0, 6.0]
    assert items[3].raw == b"image bytes"
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == [
        "a.json",
        "b.json",
        "c.npy",
        "d.png",
    ]
    assert (tmp_path / "notes.txt").exists()
    assert serve(tmp_path) == []


def test_a_bad_file_is_put_aside_and_the_next_one_served(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY rubbish")
    (tmp_path / "c.json").write_text("[1]")
    items = serve(tmp_path)
    assert [item.error is None for item in items] == [False, False, True]
    assert {path.name for path in (tmp_path / "failed").iterdir()} == {"a.json", "b.npy"}


def test_a_file_is_served_again_if_its_answer_was_cut_off(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    cut = DirectorySource(tmp_path, once=True).items(STOP())
    assert next(cut).id == "a.json"
    cut.close()
    assert [item.id for item in serve(tmp_path)] == ["a.json"]


def test_a_growing_file_is_waited_for(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1")
    source = DirectorySource(tmp_path)
    assert source._look()[0] == []
    path.write_text("[1, 2]")
    assert source._look()[0] == []
    assert source._look()[0] == [path]


def test_a_file_that_cannot_be_moved_is_reported_once_and_kept(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "done").write_text("a file where the directory should be")
    items = serve(tmp_path)
    assert [item.error is None for item in items] == [True, False]
    assert (tmp_path / "a.json").exists()
