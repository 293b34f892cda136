"""Hour, weekday and month of dates as sine and cosine, so that December lies beside January."""

from collections.abc import Sequence

import numpy as np

from jaxrnn.data import Step

_DAY = 86_400


def _day(times: np.ndarray) -> np.ndarray:
    return times.astype(np.int64) % _DAY / _DAY


def _week(times: np.ndarray) -> np.ndarray:
    # 1970-01-01 was a Thursday.
    return (times.astype(np.int64) / _DAY + 3) % 7 / 7


def _year(times: np.ndarray) -> np.ndarray:
    first, after = (times.astype("datetime64[Y]") + np.timedelta64(more, "Y") for more in (0, 1))
    first, after = (year.astype("datetime64[s]").astype(np.int64) for year in (first, after))
    return (times.astype(np.int64) - first) / (after - first)


PHASES = {"hour": _day, "weekday": _week, "month": _year}
"""How far a time lies within its day, its week, and its year, from 0 to 1."""


def usual_phases(steps: Sequence[Step]) -> tuple[str, ...]:
    """Which of :data:`PHASES` change from step to step and come back, for the shortest of these steps.

    >>> usual_phases([Step("seconds", 3600)]), usual_phases([Step("months", 3)]), usual_phases([Step("steps", 1)])
    (('hour', 'weekday', 'month'), ('month',), ())
    """
    seconds = [step.seconds for step in steps if step.seconds is not None]
    if not seconds or len(seconds) < len(steps):
        return ()
    shortest = min(seconds)
    longest = {"hour": _DAY // 2, "weekday": 3 * _DAY, "month": 183 * _DAY}
    return tuple(name for name in PHASES if shortest <= longest[name])


def calendar_features(times: np.ndarray, phases: Sequence[str]) -> np.ndarray:
    """Sine and cosine of each phase, float64 ``[time, 2 phases]``.

    Args:
      times: ``datetime64[s]``.
      phases: names in :data:`PHASES`.

    >>> times = np.array(["2024-01-01T06:00", "2024-01-04T12:00"], "datetime64[s]")
    >>> calendar_features(times, ["hour", "weekday"]).round(3) + 0.0
    array([[ 1.   ,  0.   ,  0.223,  0.975],
           [ 0.   , -1.   ,  0.   , -1.   ]])
    """
    angles = [2 * np.pi * PHASES[name](times) for name in phases]
    columns = [function(angle) for angle in angles for function in (np.sin, np.cos)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(times), 0))
