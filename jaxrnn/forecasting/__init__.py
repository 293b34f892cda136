"""Forecasts that people act on: averages of simple forecasts, and networks that correct them."""

from jaxrnn.forecasting.combination import Combination, Method
from jaxrnn.forecasting.correction import Correction

__all__ = ["Combination", "Correction", "Method"]
