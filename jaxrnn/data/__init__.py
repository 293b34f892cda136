"""Series, windows over them, batches of sequences, and baseline forecasts for comparison."""

from jaxrnn.data.baselines import autoregressive_forecast, moving_average_forecast, naive_forecast
from jaxrnn.data.buckets import Buckets, PaddedBatch, bucket_by_length
from jaxrnn.data.preparation import Preparation, Prepared
from jaxrnn.data.series import Series, available_series, course_series, load_series
from jaxrnn.data.series_file import SeriesFile, shuffled
from jaxrnn.data.windows import sequential_starts, take_windows, window_starts

__all__ = [
    "Buckets",
    "PaddedBatch",
    "Preparation",
    "Prepared",
    "Series",
    "SeriesFile",
    "autoregressive_forecast",
    "available_series",
    "bucket_by_length",
    "course_series",
    "load_series",
    "moving_average_forecast",
    "naive_forecast",
    "sequential_starts",
    "shuffled",
    "take_windows",
    "window_starts",
]
