"""The learning-rate range test: raise the rate every epoch, and see where the loss falls and where it diverges.

Source: Smith (2017), Cyclical learning rates for training neural networks, arXiv:1506.01186.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxrnn.training.optimizers import with_learning_rate
from jaxrnn.training.state import TrainState
from jaxrnn.training.stepped import Epoch


@dataclass(frozen=True)
class LRRangeTest:
    """The result of a range test: the rate and the mean loss of each epoch, and a suggested rate."""

    learning_rates: list[float]
    losses: list[float]
    suggestion: float


def exponential_rates(lowest: float, epochs: int, epochs_per_decade: float) -> list[float]:
    """The rates ``lowest * 10^(epoch / epochs_per_decade)`` for epochs 0, 1, ..., ``epochs - 1``.

    Raises:
      ValueError: ``lowest`` or ``epochs_per_decade`` is not a positive number.

    >>> [f"{rate:.0e}" for rate in exponential_rates(1e-7, 3, 1)]
    ['1e-07', '1e-06', '1e-05']
    """
    for name, value in (("lowest", lowest), ("epochs_per_decade", epochs_per_decade)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be a positive number")
    return [lowest * 10 ** (epoch / epochs_per_decade) for epoch in range(epochs)]


def lr_range_test(
    state: TrainState,
    train_epoch: Epoch,
    learning_rates: Sequence[float],
    *,
    on_epoch: Callable[[float, float], None] | None = None,
) -> LRRangeTest:
    """Train one epoch at each rate, from low to high, without resetting the parameters in between.

    The test ends early when the loss is not finite, or has risen to more than ten times the lowest loss so
    far (for a negative loss, by nine times its size).

    Args:
      state: a new train state whose optimiser was made by :func:`jaxrnn.training.make_optimizer` with a number as
        its learning rate.
      train_epoch: as in :func:`jaxrnn.training.fit`.
      learning_rates: ascending, one per epoch.
      on_epoch: called with every rate and its loss.

    Returns:
      The rates, their losses, and as ``suggestion`` a tenth of the rate at which the smoothed loss is lowest.

    Raises:
      ValueError: the loss is not finite at the first rate, or the optimiser takes its rate from a schedule.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jaxrnn import RNNForecaster, training
    >>> series = jnp.sin(jnp.arange(100.0) / 3)[:, None]
    >>> apply, params = training.pure_apply(lambda: RNNForecaster(hidden_features=4, rngs=nnx.Rngs(0)))
    >>> optimizer = training.make_optimizer("sgd", 1e-4)
    >>> epoch = training.make_windowed_epoch(
    ...     apply, optimizer, training.huber, series, series[1:], jnp.arange(90), window=9, batch_size=32,
    ...     every_step=False)
    >>> state = training.TrainState.create(params, optimizer)
    >>> found = training.lr_range_test(state, epoch, training.exponential_rates(1e-4, 6, 2))
    >>> len(found.losses), found.suggestion in [rate / 10 for rate in found.learning_rates]
    (6, True)
    """
    if not len(learning_rates):
        raise ValueError("learning_rates is empty: give at least one, such as those of exponential_rates")
    rates, losses = [], []
    for rate in learning_rates:
        state, metrics = train_epoch(with_learning_rate(state, rate))
        loss = float(metrics.loss)
        if not math.isfinite(loss):
            break
        rates.append(float(rate))
        losses.append(loss)
        if on_epoch is not None:
            on_epoch(rate, loss)
        if loss - min(losses) > 9 * abs(min(losses)):  # losses of likelihoods may be negative
            break
    if not rates:
        raise ValueError(f"the loss is not finite at the lowest rate, {learning_rates[0]:.3g}: start lower")
    return LRRangeTest(rates, losses, rates[int(np.argmin(_smoothed(losses)))] / 10)


def _smoothed(losses: Sequence[float], width: int = 5) -> np.ndarray:
    """A centred moving average, over fewer values at both ends."""
    reach = width // 2
    return np.array([np.mean(losses[max(0, i - reach) : i + reach + 1]) for i in range(len(losses))])
