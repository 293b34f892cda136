"""CSV files as people have them: what can be handled is handled and said, else an error names the row."""

import re
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pytest

from jaxrnn.data import infer_step, load_series, numbered_dates, read_dates, regular_times
from jaxrnn.data.dates import dates_and_note
from jaxrnn.data.numbers import decimal_point, read_number

DAYS = [date(2024, 1, 1) + timedelta(days=i) for i in range(60)]
VALUES = np.arange(60.0) + 0.5


@pytest.fixture
def read(tmp_path):
    def read(lines, header="date,sales", **options):
        path = tmp_path / "some.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return load_series(str(path), **options)

    return read


def rows(days=DAYS, style="%Y-%m-%d", separator=",", number: Callable[[float], str] = str):
    return [f"{day.strftime(style)}{separator}{number(value)}" for day, value in zip(days, VALUES.tolist())]


@pytest.mark.parametrize(
    "style", ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d %b %Y", "%Y%m%d", "%d.%m.%Y %H:%M"]
)
def test_dates_in_usual_formats_are_read(read, style):
    series = read(rows(style=style))
    np.testing.assert_array_equal(series.values[:, 0], VALUES)
    np.testing.assert_array_equal(series.times, np.array(DAYS, "datetime64[s]"))
    assert series.step is not None and series.step.unit == "seconds" and series.notes == ()
    assert series.observed is None


def test_the_newest_row_first_and_rows_out_of_order_are_sorted_and_said(read):
    series = read(rows()[::-1])
    np.testing.assert_array_equal(series.values[:, 0], VALUES)
    assert series.notes == ("the newest row came first: the rows were put in the order of 'date'",)
    mixed = rows()
    mixed[10], mixed[40] = mixed[40], mixed[10]
    series = read(mixed)
    np.testing.assert_array_equal(series.values[:, 0], VALUES)
    assert "were not in the order of 'date' (row 42 follows row 11 in time): they were sorted" in series.notes[0]


def test_two_rows_of_one_date_are_an_error_that_names_both(read):
    with pytest.raises(ValueError, match=r"rows 8 and 62 have the same 'date', 2024-01-07\. Keep one row"):
        read([*rows(), "2024-01-07,1"])
    with pytest.raises(ValueError, match="2024-01-07, and 1 more pairs of rows have one date"):
        read([*rows(), "2024-01-07,1", "2024-01-09,1"])


def test_two_rows_of_one_working_day_are_both_kept(read):
    days = [day for day in DAYS if day.weekday() < 5]
    lines = [f"{day} 09:00,{value}" for day, value in zip(days, VALUES)]
    lines.insert(4, f"{days[3]} 17:00,999")
    series = read(lines)
    assert series.values[:6, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 999, 4.5]
    assert len(series.values) == len(lines) and "no common step" in series.notes[0]


@pytest.mark.parametrize(
    ("before", "header"), [("", 'date;"load, MW, net"'), ("\n\n", "date;load"), (" \n", "date;load")]
)
def test_the_separator_is_what_separates_the_names(tmp_path, before, header):
    path = tmp_path / "some.csv"
    path.write_text(before + "\n".join([header, *rows(separator=";")]) + "\n")
    np.testing.assert_array_equal(load_series(str(path)).values[:, 0], VALUES)


def test_missing_dates_and_values_are_filled_in_and_do_not_count(read):
    lines = rows()
    lines[20] = "2024-01-21,"
    lines[30] = "2024-01-31,n/a"
    del lines[40:43]
    series = read(lines)
    known_then = VALUES.copy()
    known_then[[20, 30, 40, 41, 42]] = VALUES[[19, 29, 39, 39, 39]]
    np.testing.assert_array_equal(series.values[:, 0], known_then)
    assert series.observed is not None
    assert np.flatnonzero(~series.observed).tolist() == [20, 30, 40, 41, 42]
    np.testing.assert_array_equal(series.times, np.array(DAYS, "datetime64[s]"))
    assert series.notes[0].startswith("2 values of column 'sales' are missing: the last value before")
    assert series.notes[1].startswith("3 dates are missing, the first after 2024-02-09: the last value before")
    with pytest.raises(ValueError, match="31 of 60 values of column 'sales' are missing"):
        read([rows()[0], *(f"{day}," for day in DAYS[1:32]), *rows()[32:]])


