"""CSV and Parquet: columns with a meaning, and bad tables refused by name and row."""

import numpy as np
import pandas as pd
import pytest

from fieldloop.errors import ConfigError, DataError, SignatureError
from fieldloop_cloud.data.dataset import Dataset


def frame(rows=40):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "current": random.normal(size=rows).round(3),
            "speed": np.arange(rows) * 10,
            "fuel": ["diesel", "petrol"] * (rows // 2),
            "fault": ["yes", "no", "no", "yes"] * (rows // 4),
        }
    )


def load(tmp_path, table, target="fault", **options):
    path = tmp_path / "readings.csv"
    table.to_csv(path, index=False)
    return Dataset.load(path, target=target, **options)


def test_a_table_becomes_codes_numbers_and_labels(tmp_path):
    data = load(tmp_path, frame())
    assert (data.kind, data.task, data.labels) == ("tabular", "classification", ("no", "yes"))
    current, speed, fuel = data.features
    assert (speed.low, speed.high, speed.missing_allowed) == (0.0, 390.0, False)
    assert (fuel.categories, fuel.unknown) == (("diesel", "petrol"), "encode")
    assert current.name == "current"
    assert data.X.dtype == np.float32
    assert data.raw(1) == [pytest.approx(data.X[1, 0]), 10.0, "petrol"]
    assert data.label(1) == "no"


def test_missing_values_stay_missing_and_are_declared(tmp_path):
    table = frame()
    table.loc[3, "current"] = None
    table.loc[4, "fuel"] = None
    data = load(tmp_path, table)
    assert np.isnan(data.X[3, 0])
    assert np.isnan(data.X[4, 2])
    assert [spec.missing_allowed for spec in data.features] == [True, False, True]
    assert data.raw(3)[0] is None
    assert data.raw(4)[2] is None


def test_parquet_and_csv_give_the_same_data(tmp_path):
    table = frame()
    table.loc[3, "current"] = None
    table["running"] = [True, False] * 20
    table.to_parquet(tmp_path / "readings.parquet")
    from_csv = load(tmp_path, table)
    from_parquet = Dataset.load(tmp_path / "readings.parquet", target="fault")
    assert from_csv.sha256 == from_parquet.sha256
    assert from_csv.features[3].categories == (False, True)


def test_semicolons_a_byte_order_mark_and_spaces_are_read(tmp_path):
    path = tmp_path / "a.csv"
    lines = ["\ufeffa; b;y"] + [f"{i};{i % 3};{'u' if i % 2 else 'v'}" for i in range(30)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [spec.name for spec in Dataset.load(path, target="y").features] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "task", "labels"),
    [
        ([0, 1] * 20, "classification", (0, 1)),
        ([1.5, 2.5] * 20, "regression", ()),
        (list(range(40)), "regression", ()),
        ([True, False] * 20, "classification", (False, True)),
    ],
)
def test_the_task_follows_from_the_target(tmp_path, values, task, labels):
    data = load(tmp_path, frame().assign(fault=values))
    assert (data.task, data.labels) == (task, labels)


def test_the_task_can_be_said(tmp_path):
    data = load(tmp_path, frame().assign(fault=[0, 1] * 20), task="regression")
    assert data.y.dtype == np.float32


def test_number_codes_can_be_declared_categories(tmp_path):
    data = load(tmp_path, frame().assign(speed=[7, 9] * 20), categorical=["speed"])
    assert data.features[1].categories == (7, 9)
    assert data.raw(0)[1] == 7


def broken(table, column, row, value):
    table = table.astype({column: object})
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.head(3), "only 3 rows"),
        (lambda t: t.assign(fault="no"), "one class only: 'no'"),
        (lambda t: t.assign(speed=np.inf), "infinite"),
        (lambda t: t.assign(speed=1e300), "beyond float32"),
        (lambda t: t.assign(speed=np.nan), "a column is empty (.*column 'speed')"),
        (lambda t: broken(t, "speed", 6, "fast"), "mixes numbers and text: 'fast' in row 7"),
        (lambda t: broken(t, "fault", 5, None), "target is missing in 1 of 40 rows.*row 6"),
        (lambda t: t.assign(fault=["a"] * 39 + ["b"]), "'b' has 1"),
        (lambda t: t.assign(fault=2.5), "target is 2.5 in every row"),
        (lambda t: t.drop(columns=["current", "speed", "fuel"]), "no feature columns"),
    ],
)
def test_a_bad_table_is_refused_in_words(tmp_path, change, said):
    with pytest.raises(DataError, match=said):
        load(tmp_path, change(frame()))


