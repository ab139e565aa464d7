"""Bundled sets, arrays and image folders."""

import numpy as np
import pytest
from PIL import Image

from fieldloop.codec import Codec
from fieldloop.errors import ConfigError, DataError
from fieldloop_cloud.data.dataset import Dataset
from fieldloop_cloud.data.facts import facts
from fieldloop_cloud.data.sources import BUNDLED, from_arrays


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sets_load_by_name(name):
    data = Dataset.load(f"sklearn:{name}")
    assert len(data) > 100
    assert (data.task == "regression") == (name == "diabetes")
    assert data.kind == ("image" if name == "digits" else "tabular")
    # The codec takes what `raw` gives, and makes the same numbers of it.
    again = Codec(data.input_signature).encode_row(data.raw(7))
    np.testing.assert_array_equal(again[0], data.X[7])


def test_digits_keep_the_sensor_range():
    data = Dataset.load("sklearn:digits")
    assert (data.image.height, data.image.width, data.image.max_value) == (8, 8, 16.0)
    assert data.X.max() == 1.0
    assert max(max(row) for row in np.asarray(data.raw(0))[..., 0]) <= 16.0
    assert data.labels == tuple(range(10))


@pytest.mark.parametrize(
    ("source", "said"),
    [("sklearn:faces", "no set 'faces'.*digits"), ("nowhere.csv", "no such file")],
)
def test_unknown_sources_say_what_there_is(source, said):
    with pytest.raises(DataError, match=said):
        Dataset.load(source)


def test_npz_holds_tables_and_images(tmp_path):
    random = np.random.default_rng(0)
    y = np.arange(30) % 3
    np.savez(tmp_path / "t.npz", X=random.normal(size=(30, 2)), y=y, feature_names=["a", "b"])
    np.savez(tmp_path / "i.npz", X=random.integers(0, 256, (30, 4, 5, 3), dtype=np.uint8), y=y)
    table, images = Dataset.load(tmp_path / "t.npz"), Dataset.load(tmp_path / "i.npz")
    assert [spec.name for spec in table.features] == ["a", "b"]
    assert (images.image.width, images.image.channels, images.image.max_value) == (5, 3, 255.0)
    assert np.asarray(images.raw(0)).dtype.kind == "f"
    assert np.asarray(images.raw(3)).max() <= 255


