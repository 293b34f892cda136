"""Series by name and from CSV files: what is read is what stands there, and what cannot be read says where."""

import re

import numpy as np
import pytest

from jaxrnn.data import available_series, load_series

GOOD = "day,a,b\nmon,1,2\ntue,3,4.5\nwed,-5e0, 6\n"


@pytest.fixture
def write(tmp_path):
    def write(content: str | bytes, name: str = "some.csv") -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


@pytest.mark.parametrize("name", available_series())
def test_every_named_series_is_whole_and_says_where_it_comes_from(name):
    series = load_series(name)
    assert series.name == name and series.source and series.licence
    assert series.values.dtype == np.float64 and np.isfinite(series.values).all()
    assert series.values.shape[1] == len(series.columns) == 1
    assert series.season is not None and series.season < series.split < len(series.values)


def test_a_printed_series_is_one_short_line():
    text = repr(load_series("course", split=500))
    assert text == "Series('course', 1461 steps of ('value',), split=500, season=365)"


def test_a_named_series_gives_the_columns_and_split_asked_for():
    series = load_series("seattle", column="wind", further_columns=["temp_max"], split=500)
    assert series.columns == ("wind", "temp_max") and series.split == 500
    np.testing.assert_array_equal(series.values[:, 1:], load_series("seattle").values)


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("tue,3,4.5", '\n\n"tue, the 2nd","3",4.5\n'),
        GOOD.replace("day,a,b", ' day ,"a", b '),
        GOOD.rstrip("\n"),
    ],
    ids=["plain", "bom", "crlf", "quotes_and_empty_lines", "spaces", "no_last_newline"],
)
def test_a_csv_file_gives_the_numbers_that_stand_in_it(write, content):
    series = load_series(write(content), column="b", further_columns=["a"])
    np.testing.assert_array_equal(series.values, [[2, 1], [4.5, 3], [6, -5]])
    assert series.columns == ("b", "a") and series.name == "some" and series.split == 2 and series.season is None


def test_the_only_numeric_column_needs_no_name(write):
    assert load_series(write("day,a\nmon,1\ntue,2\nwed,3\n")).columns == ("a",)


def test_a_file_needs_no_csv_in_its_name_if_it_is_there(write):
    assert len(load_series(write(GOOD, "some.txt"), column="a").values) == 3


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "is empty; a header and at least one row"),
        ("\n\n", {}, "is empty"),
        ("day,a\n", {}, "holds nothing but a header"),
        ("1,2\n3,4\n", {}, "has no header: its first line is '1,2'"),
        (GOOD.replace("tue,3,4.5", "tue,3"), {"column": "a"}, "row 3 has 2 cells, but the header has 3"),
        (GOOD.replace("tue,3", "tue,3,3"), {"column": "a"}, "row 3 has 4 cells, but the header has 3"),
        (GOOD.replace("tue,3", "tue,x"), {"column": "a"}, "row 3, column 'a' holds 'x', which is not a finite"),
        (GOOD.replace("tue,3", "tue,-inf"), {"column": "a"}, "row 3, column 'a' holds '-inf'"),
        (GOOD.replace("tue,3", "tue,1e999"), {"column": "a"}, "row 3, column 'a' holds '1e999'"),
        (GOOD.replace("tue", "\n\ntue").replace("3,", "x,"), {"column": "a"}, "row 5, column 'a' holds 'x'"),
        (
            GOOD.replace("tue,3,4.5", "tue,,1\nthu,nan,1\nfri,n/a,1"),
            {"column": "a"},
            "3 of 5 values of column 'a'",
        ),
        (GOOD.replace("3,4.5", "3,?"), {"column": "a", "further_columns": ["b"]}, "row 3, column 'b' holds '?'"),
        (GOOD, {"column": "c"}, "unknown column 'c'; available in"),
        (GOOD, {"column": "a", "further_columns": ["d"]}, "unknown column 'd'"),
        (GOOD, {}, "has 2 numeric columns; choose one with column (--column): a, b"),
        ("day,a\nmon,x\n", {}, "has no column of numbers: row 2, column 'a' holds 'x'"),
        (b"\x89PNG\r\n\x1a\n\x00\xff\xfe", {}, "is not a text file of comma-separated values"),
        ('day,a\n"mon' + "x" * 200_000, {}, "is not a text file of comma-separated values: field larger than"),
        (GOOD.replace("tue", '"tue'), {}, "opens a quote after line 2 that is never closed"),
        ('"day,a\nmon,1\n', {}, "opens a quote after line 0 that is never closed"),
        ('day,a\nmon,1\n"tue' + "x" * 200_000, {}, "Is a quote that opens after line 2 not closed?"),
        (GOOD, {"column": "a", "split": 3}, "split=3 must lie within the 3 steps of"),
        (GOOD, {"column": "a", "split": 0}, "split=0 must lie within the 3 steps of"),
        ("day,a\nmon,1\n", {}, "split=0 must lie within the 1 steps of"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_is_wrong_and_where(write, content, options, message):
    path = write(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_series(path, **options)
    assert path in str(error.value)


def test_a_blank_after_a_closing_quote_is_read(write):
    series = load_series(write(GOOD.replace("mon,1", '"mon" ,1')), column="a")
    np.testing.assert_array_equal(series.values[:, 0], [1, 3, -5])


@pytest.mark.parametrize(
    "content",
    [
        ",".join(f"column{i}" for i in range(20_000)) + "\n" + ",".join(["1"] * 20_000) + "\n",
        ",".join(["1"] * 20_000) + "\n1\n",
        "day,a\nmon," + "x" * 20_000 + "\n",
    ],
    ids=["columns", "no_header", "one_long_cell"],
)
@pytest.mark.parametrize("column", [None, "a"])
def test_an_error_about_a_huge_file_is_short(write, content, column):
    with pytest.raises(ValueError) as error:
        load_series(write(content), column=column)
    assert len(str(error.value)) < 1000


def test_an_error_lists_the_first_columns_and_counts_the_rest(write):
    header = ",".join(f"c{i}" for i in range(25))
    with pytest.raises(ValueError, match=r"available in .*: c0, c1, .*, c19 and 5 more$"):
        load_series(write(f"{header}\n" + ",".join(["1"] * 25) + "\n"), column="a")


def test_a_column_whose_name_stands_twice_in_the_header_is_refused(write):
    with pytest.raises(ValueError, match=r"twice|2 columns"):
        load_series(write("day,a,a\nmon,1,2\ntue,3,4\n"), column="a")


def test_a_missing_file_a_folder_and_an_unknown_name_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        load_series(str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match="is a folder, not a CSV file"):
        load_series(str(tmp_path))
    with pytest.raises(ValueError, match="unknown series 'curse'; available: course, seattle, melbourne"):
        load_series("curse")
    with pytest.raises(ValueError, match="unknown column 'temp'; available in 'course': value"):
        load_series("course", column="temp")
    with pytest.raises(ValueError, match=r"unknown column 'temp'; available in .*temp_max"):
        load_series("seattle", column="temp")
