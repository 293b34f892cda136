"""The train state, which holds everything that training changes, and the inputs and metrics of a step."""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.core import Tracer

from jaxrnn.ops.compilation import options_for_one_call
from jaxrnn.ops.step import cast, widen


class Totals(NamedTuple):
    """Sums over the steps of the running epoch or, between epochs, of the last one. All are scalars.

    Attributes:
      loss: the sum of the losses times their rows' weights, over the steps that were taken.
      weight: the sum of the rows' weights of those steps.
      grad_norm: the sum of the gradient norms of those steps.
      taken, skipped: int32, how many steps were taken, and how many skipped because they were not finite.
    """

    loss: Array
    weight: Array
    grad_norm: Array
    taken: Array
    skipped: Array

    @classmethod
    def zero(cls) -> "Totals":
        number, count = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
        return cls(number, number, number, count, count)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        "params",
        "opt_state",
        "step",
        "epoch",
        "key",
        "position",
        "skipped_in_a_row",
        "totals",
        "carry",
        "average",
    ),
    meta_fields=(),
)
@dataclass(frozen=True)
class TrainState:
    """Everything that training changes, as one pytree. A run restored from it continues exactly.

    Attributes:
      params: the model's parameters.
      opt_state: the optimiser's state.
      step, epoch: int32, how many steps and epochs are done. Skipped steps count.
      key: the random key that every epoch's shuffle is derived from; it does not change.
      position: int32, how many batches of the running epoch are done; 0 between epochs.
      skipped_in_a_row: int32, how many steps were skipped since the last one that was taken.
      totals: sums over the steps of the running epoch or, between epochs, of the last one.
      carry: for stateful training, the carry after the last batch; otherwise None.
      average: a running average of the parameters, in float32 or wider, or None; see
        :func:`jaxrnn.training.train_step`.
    """

    params: Any
    opt_state: optax.OptState
    step: Array
    epoch: Array
    key: Array
    position: Array
    skipped_in_a_row: Array
    totals: Totals
    carry: Any = None
    average: Any = None

    @property
    def best_guess(self) -> Any:
        """The parameters to evaluate and keep: the average, in their dtypes, if there is one, else ``params``."""
        if self.average is None:
            return self.params
        return jax.tree.map(lambda a, p: cast(a, p.dtype), self.average, self.params)

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        *,
        seed: int = 0,
        carry: Any = None,
        average: bool = False,
    ) -> "TrainState":
        """The state before the first step. It holds copies, because training donates its state.

        Args:
          params: the model's parameters, of :func:`jaxrnn.training.pure_apply`.
          optimizer: an Optax optimiser.
          seed: of the random key that shuffles the windows.
          carry: for stateful training, a carry of the right shapes.
          average: whether to keep a running average of the parameters.
        """
        params, carry = jax.tree.map(_copy, (params, carry))
        # Equal values need separate buffers, because a buffer that two leaves share can be donated only once.
        step, epoch, position, skipped, taken, all_skipped = (_put(np.zeros((), np.int32)) for _ in range(6))
        loss, weight, grad_norm = (_put(np.zeros((), np.float32)) for _ in range(3))
        return cls(
            params=params,
            opt_state=_initial(optimizer, params),
            step=step,
            epoch=epoch,
            key=_key(seed),
            position=position,
            skipped_in_a_row=skipped,
            totals=Totals(loss, weight, grad_norm, taken, all_skipped),
            carry=carry,
            average=jax.tree.map(_copy, _wide(params)) if average else None,
        )

    def replace(self, **changes: Any) -> "TrainState":
        """A copy of this state with other values for the named fields."""
        return TrainState(**{**vars(self), **changes})


def _initial(optimizer: optax.GradientTransformation, params: Any) -> optax.OptState:
    """The optimiser's first state, as one program: that takes a fifth of the time of its many small ones.

    One by one they also serve parameters on several devices, where the state must be too, other transformations,
    and an optimiser that looks at values of its parameters.
    """
    leaves = jax.tree.leaves(params)
    if all(isinstance(x, Array) and not isinstance(x, Tracer) and len(x.devices()) == 1 for x in leaves):
        with contextlib.suppress(Exception):  # an error that has another cause is raised again
            # Also arguments that only have a shape to give say on which device the state is.
            return jax.jit(optimizer.init, keep_unused=True, **options_for_one_call())(params)
    return optimizer.init(params)


def _wide(params: Any) -> Any:
    """In half precision an average would stop moving: a hundredth of what is missing is below its last digit."""
    return jax.tree.map(lambda leaf: widen(leaf) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, params)


def _put(array: Any) -> Array:
    """An array in a buffer of its own, without a program to compile, as ``jnp.array`` has one for every shape."""
    return jax.device_put(array, may_alias=False)


def _copy(leaf: Any) -> Array:
    known = isinstance(leaf, Array) and not isinstance(leaf, Tracer)
    return _put(leaf) if known else jnp.array(leaf)


def _key(seed: int) -> Array:
    """``jax.random.key(seed)``, without its program for the usual seeds of the usual generator."""
    generator = jax.config.jax_default_prng_impl  # pyright: ignore[reportAttributeAccessIssue]
    if generator != "threefry2x32" or type(seed) is not int or not 0 <= seed < 2**31:
        return jax.random.key(seed)
    return jax.random.wrap_key_data(_put(np.array([0, seed], np.uint32)), impl=generator)


class Batch(NamedTuple):
    """Inputs ``[batch, time, dims]``, targets shaped like the predictions, and a weight for each row."""

    inputs: Array
    targets: Array
    weights: Array


class StepMetrics(NamedTuple):
    """The loss, and the norm of the gradient before clipping, of one step or as means over an epoch's steps."""

    loss: Array
    grad_norm: Array
