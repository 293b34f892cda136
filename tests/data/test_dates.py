"""Dates of any unit, fractions of seconds, and numbers that may be dates or count steps."""

import numpy as np
import pytest

from jaxrnn.data import Step, infer_step, numbered_dates, read_dates, regular_times

DAYS = np.arange("2024-01-01", "2024-01-20", dtype="datetime64[D]")


@pytest.mark.parametrize("unit", ["D", "h", "s", "ms", "ns"])
def test_the_unit_of_times_does_not_matter(unit):
    days = DAYS.astype(f"datetime64[{unit}]")
    weekdays = days[np.is_busday(DAYS)]
    assert infer_step(days) == regular_times(days).step == Step("seconds", 86_400)
    assert infer_step(weekdays) == Step("weekdays", 1) and regular_times(days).times.dtype == "datetime64[s]"
    assert infer_step(np.arange("2024-01", "2024-06", dtype="datetime64[M]")) == Step("months", 1)
    for step, expected in ((Step("seconds", 86_400), DAYS[2:4]), (Step("weekdays", 1), DAYS[2:4])):
        assert (step.after(days[1], 2) == expected).all() and step.after(days[1], 2).dtype == "datetime64[s]"
    places = Step("seconds", 86_400).places(days)
    assert places is not None and places.tolist() == list(range(19))


@pytest.mark.parametrize("kind", [np.uint8, np.uint64, np.int32])
def test_whole_numbers_of_any_kind_count_steps(kind):
    assert infer_step(np.array([1, 3, 5], kind)) == Step("steps", 2)
    assert Step("steps", 2).after(kind(5), 2).tolist() == [7, 9]


@pytest.mark.parametrize("milliseconds", [1500, 2500])
def test_distances_that_whole_seconds_cannot_hold_are_refused(milliseconds):
    times = np.datetime64("2024-01-31", "ms") + milliseconds * np.arange(20)
    with pytest.raises(
        ValueError, match=f"are {milliseconds / 1000} seconds apart, but times are read in whole sec"
    ):
        read_dates([str(time) for time in times])


def test_fractions_of_seconds_that_do_not_matter_are_left_out():
    random = np.random.RandomState(0)
    for distances in (1000 + random.randint(-20, 20, 30), 60_250 + 0 * random.rand(30), 1e4 * random.rand(30)):
        times = np.datetime64("2024-01-31", "ms") + np.cumsum(distances).astype(int)
        assert (read_dates([str(time) for time in times]) == times.astype("datetime64[s]")).all()


def test_one_or_two_times_are_rounded_to_a_given_unit():
    times = DAYS[:3].astype("datetime64[s]") + np.array([33_000, 33_010, 32_990])
    for count in (1, 2):
        assert (regular_times(times[:count], "days").times == DAYS[:count]).all()
        assert (regular_times(times[:count]).times == times[:count]).all()
    close = times[0] + np.array([0, 60])
    assert (regular_times(close, "days").times == close).all()


def test_numbers_beside_numbered_steps_count_steps_unless_they_are_more_regular_as_dates():
    for numbers in ([202401], [202401, 202402, 202403], [20240101, 20240102]):
        assert numbered_dates(np.array(numbers)) is not None
        assert numbered_dates(np.array(numbers), "month", seconds=0) is None
    assert numbered_dates(np.array([202411, 202412, 202501]), seconds=0) is not None
