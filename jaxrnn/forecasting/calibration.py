"""Settled on held-out origins: how much of the network is used, and intervals that cover what they promise."""

from dataclasses import dataclass
from typing import Any

import numpy as np

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_FEWEST = 20
_ENOUGH = 200


@dataclass(frozen=True)
class Calibration:
    """Settled on origins that training has not seen.

    Attributes:
      share: the share of the network's change to the seasonal naive forecast, from 0 to 1.
      errors: the mean absolute error, in units of the windows, with each share that was tried.
      shifts: ``[horizon, levels]``, what is added to each quantile, in units of the window. After it, as many of
        the held-out values lie below a quantile as its level says. This is split conformal prediction at each step
        of the horizon. Source: Romano, Patterson, Candes (2019), arXiv:1905.03222.
      origins: the number of held-out origins; 0 leaves the quantiles as they are.
    """

    share: float
    errors: dict[str, float]
    shifts: np.ndarray
    origins: int

    @classmethod
    def of(cls, quantiles: np.ndarray, targets: np.ndarray, levels: tuple[float, ...]) -> "Calibration":
        """Settle share and shifts.

        Args:
          quantiles: ``[origins, horizon, levels]``, sorted, in units of the windows.
          targets: ``[origins, horizon]``; NaN where a value is not known.
        """
        horizon, count = targets.shape[1], len(targets)
        middle = quantiles[..., levels.index(0.5)]
        if not np.isfinite(targets).any():
            return cls.nothing(horizon, levels)
        errors = {share: float(np.nanmean(np.abs(targets - share * middle))) for share in SHARES}
        share = min(errors, key=errors.__getitem__)
        rests = targets[..., None] - shared(quantiles, share, levels)
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
        # The median stays: series of one time share what is unusual about it, which need not go on.
        shifts -= shifts[:, [levels.index(0.5)]]
        return cls(share, {f"{100 * s:.0f} %": error for s, error in errors.items()}, shifts, count)

    @classmethod
    def nothing(cls, horizon: int, levels: tuple[float, ...]) -> "Calibration":
        """All of the network, and its own quantiles."""
        return cls(1.0, {}, np.zeros((horizon, len(levels))), 0)

    def apply(self, quantiles: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
        """The quantiles that are reported, ``[..., horizon, levels]``, sorted."""
        return np.sort(shared(quantiles, self.share, levels) + self.shifts, axis=-1)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "shifts": self.shifts.tolist()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Calibration":
        return cls(**{**record, "shifts": np.array(record["shifts"])})


def shared(quantiles: np.ndarray, share: float, levels: tuple[float, ...]) -> np.ndarray:
    """The quantiles around a share of the median."""
    middle = quantiles[..., levels.index(0.5), None]
    return quantiles + (share - 1) * middle
