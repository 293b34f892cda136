"""Forecasts that people act on: many steps ahead with intervals, and networks that correct simple forecasts."""

from jaxrnn.forecasting.calibrated import CalibratedNetworks
from jaxrnn.forecasting.combination import Combination, Method
from jaxrnn.forecasting.correction import Correction
from jaxrnn.forecasting.covariates import with_future
from jaxrnn.forecasting.forecaster import Forecaster
from jaxrnn.forecasting.metrics import coverage, mase, seasonal_error, smape, wql
from jaxrnn.forecasting.one_series import Columns, OneSeries
from jaxrnn.forecasting.panel import continued, read_panel
from jaxrnn.forecasting.panel_notes import describe_panel
from jaxrnn.forecasting.season import SeasonChoice, choose_season
from jaxrnn.forecasting.watch import TrainingStopped, Watch

__all__ = [
    "CalibratedNetworks",
    "Columns",
    "Combination",
    "Correction",
    "Forecaster",
    "Method",
    "OneSeries",
    "SeasonChoice",
    "TrainingStopped",
    "Watch",
    "choose_season",
    "continued",
    "coverage",
    "describe_panel",
    "mase",
    "read_panel",
    "seasonal_error",
    "smape",
    "with_future",
    "wql",
]