@pytest.mark.parametrize(
    ("separator", "written", "number", "note"),
    [
        (",", '"5,051.84"', 5051.84, None),
        (",", '"5,051"', 5051.0, None),
        (",", '"3,5"', 3.5, "decimal commas"),
        (",", '"0,500"', 0.5, "decimal commas"),  # nobody writes a thousands group after a lone zero
        (",", '"-0,125"', -0.125, "decimal commas"),
        (";", "5,051", 5.051, "decimal commas"),
        (";", "1.234,5", 1234.5, "decimal commas"),
        (";", "5 051,5", 5051.5, "decimal commas"),
        ("\t", "5,051.84", 5051.84, None),
        ("|", "1e3", 1000.0, None),
    ],
)
def test_separators_and_ways_to_write_numbers(read, separator, written, number, note):
    lines = rows(separator=separator, number=lambda value: f"{value:.0f}")
    lines[7] = f"2024-01-08{separator}{written}"
    series = read(lines, header=f"\ufeffdate{separator}sales")
    assert series.values[7, 0] == number and series.values[9, 0] == 10
    assert (note is None) == (series.notes == ()) and (note is None or note in series.notes[0])


def test_one_column_has_one_way_to_write_numbers():
    assert decimal_point(["1,234", "1.5"], ";")[0] == "," and decimal_point(["1,234", "1,234.5"], ";")[0] == "."
    assert read_number("1.5", ",") is None and read_number("1.500", ",") == 1500
    assert read_number("1,23,4", ".") is None and read_number("1_000") is None and read_number("-inf") is None


@pytest.mark.parametrize(
    ("separator", "cells", "numbers", "note"),
    [
        (";", ["980", "990", "1.000", "-1.010"], [980, 990, 1000, -1010], "thousands separators"),
        (";", ["980", "1.000.500", "1.010"], [980, 1000500, 1010], "thousands separators"),
        (",", ["1.000.500", "2.000.500"], [1000500, 2000500], "thousands separators"),
        # Three decimals everywhere, or eighths, are more likely than thousands. A note says so where it is unsure.
        (";", ["1.900", "1.910"], [1.9, 1.91], "If they separate thousands, remove them"),
        (",", ["12.125", "13", "12.875"], [12.125, 13, 12.875], "If they separate thousands, remove them"),
        (",", ["1.900", "1.910"], [1.9, 1.91], None),
        (";", ["1.900", "1.91", "2000"], [1.9, 1.91, 2000], None),
        (";", ["0.125", "3"], [0.125, 3], None),
        (";", ["980", "1000", "1.010"], [980, 1000, 1.01], "If they separate thousands, remove them"),
    ],
)
def test_dots_are_thousands_separators_where_smaller_numbers_have_none(read, separator, cells, numbers, note):
    series = read([f"d{separator}{cell}" for cell in cells], header=f"kind{separator}sales")
    np.testing.assert_allclose(series.values[:, 0], numbers)
    assert (note is None) == (series.notes == ()) and (note is None or note in series.notes[0])


def test_iso_weeks_are_dates(read):
    weeks = [f"2023-W{i:02}" for i in (50, 51, 52)] + ["2024-W01", "2024W2"]
    series = read([f"{week},{i}" for i, week in enumerate(weeks)][::-1], header="week,sales")
    np.testing.assert_array_equal(series.values[:, 0], range(5))
    assert str(series.times[0]) == "2023-12-11T00:00:00" and series.step.size == 7 * 86400
    assert "newest row came first" in series.notes[0]
    with pytest.raises(ValueError, match="row 7, column 'week' holds '2023-W53', which is not a date"):
        read([f"{week},1" for week in [*weeks, "2023-W53"]], header="week,sales")


def test_a_column_that_promises_dates_but_has_none_is_named(read):
    series = read(["spring,1", "summer,2"], header="period,sales")
    assert series.notes == ("column 'period' was not read as dates: the rows are steps in the order of the file",)


@pytest.mark.parametrize(
    ("encoding", "note"),
    [("utf-16", ()), ("cp1252", ("the file is not UTF-8: it was read as Windows-1252",)), ("utf-8-sig", ())],
)
def test_the_encodings_of_spreadsheets_are_read(tmp_path, encoding, note):
    path = tmp_path / "some.csv"
    path.write_text("sep=;\r\nDatum;Verkäufe\r\n01.02.2024;3\r\n02.02.2024;4\r\n", encoding=encoding)
    series = load_series(str(path))
    assert series.columns == ("Verkäufe",) and series.values.tolist() == [[3], [4]] and series.notes == note
    path.write_text("sep=;\nDatum;Verkäufe\n01.02.2024;3\n02.02.2024;x\n", encoding=encoding)
    with pytest.raises(ValueError, match="row 4, column 'Verkäufe' holds 'x'"):
        load_series(str(path))


