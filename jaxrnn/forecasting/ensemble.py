"""The networks of a forecaster, and the mean of their quantiles."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn.data import take_windows
from jaxrnn.forecasting.distributions import DISTRIBUTIONS
from jaxrnn.forecasting.known import Known
from jaxrnn.forecasting.network import QuantileNetwork, smooth_forecast
from jaxrnn.forecasting.quantile_columns import LEVELS
from jaxrnn.forecasting.settings import Settings
from jaxrnn.forecasting.windows import Windows
from jaxrnn.training import pure_apply


class Ensemble:
    """Networks that differ in their parameters only.

    Args:
      settings: the arguments of the forecaster, with season and window.
      known: what is known in advance.

    Attributes:
      params: the parameters of each network.
    """

    def __init__(self, settings: Settings, known: Known):
        self._settings, self._known = settings, known
        self._distribution = DISTRIBUTIONS.get(settings.distribution or "")
        self.params: list[Any] = []

    @property
    def window(self) -> int:
        return self._settings.window or 1

    @property
    def horizon(self) -> int:
        return self._settings.horizon

    @property
    def season(self) -> int:
        return self._settings.season or 1

    def make(self, rngs: nnx.Rngs) -> QuantileNetwork:
        """A network with its first parameters."""
        s, known = self._settings, self._known.covariates
        return QuantileNetwork(
            self.window,
            s.horizon,
            self.season,
            LEVELS,
            hidden=s.hidden,
            cell=s.cell,
            past=known.past_size,
            future=known.future_size,
            distribution=self._distribution,
            rngs=rngs,
        )

    def maker(self, number: int) -> Callable[[], QuantileNetwork]:
        """Makes the network of this number."""
        return lambda: self.make(nnx.Rngs(self._settings.seed + number))

    def modules(self) -> list[QuantileNetwork]:
        """The networks."""
        networks = [self.maker(number)() for number in range(len(self.params))]
        for network, params in zip(networks, self.params):
            nnx.update(network, params)
        return networks

    def quantiles(
        self, windows: Windows, origins: np.ndarray, params: Sequence[Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mean of the networks' quantiles and the simple forecasts, in units of the windows.

        Args:
          windows, origins: what to forecast.
          params: those of the networks to use; by default all.

        Returns:
          ``[origins, horizon, levels]``, sorted, and ``[origins, horizon, 2]``: the median of the smoothings, and
          seasonal naive.
        """
        networks = self.params if params is None else params
        starts = np.asarray(origins) - self.window + 1
        features = jnp.asarray(windows.features)
        found = [self._run(one, features, starts) for one in networks]
        outputs = [np.asarray(one, np.float64) for one, _ in found]
        if self._distribution is not None:
            units = windows.anchors[origins], windows.scale[origins][:, None]
            outputs = [self._distribution.quantiles(one, LEVELS, *units) for one in outputs]
        total = sum(outputs)
        naive = (windows.base[origins] - windows.last[origins][:, None]) / windows.scale[origins][:, None]
        simple = np.stack([np.asarray(found[0][1], np.float64), naive], axis=-1)
        return np.sort(total / len(networks), axis=-1), simple

    @partial(jax.jit, static_argnums=0)
    def _run(self, params: Any, features: jax.Array, starts: jax.Array) -> tuple[jax.Array, jax.Array]:
        apply, _ = pure_apply(nnx.eval_shape(lambda: self.make(nnx.Rngs(0))))
        inputs = take_windows(features, starts, self.window)
        smooth, _ = smooth_forecast(inputs, self._settings.horizon, self.season)
        return apply(params, inputs, None)[1], smooth
