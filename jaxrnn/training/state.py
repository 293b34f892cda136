"""The train state: everything that training changes, and what a step takes in and gives out."""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class Totals(NamedTuple):
    """Sums over the steps of the running epoch, or of the one just finished. Scalars.

    Attributes:
      loss: of the losses times their rows' weights, over the steps that were taken.
      weight: of the rows' weights of those steps.
      grad_norm: of the gradients' norms of those steps.
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
    """Everything that training changes, as one pytree: what a checkpoint must hold to go on exactly.

    Attributes:
      params: the model's parameters.
      opt_state: the optimiser's state.
      step, epoch: int32, how many of each are done; a skipped step is one of them.
      key: the random key that every epoch's shuffle is derived from; it does not change.
      position: int32, how many batches of the running epoch are done; 0 between epochs.
      skipped_in_a_row: int32, how many of the last steps in a row were skipped because they were not finite.
      totals: of the running epoch, or (between epochs) of the last one.
      carry: of a stateful model, the carry after the last batch; None for a stateless one.
      average: a running average of the parameters, or None; see :func:`jaxrnn.training.train_step`.
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
        """The parameters to evaluate and keep: their average where there is one."""
        return self.params if self.average is None else self.average

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
        """The state before the first step. Everything is copied, since training donates its state."""
        params, carry = jax.tree.map(jnp.array, (params, carry))
        # Buffers of their own for equal values: a buffer that two leaves share can be donated only once.
        step, epoch, position, skipped = (jnp.array(0, jnp.int32) for _ in range(4))
        return cls(
            params=params,
            opt_state=optimizer.init(params),
            step=step,
            epoch=epoch,
            key=jax.random.key(seed),
            position=position,
            skipped_in_a_row=skipped,
            totals=jax.tree.map(jnp.array, Totals.zero()),
            carry=carry,
            average=jax.tree.map(jnp.array, params) if average else None,
        )

    def replace(self, **changes: Any) -> "TrainState":
        """This state with other values for the fields named."""
        return TrainState(**{**vars(self), **changes})


class Batch(NamedTuple):
    """Inputs ``[batch, time, dims]``, targets shaped like the predictions, and a weight for each row."""

    inputs: Array
    targets: Array
    weights: Array


class StepMetrics(NamedTuple):
    """Loss, and norm of the gradient before clipping: of one step, or means over the steps taken in an epoch."""

    loss: Array
    grad_norm: Array