@pytest.mark.parametrize("first", ["2024-01-01,5", "1,5", "01.01.2024,5"])
def test_a_file_without_a_header_does_not_lose_its_first_row(read, first):
    with pytest.raises(
        ValueError, match=re.escape(f"has no header: its first line is '{first}'. Add column names")
    ):
        read(rows(), header=first)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            [*rows(), "2024-13-01,5"],
            "row 62, column 'date' holds '2024-13-01', which is not a date like the others",
        ),
        ([*rows(), "2024-03-01,five"], "row 62, column 'sales' holds 'five', which is not a finite number"),
        (["02.01.2024,5", "01.02.2024,5", "03.04.2024,3"], "which is"),
        (["01/02/2024,5", "01/03/2024,5"], "column 'date': the date '01/02/2024' has two meanings"),
        (["2024-01-01,3,5", "2024-01-02,4,5"], "If commas are decimal commas, put each number in quotes"),
    ],
)
def test_what_cannot_be_handled_names_the_row(read, lines, message):
    if message == "which is":
        assert (np.diff(read(lines).times) > np.timedelta64(0, "s")).all()  # sorted by day, month, year
        return
    with pytest.raises(ValueError, match=re.escape(message)):
        read(lines)


def test_the_order_decides_between_day_and_month():
    by_day = read_dates(["05/06/2024", "01/07/2024"])
    by_month = read_dates(["02/05/2024", "03/04/2024"])
    assert by_day is not None and by_month is not None
    assert by_day.astype("datetime64[D]").astype(str).tolist() == ["2024-06-05", "2024-07-01"]
    assert by_month.astype("datetime64[D]").astype(str).tolist() == ["2024-02-05", "2024-03-04"]
    assert read_dates(["d1", "d2"]) is None and read_dates(["1.5", "2.5"]) is None


def test_whole_numbers_that_count_the_steps_are_checked_like_dates(read):
    series = read(["1,5", "3,7", "2,6", "5,9"], header="step,value")
    assert series.values[:, 0].tolist() == [5, 6, 7, 7, 9] and series.columns == ("value",)
    assert series.observed is not None and series.observed.tolist() == [True, True, True, False, True]
    with pytest.raises(ValueError, match="rows 2 and 3 have the same 'step', 1"):
        read(["1,5", "1,7"], header="step,value")


@pytest.mark.parametrize(
    ("times", "unit", "after"),
    [
        (["2024-01-31", "2024-02-29", "2024-03-31"], "months", "2024-04-30"),
        (["2024-01-01", "2024-04-01", "2024-10-01"], "months", "2025-01-01"),
        (["2022-05-03", "2023-05-03", "2024-05-03"], "months", "2025-05-03"),
        (["2024-01-01T00:00", "2024-01-01T01:00", "2024-01-01T04:00"], "seconds", "2024-01-01T05:00"),
        (["2024-01-01", "2024-01-08", "2024-01-22"], "seconds", "2024-01-29"),
        (["2024-01-01", "2024-01-02", "2024-01-04", "2024-01-06"], "seconds", "2024-01-07"),
        ([f"2024-01-{day:02}" for day in (1, 2, 3, 4, 5, 8, 9, 10, 11, 12)], "weekdays", "2024-01-15"),
    ],
)
def test_the_step_between_dates_and_what_comes_next(times, unit, after):
    times = np.array(times, "datetime64[s]")
    step = infer_step(times)
    assert step is not None and step.unit == unit
    assert step.after(times[-1], 1)[0] == np.datetime64(after, "s")
    assert infer_step(np.array(["2024-01-01", "2024-01-02", "2024-01-02T07:00"], "datetime64[s]")) is None


@pytest.mark.parametrize("day", [29, 30])
def test_a_month_without_the_day_has_its_last_day(day):
    times = np.array([f"2024-{month:02}-{day}T09:30" for month in range(3, 13)], "datetime64[s]")
    step = infer_step(times)
    assert step is not None and not step.month_end
    after = step.after(times[-1], 3).astype("datetime64[m]").astype(str).tolist()
    assert after == [f"2025-01-{day}T09:30", "2025-02-28T09:30", f"2025-03-{day}T09:30"]


def test_dates_written_as_numbers_are_read_and_said(read):
    months = [202311, 202312, 202401, 202402]
    series = read([f"{month},{i}" for i, month in enumerate(months)], header="month,sales")
    assert series.values[:, 0].tolist() == [0, 1, 2, 3] and series.step.unit == "months"
    assert series.notes == ("column 'month': the numbers are read as months, 202311 as 2023-11-01",)
    assert read(["1,5", "2,6"], header="month,sales", column="sales").times is None  # of any year


