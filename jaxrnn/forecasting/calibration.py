"""Settled on held-out origins: how much of the network is used, and intervals that cover what they promise."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrnn.forecasting.sample_paths import correlation_of, normal_scores

MIXTURES = (
    (1.0, 0.0, 0.0),
    (0.75, 0.25, 0.0),
    (0.5, 0.5, 0.0),
    (0.25, 0.75, 0.0),
    (0.0, 1.0, 0.0),
    (0.5, 0.0, 0.5),
    (0.0, 0.0, 1.0),
)
"""The shares of network, median of the smoothings and seasonal naive that are tried."""

_ON_FEW_PERIODS = (0.75, 0.25, 0.0)
_FEW_PERIODS = 2.0
"""What was best in one period is often not best in the next, so then nothing is chosen.

On sets of competitions, a choice between this mixture and the network alone was worse in five periods and the same
in four (``benchmarks/README.md``).
"""

_NAMES = "network", "smoothing", "seasonal naive"
_FEWEST = 20
_ENOUGH = 200
_LARGEST = 20.0
_DOUBT = 2.0
"""How many independent periods of held-out values count as much as what the network says of its own quantiles."""


@dataclass(frozen=True)
class Calibration:
    """Settled on origins that the networks have not learned from.

    Attributes:
      shares: the shares of network, smoothing and seasonal naive in the median, from 0 to 1; their sum is 1.
      errors: the mean absolute error, in units of the noise of each window, with each mixture that was tried;
        empty if there were too few periods of time to choose one.
      shifts: ``[horizon, levels]``, what is added to each quantile, in units of the window, so that as many of the
        held-out values lie below a quantile as its level says. This is split conformal prediction at each step of
        the horizon, and with several networks that leave out different values, its form for cross-validation.
        Sources: Romano, Patterson, Candes (2019), arXiv:1905.03222; Barber, Candes, Ramdas, Tibshirani (2021),
        arXiv:1905.02928. Series of one period share what is unusual about it, so from few periods only a part of
        it is added.
      origins: the number of held-out origins; 0 leaves the quantiles as they are.
      correlation: ``[horizon, horizon]``, how the errors of the steps go together, see
        :mod:`jaxrnn.forecasting.sample_paths`.
    """

    shares: tuple[float, float, float]
    errors: dict[str, float]
    shifts: np.ndarray
    origins: int
    correlation: np.ndarray

    @property
    def share(self) -> float:
        """The share of the network."""
        return self.shares[0]

    @classmethod
    def of(
        cls,
        quantiles: np.ndarray,
        simple: np.ndarray,
        targets: np.ndarray,
        levels: tuple[float, ...],
        *,
        units: np.ndarray | None = None,
        periods: float = np.inf,
    ) -> "Calibration":
        """Settle shares and shifts.

        Args:
          quantiles: ``[origins, horizon, levels]``, sorted, in units of the windows.
          simple: ``[origins, horizon, 2]``, the median of the smoothings and seasonal naive.
          targets: ``[origins, horizon]``; NaN where a value is not known.
          units: ``[origins]``, how much an error of each counts.
          periods: how many periods of time, each as long as the horizon, the origins are spread over.
        """
        horizon, count = targets.shape[1], len(targets)
        if not np.isfinite(targets).any():
            return cls.nothing(horizon, levels)
        middle = quantiles[..., levels.index(0.5)]
        weights = np.ones(count) if units is None else units
        errors: dict[tuple[float, float, float], float] = {}
        for shares in MIXTURES if periods > _FEW_PERIODS else ():
            wrong = np.abs(targets - _mixed(middle, simple, shares)) * weights[:, None]
            # One outlier must not decide.
            errors[shares] = float(np.nanmean(np.minimum(wrong, _LARGEST)))
        shares = min(errors, key=errors.__getitem__, default=_ON_FEW_PERIODS)
        rests = targets[..., None] - _around(quantiles, simple, shares, levels)
        shifts = np.zeros((horizon, len(levels)))
        # With few origins, neighbouring steps of the horizon are counted together.
        around = 0 if count >= _ENOUGH else min(horizon, -(-_ENOUGH // (2 * count)))
        for step in range(horizon):
            near = rests[:, max(0, step - around) : step + around + 1].reshape(-1, len(levels))
            near = near[np.isfinite(near[:, 0])]
            if len(near) < _FEWEST:
                continue
            for place, level in enumerate(levels):
                # The finite-sample level of split conformal prediction, outwards on both sides.
                outward = level + (level - 0.5) * 2 / len(near)
                shifts[step, place] = np.quantile(near[:, place], np.clip(outward, 0, 1))
        # The median stays, for the same reason as only a part of the shifts is added.
        shifts -= shifts[:, [levels.index(0.5)]]
        if np.isfinite(periods):
            shifts *= periods / (periods + _DOUBT)
        names = {_name(one): error for one, error in errors.items()}
        scores = normal_scores(targets, _shifted(quantiles, simple, shares, levels, shifts), levels)
        return cls(shares, names, shifts, count, correlation_of(scores, periods))

    @classmethod
    def nothing(cls, horizon: int, levels: tuple[float, ...]) -> "Calibration":
        """Half of the network and half of the smoothings, and the network's own quantiles."""
        unknown = correlation_of(np.full((1, horizon), np.nan))
        return cls((0.5, 0.5, 0.0), {}, np.zeros((horizon, len(levels))), 0, unknown)

    def apply(self, quantiles: np.ndarray, simple: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
        """The quantiles that are reported, ``[..., horizon, levels]``, sorted."""
        return _shifted(quantiles, simple, self.shares, levels, self.shifts)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "shifts": self.shifts.tolist(), "correlation": self.correlation.tolist()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Calibration":
        arrays = {name: np.array(record[name]) for name in ("shifts", "correlation")}
        return cls(**{**record, **arrays, "shares": tuple(record["shares"])})


def _mixed(middle: np.ndarray, simple: np.ndarray, shares: tuple[float, float, float]) -> np.ndarray:
    return shares[0] * middle + shares[1] * simple[..., 0] + shares[2] * simple[..., 1]


def _around(
    quantiles: np.ndarray, simple: np.ndarray, shares: tuple[float, float, float], levels: tuple[float, ...]
) -> np.ndarray:
    """The quantiles, moved so that their median is the mixture."""
    middle = quantiles[..., levels.index(0.5)]
    return quantiles + (_mixed(middle, simple, shares) - middle)[..., None]


def _shifted(
    quantiles: np.ndarray,
    simple: np.ndarray,
    shares: tuple[float, float, float],
    levels: tuple[float, ...],
    shifts: np.ndarray,
) -> np.ndarray:
    return np.sort(_around(quantiles, simple, shares, levels) + shifts, axis=-1)


def _name(shares: tuple[float, float, float]) -> str:
    return " + ".join(f"{100 * share:.0f} % {name}" for share, name in zip(shares, _NAMES) if share)
