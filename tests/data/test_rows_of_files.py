"""Which rows of a CSV file are steps, in which order, and what was known at each of them."""

import numpy as np
import pytest

from jaxrnn.data import load_series, read_long

DAYS = np.arange("2024-01-01", "2024-03-01", dtype="datetime64[D]").astype(str).tolist()


@pytest.fixture
def write(tmp_path):
    def write(header, *columns, newest_first=False):
        lines = [",".join(map(str, row)) for row in zip(*columns)]
        path = tmp_path / "some.csv"
        path.write_text("\n".join([header, *(lines[::-1] if newest_first else lines)]) + "\n")
        return path

    return write


def test_no_row_holds_what_was_not_known_at_its_time(write):
    known_later = []
    for last in (7.0, 1000.0):
        sales = [1, "", 3, "", "", last, *range(6, 60)]
        series = load_series(str(write("date,sales,price", DAYS, sales, sales)), column="sales")
        known_later.append(series.values[:5])
    np.testing.assert_array_equal(*known_later)


def test_a_series_begins_with_its_first_value_and_ends_with_its_last(write):
    sales = ["", "", *range(40), *[""] * 18]
    path = write("date,sales,price", DAYS, sales, ["", "", "", *range(57)])
    series = load_series(str(path), column="sales", further_columns=["price"])
    assert series.values[:, 0].tolist() == list(range(40)) and series.split == 28 and series.observed is None
    assert series.values[:3, 1].tolist() == [0, 0, 1]  # nothing is known of the price at its first step
    assert series.times is not None
    assert series.times[0] == np.datetime64("2024-01-03") and series.times[-1] == np.datetime64("2024-02-11")
    assert [note.split(":")[0] for note in series.notes] == [
        "the first 2 rows have no value of column 'sales'",
        "the last 18 rows have no value of column 'sales'",
        "1 values of column 'price' are missing",
    ]
    with pytest.raises(ValueError, match="60 of 60 values of column 'sales' are missing"):
        load_series(str(write("date,sales,price", DAYS, [""] * 60, range(60))), column="sales")


@pytest.mark.parametrize("name", ["order_date", "Tag", "created at"])
def test_the_only_column_of_dates_is_found_wherever_it_stands_and_whatever_its_name(name, write):
    path = write(f"shop,{name},sales", ["Bonn"] * 60, DAYS, range(60), newest_first=True)
    series = load_series(str(path))
    assert series.values[:, 0].tolist() == list(range(60))
    assert series.times is not None and series.times.astype("datetime64[D]").astype(str).tolist() == DAYS
    assert series.notes[0] == f"the dates are those of column {name!r}"
    found = read_long(path, unique_id="shop")
    assert found.columns["ds"].astype("datetime64[D]").astype(str).tolist() == DAYS[::-1]
    assert found.notes == (f"the dates are those of column {name!r}",)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (DAYS, "columns 'ordered' and 'other' hold dates, so none of them is used"),
        (["x"] * 60, "rows 2 and 61 have the same"),
    ],
)
def test_dates_that_do_not_order_the_rows_are_said_and_not_used(others, said, write):
    ordered = DAYS if others is DAYS else [*DAYS[:-1], DAYS[0]]
    path = write("shop,ordered,other,sales", ["Bonn"] * 60, ordered, others, range(60, 0, -1))
    series, found = load_series(str(path)), read_long(path)
    assert series.times is None and "ds" not in found.columns
    assert series.values[:, 0].tolist() == found.columns["y"].tolist() == list(range(60, 0, -1))
    assert said in series.notes[0] and said in found.notes[0]


def test_dates_of_which_one_is_wrong_are_said_and_a_column_in_use_holds_no_dates(write):
    path = write("shop,ordered,sales", ["Bonn"] * 60, [*DAYS[:-1], "soon"], range(60))
    said = "the dates of column 'ordered' are not used"
    assert load_series(str(path)).notes[0].startswith(said) and read_long(path).notes[0].startswith(said)
    assert "row 61" in read_long(path).notes[0]
    assert (
        "ds"
        not in read_long(write("a,ordered,sales", [0] * 60, DAYS, range(60)), further=["a", "ordered"]).columns
    )


@pytest.mark.parametrize(
    ("numbers", "rising"),
    [
        (list(range(1961, 2021)), True),  # years
        ([45000 + day + 2 * (day // 5) for day in range(60)], True),  # working days of a spreadsheet
        (list(range(1, 61)), True),
        ([(10 + month) % 60 for month in range(60)], False),  # begins again
        ([2000 + month // 12 for month in range(60)], False),
    ],
)
def test_numbers_in_a_column_of_dates_order_the_rows_unless_they_may_begin_again(numbers, rising, write):
    for newest_first in (False, True):
        path = write("Date,sales", numbers, range(60), newest_first=newest_first)
        series = load_series(str(path), column="sales")
        in_order = rising or not newest_first
        assert series.values[:, 0].tolist() == list(range(60))[:: 1 if in_order else -1]
        assert series.observed is None
        silent = numbers == sorted(numbers) and not newest_first
        assert silent == (series.notes == ())
        if not rising and not silent:
            assert "column 'Date' was not read as dates" in series.notes[0]


def test_years_in_no_order_are_sorted(write):
    years = np.random.RandomState(0).permutation(60)
    series = load_series(str(write("Date,sales", years + 1961, years)), column="sales")
    assert series.values[:, 0].tolist() == list(range(60)) and "they were sorted" in series.notes[0]
