"""Files of several series in long format: which columns are read, and what is refused."""

import numpy as np
import pytest

from jaxrnn.data import column_names, columns_of_names, combine, read_long


def written(tmp_path, text: str):
    path = tmp_path / "shops.csv"
    path.write_text(text)
    return path


def test_columns_of_any_name_dates_of_any_format_and_text_are_read(tmp_path):
    path = written(tmp_path, "Filiale;Datum;Umsatz;Wetter\nNord;31.01.2024;5,5;sonnig\nSued;01.02.2024;;trueb\n")
    rows = read_long(path, unique_id="Filiale", value="Umsatz", further=["Wetter"])
    assert list(rows.columns) == ["unique_id", "ds", "y", "Wetter"] and rows.lines.tolist() == [2, 3]
    assert rows.columns["ds"].astype("datetime64[D]").astype(str).tolist() == ["2024-01-31", "2024-02-01"]
    np.testing.assert_array_equal(rows.columns["y"], [5.5, np.nan])
    assert rows.columns["Wetter"].tolist() == ["sonnig", "trueb"]
    assert rows.notes == ("column 'Umsatz': the commas were read as decimal commas",)


def test_the_usual_names_need_no_option_and_values_may_be_left_out(tmp_path):
    path = written(tmp_path, "unique_id,ds,promo\na,1,0\na,2,1\n")
    rows = read_long(path, further=["promo"], with_values=False)
    assert list(rows.columns) == ["unique_id", "ds", "promo"] and rows.columns["ds"].tolist() == [1, 2]
    path = written(tmp_path, "day,sales\n2024-01-01,3\n2024-01-02,4\n")
    assert list(read_long(path).columns) == ["ds", "y"]
    rows = read_long(written(tmp_path, "date,sales\n27. Januar 2024,3\n28. Januar 2024,4\n"))
    assert list(rows.columns) == ["y"]
    assert "the column 'date' is not read as dates" in rows.notes[0] and "27. Januar 2024" in rows.notes[0]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("ds,y\nsoon,1\nlater,2\n", {}, "column 'ds' must hold dates or whole numbers, but holds 'soon'"),
        ("ds,y\n2024-01-01,1\n2024-01-02,2\nsoon,3\n", {}, "row 4, column 'ds' holds 'soon', which is not a date"),
        ("ds,y\n2024-01-01,x\n2024-01-02,2\n", {}, "row 2, column 'y' holds 'x'"),
        ("ds,y\n1,2\n", {"further": ["promo"]}, "unknown column 'promo'; available in .*: ds, y"),
        ("unique_id,ds,y\na,1,2\n,2,3\n", {}, "row 3 has no 'unique_id'"),
        ("ds,a,b\n1,2,3\n", {}, "has 2 numeric columns; choose one"),
    ],
)
def test_what_cannot_be_read_names_file_row_and_column(text, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_long(written(tmp_path, text), **options)


def test_the_whole_column_tells_whether_it_is_text_unless_that_is_known(tmp_path):
    codes = [*"1" * 10, *"AB1A"]
    path = written(tmp_path, "\n".join(["ds,y,z", *(f"{row},1,{code}" for row, code in enumerate(codes))]))
    rows = read_long(path, further=["z"])
    assert rows.columns["z"].tolist() == codes
    assert rows.notes == ("column 'z' holds numbers and text: it is read as text (row 12 holds 'A')",)
    path = written(tmp_path, "ds,y,z\n1,1,none\n2,1,-\n3,1,5\n")
    np.testing.assert_array_equal(read_long(path, further=["z"]).columns["z"], [np.nan, np.nan, 5])
    assert read_long(path, further=["z"], texts=["z"]).columns["z"].tolist() == ["none", "-", "5"]
    path = written(tmp_path, "\n".join(["ds,y,z", "0,1,n.a.", *(f"{row},1,{row}" for row in range(1, 12))]))
    with pytest.raises(ValueError, match=r"row 2, column 'z' holds 'n.a.', which is not a finite number"):
        read_long(path, further=["z"])


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [("sum", 9), ("mean", 3), ("median", 2), ("min", 1), ("max", 6), ("first", 6), ("last", 1)],
)
def test_rows_are_combined_without_their_missing_values(aggregate, expected):
    values = np.array([7.0, 6.0, np.nan, 2.0, 1.0, np.nan, np.nan])
    combined = combine(values, np.array([0, 1, 5]), aggregate)
    np.testing.assert_array_equal(combined, [7, expected, np.nan])


def test_columns_that_tell_series_apart_are_found(tmp_path):
    rows = [f"{day},{store},x,{store + day}.5,{day % 2}" for store in (1, 2) for day in (3, 4, 5)]
    path = written(tmp_path, "\n".join(["step,store,region,sales,promo", *rows]))
    assert columns_of_names(path, read_long(path, value="sales").columns["ds"]) == ["store"]
    assert column_names(path) == ["step", "store", "region", "sales", "promo"]
    rows = [f"{day},{store},{name},{day}.5" for store, name in ((1, "a"), (2, "b")) for day in (3, 4, 5)]
    path = written(tmp_path, "\n".join(["step,store,name,sales", *rows]))
    assert columns_of_names(path, read_long(path, value="sales").columns["ds"]) == ["name", "store"]


def test_the_numbers_of_rows_that_data_frames_write_are_not_a_column_to_forecast(tmp_path):
    for name in ("", "Unnamed: 0"):
        rows = read_long(
            written(tmp_path, f"{name},date,sales\n0,2024-01-01,5\n1,2024-01-02,\u22126\n2,2024-01-03,-\n")
        )
        np.testing.assert_array_equal(rows.columns["y"], [5, -6, np.nan])
