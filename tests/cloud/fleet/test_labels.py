"""Samples go out as a table and labels come back: all of them or none."""

import csv
import json
import time

import numpy as np
import pytest
from PIL import Image

from fieldloop.errors import DataError
from fieldloop.signature import ImageSpec
from fieldloop.telemetry import Clock, FieldSample
from fieldloop_cloud.fleet.labels import export_samples, import_labels
from fieldloop_cloud.fleet.store import Store


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        yield store


def _record(store, sample_id, *, seq, device="pi-1", raw=(1.5, None, "diesel"), predicted="ok"):
    clock = Clock(mono_ms=seq, wall_ms=time.time_ns() // 1_000_000)
    sample = FieldSample(
        boot=1,
        seq=seq,
        at=clock,
        model="ab" * 8,
        sample_id=sample_id,
        raw=list(raw),
        predicted=predicted,
        confidence=0.75,
        policy="uncertain",
    )
    store.record(device, "smp", sample)


@pytest.fixture
def filled(store):
    for number in (1, 2, 3):
        _record(store, f"s{number}", seq=number)
    return store


def _rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _labels(store):
    return {item.sample.sample_id: item.label for item in store.samples(labelled=True)}


def test_what_is_exported_filled_in_and_imported_is_in_the_store(filled, tmp_path):
    path = tmp_path / "s.csv"
    assert export_samples(filled.samples(), path) == 3
    rows = _rows(path)
    assert [row["sample_id"] for row in rows] == ["s1", "s2", "s3"]
    assert json.loads(rows[0]["raw"]) == [1.5, None, "diesel"]
    assert (rows[0]["predicted"], rows[0]["confidence"], rows[0]["policy"]) == (
        "ok", "0.7500", "uncertain"
    )  # fmt: skip
    rows[0]["label"], rows[2]["label"] = "fault", " ok "
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert import_labels(filled, path, labels=("ok", "fault")) == 2
    assert _labels(filled) == {"s1": "fault", "s3": "ok"}
    assert export_samples(filled.samples(labelled=False), path) == 1


def test_labels_keep_the_models_own_type(filled, tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("sample_id,device,label\ns1,pi-1,7\ns2,pi-1,8\n")
    import_labels(filled, path, labels=(7, "8"))
    assert _labels(filled) == {"s1": 7, "s2": "8"}
    import_labels(filled, path, labels=())
    assert _labels(filled) == {"s1": 7.0, "s2": 8.0}


def test_pictures_lie_beside_the_table(store, tmp_path):
    pixels = np.arange(12).reshape(3, 4, 1) * 16 / 11
    _record(store, "s1", seq=1, raw=pixels.tolist())
    spec = ImageSpec(height=3, width=4, channels=1, max_value=16.0)
    export_samples(store.samples(), tmp_path / "s.csv", image=spec)
    picture = tmp_path / _rows(tmp_path / "s.csv")[0]["picture"]
    with Image.open(picture) as image:
        shown = np.asarray(image)
    assert shown.shape == (3, 4)
    assert np.array_equal(shown, np.rint(pixels[:, :, 0] / 16 * 255))


WRONG = {
    "unknown sample": (
        "device,sample_id,label\npi-1,s1,ok\npi-1,s9,ok\n",
        "line 3: no sample 's9'",
    ),
    "unknown device": ("device,sample_id,label\npi-7,s1,ok\n", "line 2: no sample"),
    "unknown label": ("device,sample_id,label\npi-1,s1,ok\npi-1,s2,odd\n", "line 3: 'odd'"),
    "two labels": ("device,sample_id,label\npi-1,s1,ok\npi-1,s1,fault\n", "line 3: sample 's1'"),
    "no label column": ("device,sample_id,truth\npi-1,s1,ok\n", "lacks the column label"),
    "empty": ("", "lacks the column device, sample_id, label"),
    "broken quotes": ('device,sample_id,label\npi-1,"s1,ok\n', "no CSV"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_line_is_named_and_nothing_is_stored(filled, tmp_path, case):
    text, said = WRONG[case]
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        import_labels(filled, path, labels=("ok", "fault"))
    assert caught.value.where == str(path)
    assert _labels(filled) == {}


def test_what_is_no_text_no_number_or_no_file_is_refused(filled, tmp_path):
    path = tmp_path / "s.csv"
    with pytest.raises(DataError, match="cannot be read"):
        import_labels(filled, path, labels=("ok",))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no CSV"):
        import_labels(filled, path, labels=("ok",))
    path.write_text("device,sample_id,label\npi-1,s1,nan\n")
    with pytest.raises(DataError, match="'nan' is not a label"):
        import_labels(filled, path, labels=())


def test_many_wrong_lines_are_counted_not_listed(filled, tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("device,sample_id,label\n" + "pi-1,zz,ok\n" * 50)
    with pytest.raises(DataError, match="and 45 more"):
        import_labels(filled, path, labels=("ok",))
