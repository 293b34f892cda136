"""Whether a trained model may forecast the series that it is given."""

from collections.abc import Sequence

from jaxrnn.data import DAYS, WEEKDAYS, Step
from jaxrnn.forecasting.known import Known
from jaxrnn.forecasting.one_series import OneSeries
from jaxrnn.forecasting.settings import Settings

_CLEARLY = 1.5


def require_same_sign(panel: Sequence[OneSeries], settings: Settings) -> None:
    """Raise a ValueError that names a series if it has values below 0, but the model never forecasts any."""
    below = [one.name for one in panel if (one.values < 0).any()]
    if settings.non_negative and below:
        raise ValueError(
            f"series {below[0]!r} has values below 0, but this model never forecasts any: none was in its "
            f"training. Train a model with this series, or with non_negative=False (--non-negative False)"
        )


def require_same_step(panel: Sequence[OneSeries], settings: Settings, known: Known) -> None:
    """Raise a ValueError that names a series if its rows are clearly farther apart, or closer, than in training.

    Days from Monday to Friday are other steps than those of all the week. Whole numbers instead of dates do not
    fit a model that has features of the calendar. A model without these and without a season takes rows of any
    distance.
    """
    calendar = bool(known.covariates.phases)
    if not calendar and (settings.season or 1) == 1:
        return
    other = [one for one in panel if not _fits(one, known.steps, calendar=calendar)]
    if other:
        one = other[0]
        numbered = one.step.unit == "steps"
        trained = known.steps[0]
        has = f"rows that are {one.step} apart"
        if numbered and trained.unit != "steps":
            has = "whole numbers instead of dates"
        more = f", and so have {len(other) - 1} more series" if len(other) > 1 else ""
        order = ", leave out ds if each row is a step" if numbered and not calendar else ""
        raise ValueError(
            f"series {one.name!r} has {has}{more}, but this model was trained on rows that are {trained} "
            f"apart. Give it such rows (those of missing steps without a value){order}, or train a model with "
            f"these (one with season=1 and calendar=False takes rows of any distance)"
        )


def _fits(one: OneSeries, trained: Sequence[Step], *, calendar: bool) -> bool:
    """Whether the rows of a series are as far apart as those of one of the series of the training."""
    step = one.step
    same_kind = [other for other in trained if (other.unit == "steps") == (step.unit == "steps")]
    if not same_kind:  # the rows of one are numbered, those of the other dated: nothing tells whether they differ
        return not calendar or not trained
    rows_are_numbered = step == Step("steps", 1) and one.times[0] == 0
    return rows_are_numbered or any(_similar(step, other) for other in same_kind)


def _similar(one: Step, other: Step) -> bool:
    if {one, other} == {DAYS, WEEKDAYS}:
        return False
    return max(one.length, other.length) <= _CLEARLY * min(one.length, other.length)
