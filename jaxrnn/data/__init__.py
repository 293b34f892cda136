"""Series, windows over them, labelled sequences and batches of them, and baseline forecasts for comparison."""

from jaxrnn.data.baselines import autoregressive_forecast, moving_average_forecast, naive_forecast
from jaxrnn.data.buckets import Buckets, PaddedBatch, bucket_by_length
from jaxrnn.data.csv_file import Table, read_csv
from jaxrnn.data.dates import DAYS, WEEKDAYS, KnownTimes, Step, infer_step, read_dates
from jaxrnn.data.long_file import LongRows, column_names, columns_of_names, read_long
from jaxrnn.data.numbered_dates import numbered_dates
from jaxrnn.data.numbers import filled
from jaxrnn.data.preparation import Preparation, Prepared
from jaxrnn.data.regular_times import regular_times, rounded
from jaxrnn.data.rows import AGGREGATES, check_aggregate, combine, same_dates
from jaxrnn.data.series import Series, available_series, course_series, load_series
from jaxrnn.data.series_file import SeriesFile, shuffled
from jaxrnn.data.ts_file import LabelledSequences, read_ts
from jaxrnn.data.windows import sequential_starts, take_windows, window_starts

__all__ = [
    "AGGREGATES",
    "DAYS",
    "WEEKDAYS",
    "Buckets",
    "KnownTimes",
    "LabelledSequences",
    "LongRows",
    "PaddedBatch",
    "Preparation",
    "Prepared",
    "Series",
    "SeriesFile",
    "Step",
    "Table",
    "autoregressive_forecast",
    "available_series",
    "bucket_by_length",
    "check_aggregate",
    "column_names",
    "columns_of_names",
    "combine",
    "course_series",
    "filled",
    "infer_step",
    "load_series",
    "moving_average_forecast",
    "naive_forecast",
    "numbered_dates",
    "read_csv",
    "read_dates",
    "read_long",
    "read_ts",
    "regular_times",
    "rounded",
    "same_dates",
    "sequential_starts",
    "shuffled",
    "take_windows",
    "window_starts",
]
