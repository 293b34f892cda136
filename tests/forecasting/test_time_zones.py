"""Times with UTC offsets: a future and fresh rows beyond a clock change, and frames with a time zone."""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from experiments.common.many_steps.panel_file import PanelOptions, load_future, load_panel
from jaxrnn.data import Step
from jaxrnn.forecasting import Forecaster, describe_panel, read_panel, with_future

SMALL: dict[str, Any] = dict(steps=4, seeds=1, hidden=(4,))
BERLIN, UTC = ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")


def hours(first: datetime, count: int) -> np.ndarray:
    """Consecutive hours from a local time on, as pandas gives them to NumPy."""
    begin = first.replace(tzinfo=BERLIN).astimezone(UTC)
    return np.array([(begin + timedelta(hours=hour)).astimezone(BERLIN) for hour in range(count)], object)


WINTER, SPRING, SUMMER = hours(datetime(2024, 3, 20), 264), hours(datetime(2024, 3, 31), 72), datetime(2024, 7, 1)


def test_a_future_beyond_the_clock_change_continues_the_hours_of_the_panel():
    assert WINTER[-1] == SPRING[0] - timedelta(hours=1) and WINTER[-1].hour == 23
    model = Forecaster(72, 24, future_columns="x", **SMALL)
    model.fit({"ds": WINTER, "y": np.ones(264), "x": np.ones(264)})
    (joined,), _ = model.windows_to_forecast(None, {"ds": SPRING, "x": np.arange(72.0)})
    assert joined.times[0] == np.datetime64("2024-03-20T00") and joined.utc_offset == 3600
    assert joined.future["x"][264:].tolist() == list(range(72))


def test_files_beyond_the_clock_change_continue_the_hours_of_the_panel(tmp_path):
    rows, future = tmp_path / "rows.csv", tmp_path / "future.csv"
    rows.write_text("\n".join(["ds,y,x", *(f"{time.isoformat()},1,0" for time in WINTER)]))
    future.write_text("\n".join(["ds,x", *(f"{time.isoformat()},{x}" for x, time in enumerate(SPRING))]))
    options = PanelOptions(future_columns=("x",))
    panel = load_panel(str(rows), options)
    (joined,) = with_future(panel, load_future(str(future), options, panel), 72)
    assert joined.future["x"][264:].tolist() == list(range(72))


@pytest.mark.parametrize("trained", ["one offset", "two offsets"])
def test_fresh_rows_have_the_offset_of_the_training_and_it_is_said(trained, tmp_path):
    times, offset = (WINTER, 3600) if trained == "one offset" else (np.concatenate([WINTER, SPRING]), 0)
    Forecaster(2, 24, **SMALL).fit({"ds": times, "y": np.sin(np.arange(len(times)))}).save(tmp_path)
    model = Forecaster.load(tmp_path)
    assert model.known.utc_offset == offset
    forecast = model.predict({"ds": hours(SUMMER, 100), "y": np.ones(100)})
    after = np.datetime64("2024-07-01T00") + np.timedelta64(100 * 3600 - 7200 + offset, "s")
    assert (forecast["ds"] == after + np.arange(2) * np.timedelta64(1, "h")).all()
    (said,) = model.notes
    assert f"the times were converted to {'+01:00' if offset else 'UTC'}" in said


def test_the_dates_of_days_stay_local_in_a_training_in_winter_and_fresh_rows_in_summer():
    def days(month: int) -> np.ndarray:
        return np.array([datetime(2024, month, day, tzinfo=BERLIN) for day in range(1, 29)], object)

    model = Forecaster(2, 7, **SMALL).fit({"ds": days(1), "y": np.arange(28.0)})
    forecast = model.predict({"ds": days(7), "y": np.arange(28.0)})
    assert forecast["ds"].astype("datetime64[D]").astype(str).tolist() == ["2024-07-29", "2024-07-30"]


def test_days_of_a_polars_frame_with_a_time_zone_are_local_dates():
    class Column:
        """As a column of polars: NumPy reads it in UTC."""

        class dtype:
            time_zone = "Europe/Berlin"

        def __init__(self, times: list[datetime]):
            self.times = times

        def to_list(self) -> list[datetime]:
            return self.times

        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            return np.array([one.astimezone(UTC).replace(tzinfo=None) for one in self.times], "datetime64[us]")

    days = [datetime(2024, 3, 29, tzinfo=BERLIN) + timedelta(days=day) for day in range(4)]
    (one,) = read_panel({"ds": Column(days), "y": np.arange(4.0)})
    assert (one.times == np.datetime64("2024-03-29") + np.arange(4)).all()


@pytest.mark.parametrize(
    ("hours", "days"), [(2, ("2024-03-20", "2024-04-08")), (12, ("2024-10-01", "2024-11-20"))]
)
def test_rows_that_are_regular_by_the_local_clock_alone_stay_local(hours, days):
    local = np.arange(*days, dtype="datetime64[h]")[1::hours]
    change = np.datetime64("2024-03-31T02"), np.datetime64("2024-10-27T03")
    summer = (local >= change[0]) & (local < change[1])
    cells = [f"{time}:00+0{2 if late else 1}:00" for time, late in zip(local, summer)]
    one = read_panel({"ds": cells, "y": np.ones(len(cells))})[0]
    assert one.step == Step("seconds", 3600 * hours) and (one.times == local).all() and one.observed.all()
    assert "regular by the local clock" in describe_panel([one])[0]
