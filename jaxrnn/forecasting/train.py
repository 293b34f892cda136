"""Trains the networks of a forecaster, which differ in their first parameters and in what they do not see."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxrnn.forecasting.distributions import DISTRIBUTIONS, likelihood, with_units
from jaxrnn.forecasting.linear_path import with_linear_path
from jaxrnn.forecasting.network import QuantileNetwork, pinball
from jaxrnn.forecasting.quantile_columns import LEVELS
from jaxrnn.forecasting.settings import Settings
from jaxrnn.forecasting.watch import Watch
from jaxrnn.forecasting.windows import Windows
from jaxrnn.training import (
    Run,
    SteppedEpoch,
    TrainState,
    make_initializer,
    make_optimizer,
    make_windowed_epoch,
    pure_apply,
)

_BATCH = 64
_LARGEST = 20.0
_EPOCHS = 40
"""The windows of a short series are not learned from more often."""


class Training:
    """Trains one network after the other, with programs that are compiled once.

    Args:
      settings: the arguments of the forecaster.
      make: makes a network.
      windows, starts: what is learned from. Of more windows than ``steps`` batches hold, a part is learned from.
      window, season: steps that a network reads, and steps per season.
      watch: how it is reported.

    Attributes:
      stopped: the signal that ended a training, or None.
    """

    def __init__(
        self,
        settings: Settings,
        make: Callable[[nnx.Rngs], QuantileNetwork],
        windows: Windows,
        starts: np.ndarray,
        window: int,
        season: int,
        watch: Watch,
    ):
        self._settings, self._windows, self._watch = settings, windows, watch
        self._window, self._season, self.stopped = window, season, None
        self._batch = int(min(_BATCH, max(16, len(starts) // 8)))
        if len(starts) > settings.steps * self._batch:
            starts = np.random.RandomState(settings.seed).permutation(starts)[: settings.steps * self._batch]
        self._starts = starts
        self._steps = -(-len(starts) // self._batch)
        self._epochs = min(_EPOCHS, max(1, round(settings.steps / self._steps)))
        # In units of the noise, as in MASE, the errors of calm series count most; in units of the scale, those of
        # restless ones. This lies between both.
        self._weights = np.sqrt(windows.scale / windows.noise)
        self._distribution = DISTRIBUTIONS.get(settings.distribution or "")
        self._initial = make_initializer(lambda key: make(nnx.Rngs(key)))
        self._apply, _ = pure_apply(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        total = max(self._epochs * self._steps, 2)
        rate = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, max(1, total // 20), total)
        self._optimizer = make_optimizer("adam", rate, clip_norm=1.0)
        self._epoch: SteppedEpoch | None = None

    def train(self, number: int, targets: np.ndarray) -> Any:
        """The parameters of one network, which learns from ``targets [steps, horizon]``."""
        seed, windows = self._settings.seed + number, self._windows
        params = with_linear_path(
            self._initial(jax.random.key(seed)),
            windows.features,
            targets,
            self._starts,
            self._weights,
            window=self._window,
            season=self._season,
        )
        # A jump after a constant stretch is very large in the unit of that window, and must not outweigh the rest.
        largest = np.nan_to_num(np.abs(targets)).max(axis=1)
        weights = np.minimum(1, _LARGEST / np.maximum(largest, 1))
        if self._distribution is None:
            weights, loss = self._weights * weights, pinball(LEVELS)
        else:  # a likelihood has no unit
            loss = likelihood(self._distribution, self._settings.horizon)
            targets = with_units(targets, windows.anchors, windows.scale)
        weighted = jnp.asarray(np.concatenate([targets, weights[:, None]], axis=1), jnp.float32)
        if self._epoch is None:
            self._epoch = make_windowed_epoch(
                self._apply,
                self._optimizer,
                loss,
                jnp.asarray(windows.features),
                weighted,
                jnp.asarray(self._starts),
                window=self._window,
                batch_size=self._batch,
                every_step=False,
            )
        epoch = self._epoch.with_targets(weighted)
        run = Run.create(TrainState.create(params, self._optimizer, seed=seed))
        run = self._watch.train(run, epoch, epochs=self._epochs, number=number, count=self._settings.seeds)
        if run.stopped in ("interrupted", "terminated"):
            self.stopped = run.stopped
        if run.stopped == "diverged":
            warnings.warn("training diverged: the best epoch before is used", stacklevel=3)
            return run.best_params
        return run.state.best_guess
