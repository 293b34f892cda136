"""Whether a trained model may forecast the series that it is given."""

from collections.abc import Sequence

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

    Whole numbers instead of dates do not fit a model that has features of the calendar. A model without these and
    without a season takes rows of any distance.
    """
    calendar = bool(known.covariates.phases)
    if not calendar and (settings.season or 1) == 1:
        return
    trained = [step.seconds for step in known.steps if step.seconds is not None]
    other = [one for one in panel if not _similar(one.step.seconds, trained, calendar=calendar)]
    if other:
        one = other[0]
        has = (
            f"rows that are {one.step} apart" if one.step.seconds is not None else "whole numbers instead of dates"
        )
        more = f", and so have {len(other) - 1} more series" if len(other) > 1 else ""
        raise ValueError(
            f"series {one.name!r} has {has}{more}, but this model was trained on rows that are {known.steps[0]} "
            f"apart. Give it such rows (those of missing steps without a value), or train a model with these (one "
            f"with season=1 and calendar=False takes rows of any distance)"
        )


def _similar(step: int | None, trained: Sequence[int], *, calendar: bool) -> bool:
    if step is None or not trained:
        return not calendar or not trained
    return any(max(step, one) <= _CLEARLY * min(step, one) for one in trained)