@pytest.mark.parametrize(
    ("numbers", "name", "first", "last"),
    [
        ([202401, 202402, 202403], "", "2024-01-01", "2024-03-01"),
        ([202409, 202412, 202503], "", "2024-09-01", "2025-03-01"),
        ([202412, 202501, 202412], "", "2024-12-01", "2024-12-01"),
        ([202405], "", "2024-05-01", "2024-05-01"),
        ([200101, 200201, 200301], "month", "2001-01-01", "2003-01-01"),
        ([200101, 200201, 200301], "", None, None),  # as well steps of a hundred
        ([202451, 202452, 202501], "", "2024-12-16", "2024-12-30"),
        ([202401, 202402], "Week", "2024-01-01", "2024-01-08"),
        ([202451, 202452], "", None, None),
        ([20234, 20241, 20242], "", "2023-10-01", "2024-04-01"),
        ([20240131, 20240207], "", "2024-01-31", "2024-02-07"),
        ([20240131, 20240132], "", None, None),
        ([2022, 2023, 2024], "month", None, None),
        (list(range(202400, 202420)), "", None, None),
        (list(range(202401, 202414)), "month", None, None),
        ([1, 2, 3], "month", None, None),
        ([1704067200, 1704070800], "timestamp", "2024-01-01", "2024-01-01"),
        ([1704067200_000, 1704153600_000], "Time", "2024-01-01", "2024-01-02"),
        ([1704067200_000_000_000] * 2, "date", "2024-01-01", "2024-01-01"),
        ([1704067200, 1704070800], "ds", None, None),
        ([1, 1704070800], "timestamp", None, None),
    ],
)
def test_numbers_are_dates_only_if_all_are_and_name_or_regularity_says_so(numbers, name, first, last):
    found = numbered_dates(np.array(numbers), name)
    if first is None:
        assert found is None
    else:
        assert found is not None
        assert found.dates[[0, -1]].astype("datetime64[D]").astype(str).tolist() == [first, last]


def test_utc_offsets_that_change_keep_every_hour_and_every_day():
    spring = [f"2024-03-31T{hour}" for hour in ("00:00+01:00", "01:00+01:00", "03:00+02:00", "04:00+02:00")]
    autumn = [f"2024-10-27 {hour}" for hour in ("02:00:00+02:00", "02:00:00+01:00", "03:00:00+01:00")]
    for cells in (spring, autumn):
        found = dates_and_note(cells)
        assert found is not None and "converted to UTC" in str(found.note)
        assert np.diff(found.times).astype(int).tolist() == [3600] * (len(cells) - 1)
        assert found.times[0] == np.datetime64(cells[0][:16]) - np.timedelta64(1 + (cells is autumn), "h")
    days = dates_and_note(["2024-03-30T00:00+01:00", "2024-03-31T00:00+01:00", "2024-04-01T00:00+02:00"])
    assert (
        days is not None and np.diff(days.times).astype(int).tolist() == [86_400] * 2 and "local" in str(days.note)
    )
    same = dates_and_note(["2024-03-30 05:00 UTC", "2024-03-30 06:00 UTC"])
    assert same is not None and same.note is None and same.times[0] == np.datetime64("2024-03-30T05:00")
    with pytest.raises(ValueError, match=r"'2024-01-02T00:00' has no UTC offset, but others have one"):
        read_dates(["2024-01-01T00:00Z", "2024-01-02T00:00", "2024-01-03T00:00Z"])
    assert read_dates(["2024-01-02", "2024-01-03"]) is not None  # the day is not an offset


@pytest.mark.parametrize(
    ("times", "unit", "size"),
    [
        (["2024-01-01T09:03", "2024-01-02T09:01", "2024-01-03T17:07"], "days", 86_400),
        (["2024-01-01T23:59", "2024-01-03T00:01", "2024-01-03T23:58"], "the nearest days", 86_400),
        (["2024-01-01T00:02", "2024-01-01T01:00", "2024-01-01T02:05"], "hours", 3600),
        (["2024-01-01T00:59:58", "2024-01-01T02:00:01", "2024-01-01T03:00:00"], "the nearest hours", 3600),
        (["2024-01-01", "2024-01-09", "2024-01-16", "2024-01-22"], "weeks", 7 * 86_400),
        (["2024-01-31", "2024-02-28", "2024-03-29"], "months", 1),
        (["2024-01-01", "2024-01-02", "2024-01-02T07:00"], "", None),
        (["2024-01-01T07:00", "2024-01-02T09:00", "2024-04-02T03:00"], "", None),
        (["2024-01-01T07:00", "2024-01-02T07:00", "2024-01-03T07:00"], "", 86_400),
    ],
)
def test_times_that_vary_a_little_are_rounded(times, unit, size):
    found = regular_times(np.array(times, "datetime64[s]"))
    assert found.unit == unit and (found.step.size if found.step else None) == size


def test_a_file_whose_times_vary_a_little_says_so(read):
    series = read([f"{day} 09:0{i % 7},{i}" for i, day in enumerate(DAYS)])
    assert series.notes == ("the times vary a little, so they were rounded to days",)
    np.testing.assert_array_equal(series.times, np.array(DAYS, "datetime64[s]"))
