"""Forecasts of many steps with intervals, for one series or thousands, with one model for all."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn import checks
from jaxrnn.data import KnownTimes
from jaxrnn.forecasting import metrics
from jaxrnn.forecasting.as_known import shortened
from jaxrnn.forecasting.backtests import backtest, judged, repeated
from jaxrnn.forecasting.calibration import Calibration
from jaxrnn.forecasting.covariates import require_future, with_future
from jaxrnn.forecasting.distributions import require_counts
from jaxrnn.forecasting.ensemble import Ensemble
from jaxrnn.forecasting.frame_columns import FrameKind
from jaxrnn.forecasting.fresh_rows import require_same_sign, require_same_step
from jaxrnn.forecasting.known import Known
from jaxrnn.forecasting.learn import learn, windows_for
from jaxrnn.forecasting.one_series import OneSeries
from jaxrnn.forecasting.panel import read_future, read_panel
from jaxrnn.forecasting.panel_notes import describe_panel
from jaxrnn.forecasting.quantile_columns import LEVELS, forecast_columns
from jaxrnn.forecasting.sample_paths import sample_paths
from jaxrnn.forecasting.season import SeasonChoice
from jaxrnn.forecasting.settings import Settings, as_tuple
from jaxrnn.forecasting.simple import seasonal_naive
from jaxrnn.forecasting.stored import Stored
from jaxrnn.forecasting.watch import TrainingStopped, Watch
from jaxrnn.forecasting.windows import Windows


class Forecaster:
    """Forecasts the next ``horizon`` steps of one series or of many, with quantiles.

    A few networks are trained on windows of all series, each window in a scale of its own, so series of different
    sizes and lengths share what they have in common. A network corrects the median of several exponential
    smoothings by a linear path and recurrent layers, and forecasts all steps at once. Each network leaves out
    another part of the values. On these parts it is judged: they settle how much of the networks is used, and how
    wide the intervals must be to cover what they promise.

    Args:
      horizon: steps to forecast.
      season: steps per season; 1 for none. None finds it in :meth:`fit`, from values and dates.
      window: steps that the network reads, at least a season; the default is three seasons, at least the horizon,
        at most 200.
      hidden: units of each recurrent layer, or of the only one.
      cell: ``"gru"`` or ``"lstm"``.
      steps: training steps of each network, or fewer of short series.
      learning_rate: the highest learning rate.
      seeds: how many networks are trained, whose quantiles are averaged.
      seed: the first seed.
      quantiles: levels of further columns of the forecast, as ``q-0.05``, beside median and intervals. They lie
        between the levels that the networks are trained for, see
        :func:`jaxrnn.forecasting.quantile_columns.quantiles_at`.
      future_columns: further columns of the frames, of numbers or text, that are known in advance, as promotions.
      past_columns: further columns that are known up to the last value, as the number of visitors.
      static_columns: further columns that do not change along a series, as the region of a shop.
      calendar: read hour, weekday and month of the dates, as far as the step between them makes sense of these.
      non_negative: no value can be negative, so forecasts below 0 become 0. None: if none was in :meth:`fit`.
      distribution: None trains the networks for quantiles; ``"normal"``, ``"student-t"`` (heavy tails) or
        ``"negative-binomial"`` (counts) for the parameters of a distribution, whose quantiles are then calibrated
        in the same way. Forecasts of counts are whole numbers.

    Raises:
      ValueError: an argument is invalid.

    >>> steps = np.arange(120)
    >>> shops = {name: level + np.sin(2 * np.pi * steps / 12) for name, level in (("a", 5.0), ("b", 50.0))}
    >>> model = Forecaster(horizon=3, season=12, steps=20, seeds=1, hidden=(8,)).fit(shops)
    >>> forecast = model.predict()
    >>> forecast["unique_id"].tolist(), forecast["ds"].tolist()
    (['a', 'a', 'a', 'b', 'b', 'b'], [120, 121, 122, 120, 121, 122])
    >>> paths = model.sample(1000)["a"]                  # of all three steps together, [1000, 3]
    >>> low, high = np.quantile(paths.sum(axis=1), (0.1, 0.9))     # an interval of their sum
    >>> bool((np.abs(forecast["yhat"][:3] - 5 - np.sin(2 * np.pi * np.arange(120, 123) / 12)) < 0.1).all())
    True
    """

    def __init__(
        self,
        horizon: int,
        season: int | None = None,
        *,
        window: int | None = None,
        hidden: int | Sequence[int] = (40,),
        cell: str = "gru",
        steps: int = 1500,
        learning_rate: float = 1e-3,
        seeds: int = 3,
        seed: int = 0,
        quantiles: float | Sequence[float] = (),
        future_columns: str | Sequence[str] = (),
        past_columns: str | Sequence[str] = (),
        static_columns: str | Sequence[str] = (),
        calendar: bool = True,
        non_negative: bool | None = None,
        distribution: str | None = None,
    ):
        names = as_tuple(future_columns), as_tuple(past_columns), as_tuple(static_columns)
        network = as_tuple(hidden), cell, steps, learning_rate, seeds, seed
        self.settings = Settings(
            horizon, season, window, *network, as_tuple(quantiles), *names, calendar, non_negative, distribution
        )
        self._given = self.settings
        self.calibration: Calibration | None = None
        self.season_choice: SeasonChoice | None = None
        self.stopped: str | None = None
        self.known = Known.nothing()
        self.networks = Ensemble(self.settings, self.known)
        self._panel: list[OneSeries] = []
        self._read_last: list[OneSeries] = []
        self._kind = FrameKind()

    def fit(self, frame: Any, *, progress: bool = False, watch: Watch | None = None) -> "Forecaster":
        """Train on all series, and settle shares and intervals on what each network leaves out.

        Args:
          frame: a pandas or polars frame with the columns ``unique_id``, ``ds`` and ``y``; a dictionary of such
            columns; a dictionary from names to arrays; or one array.
          progress: show a progress bar.
          watch: how progress is reported, and where checkpoints are kept; see :class:`jaxrnn.forecasting.Watch`.

        After Ctrl-C or SIGTERM the training stops, and the model uses the networks that there are so far;
        ``stopped`` then says ``"interrupted"`` or ``"terminated"``.

        Raises:
          ValueError: the frame is invalid, or no series is longer than one step. The model stays as it was.
        """
        panel = self._read(frame, fresh=False)
        learned = learn(self._given, panel, watch or Watch(progress=progress))
        kind = FrameKind.of(frame)
        # Only now, so that a fit that fails leaves the model as it was.
        self._kind, self._panel = kind, panel
        self.settings, self.season_choice, self.known, self.networks, self.calibration, self.stopped = learned
        return self

    def predict(self, frame: Any = None, *, future: Any = None) -> Any:
        """Forecast what follows the series of :meth:`fit`, or those of another frame, which may be new ones.

        Args:
          frame: as in :meth:`fit`; the default are its series.
          future: a frame with ``unique_id``, ``ds`` and the columns that are known in advance, for the steps to
            forecast. Rows without ``y`` after the last value, in ``frame``, give them too.

        Returns:
          A frame of the kind that was given, or a dictionary of arrays for anything else, with the columns
          ``unique_id``, ``ds``, ``yhat``, ``lo-80``, ``hi-80``, ``lo-95``, ``hi-95``, and those of ``quantiles``.
          Numbers as ``unique_id`` stay numbers. Times with a UTC offset get that of the training, or become UTC if
          that had several; of days, and of rows that are regular by the local clock alone, the local time stays.
          ``notes`` says so.

        Raises:
          ValueError: the model is not fitted, the frame is invalid, or a column that is known in advance has no
            value at a step to forecast.
        """
        panel, windows = self.windows_to_forecast(frame, future)
        values = self.quantiles(windows, windows.ends)
        horizon = self.settings.horizon
        columns = {
            "unique_id": np.repeat([one.name for one in panel], horizon),
            "ds": np.concatenate([one.step.after(one.times[-1], horizon) for one in panel]),
            **forecast_columns(values, self.settings.quantiles, self.settings.possible),
        }
        return (self._kind if frame is None else FrameKind.of(frame)).frame(columns)

    def sample(
        self, count: int = 100, frame: Any = None, *, future: Any = None, seed: int = 0
    ) -> dict[str, np.ndarray]:
        """Draw paths: values of all steps of the horizon together, for sums, maxima and the like.

        Each step has the quantiles that :meth:`predict` gives, and steps go together as the errors at held-out
        origins did (see :mod:`jaxrnn.forecasting.sample_paths`), so that intervals of a sum are neither those of
        independent steps, which are too narrow, nor the sums of the steps' intervals, which are too wide.

        Args:
          count: how many paths of each series.
          frame, future: as in :meth:`predict`.
          seed: the same seed draws the same paths.

        Returns:
          The paths ``[count, horizon]`` of each series, by its name.

        Raises:
          ValueError: as in :meth:`predict`.
        """
        checks.positive_integer("count", count)
        panel, windows = self.windows_to_forecast(frame, future)
        values = self.quantiles(windows, windows.ends)
        correlation = self._require_fit().correlation
        paths = sample_paths(values, correlation, LEVELS, count, np.random.default_rng(seed))
        return {one.name: path for one, path in zip(panel, self.settings.possible(paths))}

    def quantiles(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """The calibrated quantiles in the units of the series, float64 ``[origins, horizon, levels]``."""
        calibration = self._require_fit()
        relative = calibration.apply(*self.networks.quantiles(windows, origins), LEVELS)
        values = windows.last[origins][:, None, None] + windows.scale[origins][:, None, None] * relative
        values = values if windows.offset is None else values + windows.offset[origins][..., None]
        return self.settings.possible(values)

    def backtest(
        self, frame: Any = None, *, origins: int = 1, refit: bool = True, watch: Watch | None = None
    ) -> dict[str, Any]:
        """Forecast from the last ``origins`` origins of every series that have a whole horizon after them.

        Args:
          frame: as in :meth:`fit`; the default are its series.
          origins: rolling origins of each series, one step apart. All are one batch.
          refit: train a model on what comes before the first origin. False uses this model as it is, which has
            seen these values if the frame is that of :meth:`fit`.
          watch: as in :meth:`fit`.

        Returns:
          ``metrics`` (MASE, sMAPE, WQL and coverage of ``model``, ``seasonal_naive``, ``naive`` and ``ar``, in all
          and ``by_step`` of the horizon), ``rows``, a dictionary of arrays with ``unique_id``, ``origin`` (the
          last step that the forecast has read), ``step``, ``y``, ``judged`` (whether the forecast counts in the
          errors: both the value and that at the origin are known, since a missing one lies on a line to a later
          one), ``yhat`` and the intervals, ``by_series``, the MASE of each series by its name, and ``model``,
          which made the forecasts.

        Raises:
          ValueError: every series is too short for that many origins and the horizon, or has no value before
            the first origin.
          TrainingStopped: a signal ended the training. It is a KeyboardInterrupt.
        """
        panel = self._panel if frame is None else self._read(frame, fresh=not refit)
        if not panel:
            self._require_fit()
            raise ValueError("a loaded model keeps no series: give backtest the series to forecast")
        if not refit:
            require_same_step(panel, self.settings, self.known)
        long, cut = judged(panel, origins, self.settings.horizon)
        if not refit:
            before = [replace(one, values=one.values[: len(one.values) - cut]) for one in long]
            require_same_sign(before, self.settings)
        model = self
        if refit:
            model = Forecaster(**asdict(self._given))
            model.fit([shortened(one, len(one.values) - cut) for one in long], watch=watch)
            if model.stopped:
                raise TrainingStopped(model.stopped)
        return backtest(model, long, cut, origins)

    def measure(self, frame: Any, actual: np.ndarray, scale: np.ndarray) -> dict[str, Any]:
        """The errors of :meth:`backtest` for what follows the series of a frame, ``actual [series, horizon]``.

        ``scale [series]`` is the unit of MASE, :func:`jaxrnn.forecasting.seasonal_error` of each series.

        Raises:
          ValueError: as in :meth:`predict`.
        """
        panel = self._read(frame)
        require_same_sign(panel, self.settings)
        require_same_step(panel, self.settings, self.known)
        windows = self.windows(panel)
        values = self.quantiles(windows, windows.ends)
        season, horizon = self.networks.season, self.settings.horizon
        naive = [seasonal_naive(one.values, np.array([len(one.values)]), horizon, season) for one in panel]
        both = {"model": values, "seasonal_naive": repeated(np.concatenate(naive))}
        return metrics.compare(both, actual, scale, LEVELS)

    def save(self, folder: str | Path) -> None:
        """Write the model into a folder, which is made. The series of :meth:`fit` are not kept."""
        calibration = self._require_fit()
        found = self.settings, calibration, self.known, self.season_choice
        stored = Stored(self._given, *found, len(self.networks.params))
        stored.write(Path(folder), self.networks.maker, self.networks.params)

    @classmethod
    def load(cls, folder: str | Path) -> "Forecaster":
        """A model that :meth:`save` wrote. It forecasts the series that :meth:`predict` is given.

        Raises:
          FileNotFoundError: there is no model in this folder.
          ValueError: the model is damaged, or was written by another version.
        """
        stored = Stored.read(Path(folder))
        model = cls(**vars(stored.given))
        model.settings = stored.settings
        model.known, model.season_choice, model.calibration = stored.known, stored.season, stored.calibration
        model.networks = Ensemble(model.settings, model.known)
        model.networks.params = stored.networks_of(Path(folder), model.networks.maker)
        return model

    def windows_to_forecast(self, frame: Any, future: Any) -> tuple[list[OneSeries], Windows]:
        """The series to forecast, checked, and their windows."""
        self._require_fit()
        panel = self._panel if frame is None else self._read(frame)
        if not panel:
            raise ValueError("a loaded model keeps no series: give predict the series to forecast")
        horizon, names = self.settings.horizon, self.settings.columns
        require_same_sign(panel, self.settings)
        require_same_step(panel, self.settings, self.known)
        if names.future:
            ahead = [] if future is None else read_future(future, names, panel)
            panel = self._read_last = with_future(panel, ahead, horizon)
            self.require_future(panel, ahead)
        elif future is not None:
            raise ValueError("future= needs a model with future_columns, but this one has none")
        return panel, self.windows(panel)

    def require_future(self, panel: list[OneSeries], future: Sequence[OneSeries] = ()) -> None:
        """Raise a ValueError that names series, column and date if a future column misses a value ahead.

        ``future`` is what :func:`with_future` has joined to the panel.
        """
        require_future(panel, self.settings.future_columns, self.settings.horizon, future)

    def _require_fit(self) -> Calibration:
        if self.calibration is None:
            raise ValueError("the model is not fitted: call fit first, or load a saved one")
        return self.calibration

    @property
    def settled_season(self) -> int:
        """The season, given or found in :meth:`fit`."""
        return self.networks.season

    def _read(self, frame: Any, *, fresh: bool = True) -> list[OneSeries]:
        """The series of a frame; the times of a ``fresh`` one are read as those of the training."""
        known = self.known.times if fresh else KnownTimes()
        self._read_last = read_panel(frame, columns=self.settings.columns, known=known)
        if self.settings.counts:
            require_counts(self._read_last)
        return self._read_last

    @property
    def notes(self) -> list[str]:
        """What was done to the rows of the last frame that was read, and unknown texts in it, in sentences."""
        unknown = self.known.covariates.unknown_texts(self._read_last, self.settings.horizon)
        return [*describe_panel(self._read_last), *unknown]

    def windows(self, panel: list[OneSeries], until: Sequence[int] | np.ndarray | None = None) -> Windows:
        """The windows of these series, for :meth:`quantiles`.

        ``until`` is, for each series, the first step whose value the effects of its columns must not depend on.
        """
        return windows_for(self.networks, self.known, panel, until)
