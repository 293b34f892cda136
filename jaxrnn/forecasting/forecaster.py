"""Forecasts of many steps with intervals, for one series or thousands, with one model for all."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxrnn import checks
from jaxrnn.data import take_windows
from jaxrnn.forecasting import metrics
from jaxrnn.forecasting.calibration import Calibration
from jaxrnn.forecasting.network import KINDS, QuantileNetwork, pinball, with_linear_path
from jaxrnn.forecasting.panel import OneSeries, as_frame, read_panel
from jaxrnn.forecasting.windows import Windows
from jaxrnn.training import (
    Run,
    TrainState,
    fit,
    load_model,
    make_optimizer,
    make_windowed_epoch,
    pure_apply,
    save_model,
)

LEVELS = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)
"""The quantile levels: those of the 95 % and the 80 % interval, and every tenth."""

COLUMNS = {"yhat": 0.5, "lo-80": 0.1, "hi-80": 0.9, "lo-95": 0.025, "hi-95": 0.975}
"""The quantile level of each column of a forecast."""

_SETTINGS = "forecaster.json"
_BATCH = 256


@dataclass(frozen=True)
class Settings:
    """The arguments of a :class:`Forecaster`."""

    horizon: int
    season: int
    window: int
    hidden: tuple[int, ...]
    cell: str
    steps: int
    learning_rate: float
    seeds: int
    seed: int


class Forecaster:
    """Forecasts the next ``horizon`` steps of one series or of many, with quantiles.

    One network is trained on windows of all series, each in a scale of its own, so series of different sizes and
    lengths share what they have in common. It corrects the seasonal naive forecast by a linear path and recurrent
    layers, and forecasts all steps at once. The last part of each series is held out of training. It settles how
    much of the correction is used, and how wide the intervals must be to cover what they promise.

    Args:
      horizon: steps to forecast.
      season: steps per season; 1 for none.
      window: steps that the network reads; the default is three seasons, at least the horizon, at most 200.
      hidden: units of each recurrent layer.
      cell: ``"gru"`` or ``"lstm"``.
      steps: training steps of each network.
      learning_rate: the highest learning rate.
      seeds: how many networks are trained, whose quantiles are averaged.
      seed: the first seed.

    Raises:
      ValueError: an argument is invalid.

    >>> steps = np.arange(120)
    >>> shops = {name: level + np.sin(2 * np.pi * steps / 12) for name, level in (("a", 5.0), ("b", 50.0))}
    >>> model = Forecaster(horizon=3, season=12, steps=20, seeds=1, hidden=(8,)).fit(shops)
    >>> forecast = model.predict()
    >>> forecast["unique_id"].tolist(), forecast["ds"].tolist()
    (['a', 'a', 'a', 'b', 'b', 'b'], [120, 121, 122, 120, 121, 122])
    >>> bool((np.abs(forecast["yhat"][:3] - 5 - np.sin(2 * np.pi * np.arange(120, 123) / 12)) < 0.1).all())
    True
    """

    def __init__(
        self,
        horizon: int,
        season: int = 1,
        *,
        window: int | None = None,
        hidden: tuple[int, ...] = (40,),
        cell: str = "gru",
        steps: int = 2000,
        learning_rate: float = 3e-3,
        seeds: int = 2,
        seed: int = 0,
    ):
        for name, value in (("horizon", horizon), ("season", season)):
            checks.positive_integer(name, value)
        window = min(max(3 * season, horizon, 12), max(200, season + 1)) if window is None else window
        self.settings = Settings(horizon, season, window, tuple(hidden), cell, steps, learning_rate, seeds, seed)
        for name in ("window", "steps", "seeds"):
            checks.positive_integer(name, getattr(self.settings, name))
        checks.positive_number("learning_rate", learning_rate)
        if cell not in KINDS:
            raise ValueError(f"unknown cell {cell!r}; available: {', '.join(KINDS)}")
        self.calibration: Calibration | None = None
        self._params: list[Any] = []
        self._panel: list[OneSeries] = []
        self._frame: Any = None

    def fit(self, frame: Any, *, progress: bool = False) -> "Forecaster":
        """Train on all series, and settle share and intervals on their ends.

        Args:
          frame: a pandas or polars frame with the columns ``unique_id``, ``ds`` and ``y``; a dictionary of such
            columns; a dictionary from names to arrays; or one array.
          progress: show a progress bar.

        Raises:
          ValueError: the frame is invalid, or no series is longer than two steps.
        """
        self._frame, self._panel = frame, read_panel(frame)
        settings, windows = self.settings, self.windows(self._panel)
        held = windows.held_out(settings.season)
        starts, origins = windows.split(held, settings.season, settings.window)
        if not len(starts):
            longest = int(windows.lengths.max())
            raise ValueError(
                f"no series is long enough to learn from: the longest has {longest} steps, and horizon="
                f"{settings.horizon} needs at least three"
            )
        targets = windows.without(held)
        self._params = [
            self._train(windows, targets, starts, settings.seed + seed, progress) for seed in range(settings.seeds)
        ]
        if len(origins):
            quantiles = self._quantiles(windows, origins)
            self.calibration = Calibration.of(quantiles, windows.targets[origins].astype(np.float64), LEVELS)
        else:
            self.calibration = Calibration.nothing(settings.horizon, LEVELS)
        return self

    def predict(self, frame: Any = None) -> Any:
        """Forecast what follows the series of :meth:`fit`, or those of another frame, which may be new ones.

        Returns:
          A frame of the kind that was given, or a dictionary of arrays for anything else, with the columns
          ``unique_id``, ``ds``, ``yhat``, ``lo-80``, ``hi-80``, ``lo-95`` and ``hi-95``.

        Raises:
          ValueError: the model is not fitted, or the frame is invalid.
        """
        self._require_fit()
        panel = self._panel if frame is None else read_panel(frame)
        if not panel:
            raise ValueError("a loaded model keeps no series: give predict the series to forecast")
        windows = self.windows(panel)
        values = self.quantiles(windows, windows.ends)
        horizon = self.settings.horizon
        columns = {
            "unique_id": np.repeat([one.name for one in panel], horizon),
            "ds": np.concatenate([one.step.after(one.times[-1], horizon) for one in panel]),
            **_columns(values),
        }
        return as_frame(columns, self._frame if frame is None else frame)

    def quantiles(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """The calibrated quantiles in the units of the series, float64 ``[origins, horizon, levels]``."""
        calibration = self._require_fit()
        relative = calibration.apply(self._quantiles(windows, origins), LEVELS)
        return windows.base[origins][..., None] + windows.scale[origins][:, None, None] * relative

    def backtest(self, frame: Any = None, *, origins: int = 1, refit: bool = True) -> dict[str, Any]:
        """Forecast from the last ``origins`` origins of every series that have a whole horizon after them.

        Args:
          frame: as in :meth:`fit`; the default are its series.
          origins: rolling origins of each series, one step apart. All are one batch.
          refit: train a model on what comes before the first origin. False uses this model as it is, which has
            seen these values if the frame is that of :meth:`fit`.

        Returns:
          ``metrics`` (MASE, sMAPE, WQL and coverage of ``model`` and ``seasonal_naive``, in all and ``by_step`` of
          the horizon) and ``rows``, a dictionary of arrays with ``unique_id``, ``origin`` (the
          last step that the forecast has read), ``step``, ``y``, ``yhat`` and the intervals.

        Raises:
          ValueError: every series is too short for that many origins and the horizon.
        """
        panel = self._panel if frame is None else read_panel(frame)
        horizon, season = self.settings.horizon, self.settings.season
        if origins < 1:
            raise ValueError(f"{origins=} must be at least 1")
        cut = horizon + origins - 1
        long = [one for one in panel if len(one.values) >= cut + 3]
        if not long:
            longest = max((len(one.values) for one in panel), default=0)
            raise ValueError(
                f"{origins=} and {horizon=} need series of at least {cut + 3} steps, but the longest has {longest}"
            )
        model = self
        if refit:
            model = Forecaster(**asdict(self.settings))
            model.fit({one.name: np.where(one.observed, one.values, np.nan)[:-cut] for one in long})
        windows = model.windows(long)
        places = windows.ends[:, None] - horizon - np.arange(origins)[::-1]
        values = model.quantiles(windows, places.ravel())
        actual = windows.actual(places).reshape(-1, horizon)
        unit = [metrics.seasonal_error(one.values[:-cut], season) for one in long]
        both = {"model": values, "seasonal_naive": _repeated(windows.base[places].reshape(-1, horizon))}
        measured = metrics.compare(both, actual, np.repeat(unit, origins), LEVELS)
        last = (places - windows.ends[:, None] + windows.lengths[:, None] - 1).ravel()
        rows = {
            "unique_id": np.repeat([one.name for one in long], origins * horizon),
            "origin": np.repeat(last, horizon),
            "step": np.tile(np.arange(1, horizon + 1), len(last)),
            "y": actual.ravel(),
            **_columns(values),
        }
        return {"metrics": measured, "rows": rows}

    def measure(self, frame: Any, actual: np.ndarray, scale: np.ndarray) -> dict[str, Any]:
        """The errors of :meth:`backtest` for what follows the series of a frame, ``actual [series, horizon]``.

        ``scale [series]`` is the unit of MASE, :func:`jaxrnn.forecasting.seasonal_error` of each series.
        """
        windows = self.windows(read_panel(frame))
        values = self.quantiles(windows, windows.ends)
        both = {"model": values, "seasonal_naive": _repeated(windows.base[windows.ends])}
        return metrics.compare(both, actual, scale, LEVELS)

    def save(self, folder: str | Path) -> None:
        """Write the model into a folder, which is made. The series of :meth:`fit` are not kept."""
        calibration, folder = self._require_fit(), Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for seed, params in enumerate(self._params):
            model = self._make(seed)()
            nnx.update(model, params)
            save_model(model, folder / f"network{seed}")
        record = {"settings": asdict(self.settings), "calibration": calibration.to_json()}
        (folder / _SETTINGS).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Forecaster":
        """A model that :meth:`save` wrote. It forecasts the series that :meth:`predict` is given.

        Raises:
          FileNotFoundError: there is no model in this folder.
        """
        path = Path(folder) / _SETTINGS
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no forecaster: {path} does not exist")
        record = json.loads(path.read_text(encoding="utf-8"))
        settings = record["settings"]
        model = cls(**{**settings, "hidden": tuple(settings["hidden"])})
        model.calibration = Calibration.from_json(record["calibration"])
        model._params = [
            nnx.state(load_model(model._make(seed), Path(folder) / f"network{seed}"))
            for seed in range(model.settings.seeds)
        ]
        return model

    def _require_fit(self) -> Calibration:
        if self.calibration is None:
            raise ValueError("the model is not fitted: call fit first, or load a saved one")
        return self.calibration

    def windows(self, panel: list[OneSeries]) -> Windows:
        """The windows of these series, for :meth:`quantiles`."""
        s = self.settings
        return Windows.of(panel, window=s.window, horizon=s.horizon, season=s.season)

    def _make(self, seed: int) -> Callable[[], QuantileNetwork]:
        s = self.settings
        return lambda: QuantileNetwork(
            s.window, s.horizon, LEVELS, hidden=s.hidden, cell=s.cell, rngs=nnx.Rngs(s.seed + seed)
        )

    def _train(self, windows: Windows, targets: np.ndarray, starts: np.ndarray, seed: int, progress: bool) -> Any:
        settings = self.settings
        batch = int(min(_BATCH, max(16, len(starts) // 8)))
        steps_per_epoch = -(-len(starts) // batch)
        epochs = max(1, round(settings.steps / steps_per_epoch))
        apply, params = pure_apply(self._make(seed - settings.seed))
        params = with_linear_path(params, windows.features, targets, starts, settings.window)
        rate = _schedule(settings.learning_rate, epochs * steps_per_epoch)
        optimizer = make_optimizer("adam", rate, clip_norm=1.0)
        epoch = make_windowed_epoch(
            apply,
            optimizer,
            pinball(LEVELS),
            jnp.asarray(windows.features),
            jnp.asarray(targets),
            jnp.asarray(starts),
            window=settings.window,
            batch_size=batch,
            every_step=False,
        )
        run = fit(
            Run.create(TrainState.create(params, optimizer, seed=seed)), epoch, epochs=epochs, progress=progress
        )
        if run.stopped == "diverged":
            warnings.warn("training diverged: the best epoch before is used", stacklevel=3)
            return run.best_params
        return run.state.best_guess

    def _quantiles(self, windows: Windows, origins: np.ndarray) -> np.ndarray:
        """The mean of the networks' quantiles in units of the windows, sorted: ``[origins, horizon, levels]``."""
        starts = jnp.asarray(np.asarray(origins) - self.settings.window + 1)
        features = jnp.asarray(windows.features)
        total = sum(np.asarray(self._run(params, features, starts), np.float64) for params in self._params)
        return np.sort(total / len(self._params), axis=-1)

    @partial(jax.jit, static_argnums=0)
    def _run(self, params: Any, features: jax.Array, starts: jax.Array) -> jax.Array:
        apply, _ = pure_apply(self._make(0))
        inputs = take_windows(features, starts, self.settings.window)
        return apply(params, inputs, None)[1]


def _schedule(rate: float, steps: int) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 20), max(steps, 2))


def _repeated(forecast: np.ndarray) -> np.ndarray:
    """Quantiles of a forecast without intervals: all are the same."""
    return np.repeat(forecast[..., None], len(LEVELS), axis=-1)


def _columns(quantiles: np.ndarray) -> dict[str, np.ndarray]:
    """The median and the ends of the intervals, by the names of their columns."""
    return {name: quantiles[..., LEVELS.index(level)].ravel() for name, level in COLUMNS.items()}