def test_npz_with_objects_or_damage_is_refused(tmp_path):
    np.savez(tmp_path / "o.npz", X=np.array([{}, []], dtype=object), y=[0, 1])
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04 truncated")
    np.savez(tmp_path / "m.npz", data=[1])
    np.save(tmp_path / "s.npy", [1])
    (tmp_path / "s.npy").rename(tmp_path / "s.npz")
    for name, said in (
        ("o.npz", "cannot be read"),
        ("d.npz", "cannot be read"),
        ("s.npz", "a single array"),
        ("m.npz", "missing: X, y; there are: data"),
    ):
        with pytest.raises(DataError, match=said):
            Dataset.load(tmp_path / name)


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (np.zeros((30, 2)), np.zeros(29), "one value a row"),
        (np.zeros((30, 2), dtype=complex), np.zeros(30), "real numbers"),
        (np.zeros((30, 4, 4, 2)), np.zeros(30), "1 or 3 channels"),
        (np.full((30, 4, 4), np.nan), np.zeros(30), "NaN or infinity"),
        (-np.ones((30, 4, 4)), np.zeros(30), "from 0 up"),
        (np.zeros(30), np.zeros(30), "1 dimensions"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(X, y, said):
    with pytest.raises(DataError, match=said):
        from_arrays(X, y)


def test_a_table_is_not_quietly_taken_where_images_were_promised():
    with pytest.raises(DataError, match="2 dimensions, images have 3 or 4"):
        from_arrays(np.zeros((40, 6)), np.arange(40) % 2, kind="image")


def picture(path, size, value, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def folder(tmp_path):
    for label, value in (("dark", 20), ("light", 220)):
        for number in range(10):
            size = (12, 9) if number else (24, 18)
            picture(tmp_path / "set" / label / f"{number}.png", size, value)
    (tmp_path / "set" / "dark" / "notes.txt").write_text("not an image")
    return tmp_path / "set"


def test_a_folder_of_images_loads_by_its_class_folders(folder):
    data = Dataset.load(folder)
    assert (data.labels, data.X.shape) == (("dark", "light"), (20, 9, 12, 1))
    np.testing.assert_allclose(data.X[0], 20 / 255, atol=1e-6)
    assert "2 images are resized to 9 x 12." in data.notes
    assert "1 files that are not images were left out." in data.notes
    assert Dataset.load(folder, image_size=(4, 6)).X.shape == (20, 4, 6, 1)


def test_one_colour_image_makes_the_set_colour(folder):
    picture(folder / "dark" / "red.png", (12, 9), (255, 0, 0), mode="RGB")
    assert Dataset.load(folder).X.shape == (21, 9, 12, 3)


def test_a_broken_image_is_named(folder):
    whole = (folder / "dark" / "1.png").read_bytes()
    for content in (b"\x89PNG\r\n\x1a\n not really", whole[: len(whole) // 2], b""):
        (folder / "light" / "bad.png").write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read.*bad\.png"):
            Dataset.load(folder)


def test_a_source_that_is_no_path_is_refused():
    with pytest.raises(ConfigError, match=r"from a path or from sklearn:NAME \(int\)"):
        Dataset.load(3)


def test_folders_without_classes_or_images_are_refused(tmp_path, folder):
    with pytest.raises(DataError, match="0 class folders"):
        Dataset.load(folder / "dark")
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        Dataset.load(folder)


def test_facts_name_duplicates_conflicts_and_disguises():
    random = np.random.default_rng(0)
    X = random.normal(size=(100, 3))
    y = np.arange(100) % 2
    X[:, 1] = y * 2 + random.normal(size=100) * 0.1
    X[10:12] = X[8:10]
    X[12] = X[11]
    found = facts(from_arrays(X, y))
    assert found.duplicate_count == 3
    assert found.conflict_count == 3  # rows 9, 11 and 12
    assert [column.name for column in found.columns if column.tells_target] == []
    X[12] = X[10]
    found = facts(from_arrays(X, y))
    assert found.conflict_count == 0
    assert [column.name for column in found.columns if column.tells_target] == ["x1"]
    assert "'x1' alone tells the target" in found.warnings[0]


def test_names_in_an_archive_fit_its_columns_whatever_they_are(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", X=X, y=y, feature_names=np.array(["a", "y"]))
    assert [spec.name for spec in Dataset.load(tmp_path / "a.npz").features] == ["a", "y"]
    np.savez(tmp_path / "b.npz", X=X, y=y, feature_names=np.array("a"))
    with pytest.raises(DataError, match="1 feature names for 2 columns"):
        Dataset.load(tmp_path / "b.npz")


def test_labels_of_bytes_are_texts():
    y = np.array([b"off", b"on"])[np.arange(40) % 2]
    assert from_arrays(np.zeros((40, 2)), y).labels == ("off", "on")


def test_options_that_a_source_does_not_have_are_refused(folder):
    for source, options, said in (
        ("sklearn:iris", {"task": "regression"}, "does not take task"),
        ("sklearn:digits", {"image_size": (4, 4)}, "for folders of images"),
        (folder, {"task": "regression"}, "does not take task"),
        (folder, {"image_size": (0, 4)}, "0 x 4 pixels"),
    ):
        with pytest.raises(ConfigError, match=said):
            Dataset.load(source, **options)


def test_an_image_that_is_gone_is_named(folder):
    (folder / "dark" / "gone.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(DataError, match=r"No such file.*gone\.png"):
        Dataset.load(folder)