def test_a_column_of_names_is_refused(tmp_path):
    table = pd.concat([frame()] * 4, ignore_index=True)
    table["serial"] = [f"unit {row}" for row in range(len(table))]
    with pytest.raises(DataError, match=r"160 different texts.*Drop it"):
        load(tmp_path, table)
    assert len(load(tmp_path, table, drop=["serial"]).features) == 3


def test_a_misspelt_target_gets_a_suggestion(tmp_path):
    with pytest.raises(DataError, match=r"no column 'fualt'.*Did you mean fault"):
        load(tmp_path, frame(), target="fualt")
    with pytest.raises(DataError, match=r"needs a target column.*current, speed, fuel, fault"):
        load(tmp_path, frame(), target=None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("a,a,y\n1,2,3\n", "stand twice: a"),
        ("a,,y\n1,2,3\n", "a column has no name"),
        ("a,y\n1,2\n1,2,3\n", "cannot be read"),
        ("a,y\n1,2,3\n4,5,6\n", "more values than the first line has names"),
        ("a,y\n", "only 0 rows"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text, said):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        Dataset.load(path, target="y")


def test_bytes_that_are_no_table_are_refused(tmp_path):
    for name in ("a.csv", "a.parquet"):
        path = tmp_path / name
        path.write_bytes(b"\xff\xfe\x00PAR1 not at all" * 9)
        with pytest.raises(DataError, match=r"cannot be read|no column|stand twice"):
            Dataset.load(path, target="y")
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"'\.xlsx' are not known"):
        Dataset.load(tmp_path / "a.xlsx", target="y")


def test_dates_are_refused(tmp_path):
    table = frame().assign(at=pd.date_range("2026-01-01", periods=40))
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"column 'at'.*Drop it"):
        Dataset.load(tmp_path / "a.parquet", target="fault")


def test_oddities_are_noted_not_refused(tmp_path):
    table = frame().assign(always=1)
    table.loc[1] = table.loc[2]
    notes = " ".join(load(tmp_path, table).notes)
    assert "Constant features" in notes
    assert "always" in notes
    assert "1 rows repeat" in notes
    stamps = frame().assign(stamp=1_700_000_000 + np.arange(40))
    assert "float32 merges 40 different numbers" in " ".join(load(tmp_path, stamps).notes)


def test_field_rows_are_encoded_in_the_same_form_and_appended(tmp_path):
    data = load(tmp_path, frame())
    field = data.encode([[0.5, 20, "electric"], [0.1, 30, "diesel"]], ["yes", "no"])
    assert field.X[:, 2].tolist() == [-1.0, 0.0]
    assert field.y.tolist() == [1, 0]
    both = data.concat(field)
    assert len(both) == 42
    assert both.take([40, 41]).sha256 == field.sha256
    with pytest.raises(DataError, match="labels 'maybe' are not known"):
        data.encode([[0.5, 20, "petrol"]], ["maybe"])
    with pytest.raises(SignatureError, match=r"row 0.*speed"):
        data.encode([[0.5, "fast", "petrol"]], ["no"])


def test_sets_with_other_columns_do_not_join(tmp_path):
    data = load(tmp_path, frame())
    with pytest.raises(DataError, match="same columns and labels"):
        data.concat(load(tmp_path, frame().rename(columns={"speed": "pace"})))


def test_table_options_are_refused_elsewhere(tmp_path):
    with pytest.raises(ConfigError, match="does not take target"):
        Dataset.load("sklearn:iris", target="species")
    with pytest.raises(ConfigError, match="for folders of images"):
        load(tmp_path, frame(), image_size=(8, 8))


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["1,5", "-2,25"], "decimal comma, as in '1,5'"),
        (["2026-01-02", "2026-01-03"], "the column holds dates"),
        (["2026-01-02T10:00:00Z", "2026-01-03 11:30"], "the column holds dates"),
    ],
)
def test_numbers_and_dates_in_another_notation_are_not_taken_for_categories(tmp_path, cells, said):
    table = frame()
    table["current"] = cells * 20
    with pytest.raises(DataError, match=f"{said}.*column 'current'"):
        load(tmp_path, table)


@pytest.mark.parametrize("option", ["drop", "categorical"])
def test_the_target_is_no_feature(tmp_path, option):
    with pytest.raises(DataError, match="'fault' is the target"):
        load(tmp_path, frame(), **{option: ["fault"]})
