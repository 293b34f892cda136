"""Forecasts that people act on: many steps ahead with intervals, and networks that correct simple forecasts."""

from jaxrnn.forecasting.combination import Combination, Method
from jaxrnn.forecasting.correction import Correction
from jaxrnn.forecasting.forecaster import Forecaster
from jaxrnn.forecasting.metrics import coverage, mase, seasonal_error, smape, wql
from jaxrnn.forecasting.panel import OneSeries, read_panel

__all__ = [
    "Combination",
    "Correction",
    "Forecaster",
    "Method",
    "OneSeries",
    "coverage",
    "mase",
    "read_panel",
    "seasonal_error",
    "smape",
    "wql",
]
