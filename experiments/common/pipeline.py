"""Builds the training, the evaluation and the forecasts of a configured experiment."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from experiments.common.errors import huber_where_known, weighted_errors
from experiments.common.parts import LONGEST_WINDOW, Choice, choose, divide, prepare
from experiments.common.recipes import Config
from jaxrnn.cells import CELLS, RecurrentCell
from jaxrnn.data import (
    Preparation,
    Series,
    load_series,
    sequential_starts,
    take_windows,
    window_starts,
)
from jaxrnn.forecasting import Correction
from jaxrnn.models import RNNForecaster
from jaxrnn.ops import named_activation
from jaxrnn.training import (
    TrainState,
    huber,
    make_optimizer,
    make_sequential_epoch,
    make_windowed_epoch,
    pure_apply,
)
from jaxrnn.training.distributed import batch_axis, local, padded, put

MOST_STEPS = 2**31 - 1
"""The largest number of training steps, because the train state counts them in int32."""


class Forecasting:
    """One configured experiment on one series.

    Args:
      config: the configuration.
      series: the series to train on, or to forecast.
      preparation: the fitted preparation of an earlier run; None fits one to the training part.
      training: whether the network is to be trained, rather than only to forecast.
      mesh: devices over which to spread the rows of every batch; None for one device.

    Raises:
      ValueError: the series is too short for the configuration, or the run would have too many steps.
    """

    def __init__(
        self,
        config: Config,
        series: Series,
        preparation: Preparation | Correction | None = None,
        *,
        training: bool = True,
        mesh: Mesh | None = None,
    ):
        self.config, self.series = config, series
        self.mesh = mesh
        self.parts = divide(series, config)
        self.preparation, self.prepared = prepare(config, series, self.parts, preparation)
        if not config.window:
            usable = self.parts.train - self.prepared.first - 1
            self.config = config = replace(config, window=min(LONGEST_WINDOW, max(usable // 2, 1)))
        self.every_step = config.task != "seq2vec"
        self.stateful = config.task == "stateful"
        if training:
            self._check_lengths()
        elif isinstance(self.preparation, Correction):
            # As where training is on a short series, the first steps are inputs without some simple forecasts.
            first = min(self.prepared.first, max(self.parts.train - config.window, 0))
            self.prepared = self.prepared._replace(first=first)
        # As jnp.asarray, without a program for every shape.
        self.features, self.targets = jax.device_put((self.prepared.features, self.prepared.targets))
        self.apply, self.params = pure_apply(self.make_model)

    def make_model(self) -> RNNForecaster:
        config = self.config
        return RNNForecaster(
            self.features.shape[1],
            config.hidden,
            cell=config.cell,
            return_sequences=self.every_step,
            output_scale=config.output_scale,
            # A random head would start with an error of output_scale times a random sum; a zero head starts with
            # the baseline forecast. It also makes the results of different seeds more alike.
            head_init=nnx.initializers.zeros_init(),
            cell_options=_cell_options(config),
            rngs=nnx.Rngs(config.seed),
        )

    def _check_lengths(self) -> None:
        parts, first, window = self.parts, self.prepared.first, self.config.window
        usable = parts.train - first - 1
        if window > usable:
            raise ValueError(
                f"--window {window} is too long for the training part: of its {parts.train} steps, {usable} can "
                f"be inputs. Shorten the window or use a longer series."
            )
        if parts.monitor[1] - parts.monitor[0] < 1:
            raise ValueError(
                f"no values are left for validation: the series has {len(self.series.values)} steps, the test "
                f"part begins at {parts.test}, and --window is {window}. Shorten the window or move the --split."
            )
        steps = self.config.epochs * self.batches_per_epoch
        if steps > MOST_STEPS:
            raise ValueError(
                f"--epochs {self.config.epochs} makes {steps} training steps, but at most {MOST_STEPS} can be "
                f"counted. Use fewer epochs; with --patience, a run stops by itself"
            )

    @property
    def batches_per_epoch(self) -> int:
        return (
            len(self._train_starts()) if self.stateful else -(-len(self._train_starts()) // self.config.batch_size)
        )

    def _train_starts(self) -> np.ndarray:
        first, window = self.prepared.first, self.config.window
        length = self.parts.train - first - 1
        if self.stateful:
            return first + sequential_starts(length, window, self.config.batch_size)
        starts = first + window_starts(length, window)
        # Sequences need all of their steps; after a window, only values that were observed are to be forecast.
        return starts if self.every_step else starts[self.observed[starts + window]]

    def optimizer(self, *, schedule: bool = True, steps: int | None = None) -> optax.GradientTransformation:
        """The configured optimiser, for so many steps; without ``schedule``, at a constant rate."""
        config = self.config
        rate: optax.ScalarOrSchedule = config.learning_rate
        steps = config.epochs * self.batches_per_epoch if steps is None else steps
        warmup = int(config.warmup * steps)
        if schedule and config.decay:
            rate = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, max(steps, warmup + 1))
        return make_optimizer(config.optimizer, rate, clip_norm=config.clip_norm)

    def initial_carry(self) -> Any:
        """The initial carry of a stateful epoch, which is zero; None for the other tasks."""
        if not self.stateful:
            return None
        return jax.jit(lambda: self.make_model().initialize_carry(self.config.batch_size))()

    def new_state(self, optimizer: optax.GradientTransformation) -> TrainState:
        config = self.config
        carry, average = self.initial_carry(), config.average is not None
        return TrainState.create(self.params, optimizer, seed=config.seed, carry=carry, average=average)

    def start(self, optimizer: optax.GradientTransformation, **options: Any) -> tuple[TrainState, Any]:
        """A new train state, and the compiled function that trains it for an epoch, made with these options."""
        config = self.config
        state = self.new_state(optimizer)
        make = partial(make_sequential_epoch, initial_carry=self.initial_carry(), mesh=self.mesh)
        if not self.stateful:
            make = partial(
                make_windowed_epoch,
                batch_size=config.batch_size,
                every_step=self.every_step,
                mesh=self.mesh,
            )
        epoch = make(
            self.apply,
            optimizer,
            huber if self._learned is self.targets else huber_where_known,
            self.features,
            self._learned,
            self._train_starts(),
            window=config.window,
            average_decay=config.average or 0.0,
            **options,
        )
        return state, epoch

    def evaluate(self, state: TrainState) -> dict[str, Array]:
        """Loss and mean absolute error over the monitored part.

        A stateful model continues from the carry at the end of the training epoch, without a gap in the series. A
        stateless model reads the window before each value.
        """
        begin, end = self.parts.monitor
        if self.stateful:
            known = self.counted(begin, end)
            after = int(self._train_starts()[-1, -1]) + self.config.window
            # One series cannot be spread over devices, so one device of each process reads it all.
            params, carry = local((state.best_guess, state.carry))
            carry = jax.tree.map(lambda a: a[-1:], carry)
            outputs = self._pass(params, self.features[after : end - 1], carry)[begin - 1 - after :]
            return self._errors(
                outputs,
                self.targets[begin - 1 : end - 1],
                jnp.asarray(known / known.sum(), jnp.float32),
                self._scales[begin - 1 : end - 1],
            )
        return self._monitor(state.best_guess)

    def _window_starts(self, begin: int, end: int) -> np.ndarray:
        """The starts of the windows from which the values begin .. end - 1 are forecast."""
        if begin - self.config.window < self.prepared.first:
            raise ValueError(
                f"the network reads windows of {self.config.window} steps, and that before step {begin}, which is "
                f"to be forecast, begins before step {self.prepared.first}, the first with inputs. Move the "
                f"--split, or train with a shorter --window"
            )
        return np.arange(begin, end) - self.config.window

    @cached_property
    def _monitor(self) -> Callable[[Any], dict[str, Array]]:
        """The errors over the monitored windows as a compiled function of the parameters."""
        starts = self._window_starts(*self.parts.monitor)
        rows = np.arange(padded(len(starts), self.mesh))
        # Rows that only fill up the last device have weight zero, and so have values that were filled in.
        weights = (rows < len(starts)) / len(starts)
        starts = starts[np.minimum(rows, len(starts) - 1)]
        begin, end = self.parts.monitor
        known = self.counted(begin, end)[starts + self.config.window - begin]
        if not known.all():
            weights = known * weights / (known * weights).sum()
        window = self.config.window

        def errors(params: Any, features: Array, targets: Array, starts: Array, weights: Array, scales: Array):
            outputs = self.apply(params, take_windows(features, starts, window), None)[1]
            wanted = take_windows(targets, starts, window) if self.every_step else targets[starts + window - 1]
            result = self._errors(outputs, wanted, weights, scales)
            return result if self.mesh is None else jax.lax.psum(result, self.mesh.axis_names[0])

        scales = self._scales[starts + window - 1]
        targets = self._learned if self.observed[begin:end].any() else self.targets
        arrays: Any = (self.features, targets, starts, np.float32(weights), scales)
        if self.mesh is not None:
            mesh, axis = batch_axis(self.mesh)
            specs = (P(), P(), P(), P(axis), P(axis), P(axis))
            errors = jax.shard_map(errors, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
            arrays = tuple(put(array, mesh, spec) for array, spec in zip(arrays, specs[1:]))
        else:
            arrays = jax.device_put(arrays)
        compiled = jax.jit(errors)
        return lambda params: compiled(params, *arrays)

    @cached_property
    def _scales(self) -> np.ndarray:
        """The unit of the targets at every step."""
        return np.broadcast_to(np.float32(self.prepared.scale), len(self.series.values))

    @cached_property
    def _learned(self) -> Array:
        """The targets. Where every step of a window is learned, NaN marks those whose values were missing."""
        if self.observed.all() or not self.every_step:
            return self.targets
        return jnp.where(np.append(self.observed[1:], True)[:, None], self.targets, jnp.nan)

    def _errors(self, outputs: Array, wanted: Array, weights: Array, scales: Any) -> dict[str, Array]:
        some = self._learned is not self.targets
        return weighted_errors(outputs, wanted, weights, scales, self.prepared.scale, some_missing=some)

    @partial(jax.jit, static_argnums=0)
    def _pass(self, params: Any, features: Array, carry: Any) -> Array:
        return self.apply(params, features[None], carry)[1][0]

    @partial(jax.jit, static_argnums=0)
    def _window_outputs(self, params: Any, features: Array, starts: Array) -> Array:
        def outputs(start: Array) -> Array:
            forecasts = self.apply(params, take_windows(features, start[None], self.config.window), None)[1][0]
            return forecasts[-1] if self.every_step else forecasts

        return jax.lax.map(outputs, starts, batch_size=512)

    def forecast(self, params: Any) -> np.ndarray:
        """One-step forecasts of the test part and of the step after the series, float64 ``[steps + 1]``.

        A stateful model starts with a zero carry and reads the whole series in one pass.
        """
        begin, end = self.parts.test, len(self.series.values)
        scaled = self._scaled(params, begin, end + 1)
        if isinstance(self.preparation, Correction):
            scaled = self.choose(params).share * scaled
        return self.prepared.baseline[begin - 1 :] + scaled

    def choose(self, params: Any) -> Choice:
        """How much of the network's corrections to use, decided on the monitored part alone."""
        begin, end = self.parts.monitor
        if not self.stateful:  # a short series that is only forecast may have no window before some of the values
            begin = min(max(begin, self.prepared.first + self.config.window), end)
        rests = self.series.values[begin:end, 0] - self.prepared.baseline[begin - 1 : end - 1]
        known = self.counted(begin, end)
        return choose(rests[known], self._scaled(params, begin, end)[known])

    def _scaled(self, params: Any, begin: int, end: int) -> np.ndarray:
        """What the network adds to the baseline to forecast the values begin .. end - 1, float64."""
        # Always on one device, so that the forecasts do not depend on how many devices the model was trained on.
        params = jax.device_put(params, jax.local_devices()[0])
        if self.stateful:
            first = self.prepared.first
            outputs = self._pass(params, self.features[first:], None)[begin - 1 - first : end - 1 - first]
        else:
            outputs = self._window_outputs(params, self.features, self._window_starts(begin, end))
        scale = self.prepared.scale
        scale = scale[begin - 1 : end - 1] if isinstance(scale, np.ndarray) else scale
        return np.asarray(outputs, np.float64)[:, 0] * scale

    @property
    def actual(self) -> np.ndarray:
        """The values of the test part, float64; NaN where a value was missing."""
        known = self.observed[self.parts.test :]
        return np.where(known, self.series.values[self.parts.test :, 0], np.nan)

    @cached_property
    def observed(self) -> np.ndarray:
        """False at the steps whose values were missing and have been filled in, bool ``[time]``."""
        observed = self.series.observed
        return np.ones(len(self.series.values), bool) if observed is None else observed

    def counted(self, begin: int, end: int) -> np.ndarray:
        """Which of the values begin .. end - 1 count, bool ``[steps]``: the known ones, or all if none is."""
        known = self.observed[begin:end]
        return known if known.any() else ~known

    def mae(self, forecast: np.ndarray) -> float:
        """The mean absolute error of forecasts of the test part, over the values that are not missing."""
        errors = np.abs(forecast - self.actual)
        return float(errors[np.isfinite(self.actual)].mean())


def _cell_options(config: Config) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if issubclass(CELLS[config.cell], RecurrentCell):
        options["recurrent_kernel_init"] = nnx.initializers.orthogonal(config.recurrent_gain)
    if config.cell == "simple_rnn":
        options["activation_fn"] = named_activation(config.activation)
    return options


def load(config: Config) -> Series:
    """The series of the configuration. Its notes say what was done to the rows of a file."""
    return load_series(
        config.series,
        column=config.column,
        further_columns=config.further_columns,
        split=config.split,
    )
