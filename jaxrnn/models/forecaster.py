"""Recurrent layers with one dense head, for forecasting."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells import CELLS
from jaxrnn.cells.initializers import Initializer, glorot_uniform
from jaxrnn.checks import Cell
from jaxrnn.layers.kinds import layer_sizes
from jaxrnn.layers.stack import StackedRNN
from jaxrnn.ops.step import Carry
from jaxrnn.signature import InitSignature

__all__ = ["RNNForecaster"]


class RNNForecaster(nnx.Module):
    """Stacked recurrent layers and one dense head, scaled: ``forecast = output_scale * (h @ kernel + bias)``.

    As a sequence-to-vector model the head reads the last step only; as a sequence-to-sequence model
    (``return_sequences=True``) the same head is applied at every step. tanh units put out values within
    (-1, 1), so a series that ranges to 80 wants an ``output_scale`` of that order, or to be scaled itself.

    Args:
      in_features: dims of the series, 1 for a univariate one.
      hidden_features: one size per layer.
      out_features: values to forecast.
      cell: ``"simple_rnn"``, another name from ``jaxrnn.cells.CELLS``, or a cell class.
      return_sequences: forecast at every step instead of after the last.
      output_scale: what the head's outputs are multiplied by.
      head_init: initializer of the head's kernel.
      dtype, param_dtype: as in :class:`jaxrnn.RecurrentCell`.
      cell_options: further keyword arguments of the cells, such as ``activation_fn``.
      rngs: source of the initial parameters.

    Raises:
      ValueError: at construction, an argument is invalid; at the call, the inputs or a carry do not fit.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> model = RNNForecaster(hidden_features=(20, 20), output_scale=200.0, rngs=nnx.Rngs(0))
    >>> model(jnp.ones((8, 30))).shape
    (8, 1)
    """

    __signature__ = InitSignature()

    def __init__(
        self,
        in_features: int = 1,
        hidden_features: int | Sequence[int] = (100, 100),
        *,
        out_features: int = 1,
        cell: str | type[Cell] = "simple_rnn",
        return_sequences: bool = False,
        output_scale: float = 1.0,
        head_init: Initializer = glorot_uniform,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        cell_options: dict[str, Any] | None = None,
        rngs: nnx.Rngs,
    ):
        if isinstance(cell, str):
            if cell not in CELLS:
                raise ValueError(f"unknown cell {cell!r}; available: {', '.join(CELLS)}")
            cell = CELLS[cell]
        sizes = layer_sizes(hidden_features, None)
        options: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, **(cell_options or {}))
        self.layers = StackedRNN(
            [
                cell(below, size, rngs=rngs, **options)  # pyright: ignore[reportCallIssue]
                for below, size in zip((in_features, *sizes), sizes)
            ],
            return_sequences=return_sequences,
        )
        self.head = nnx.Linear(
            sizes[-1], out_features, kernel_init=head_init, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )
        self.in_features = in_features
        self.output_scale = output_scale

    def initialize_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """Every layer's first carry (zeros) for that many series at once."""
        return self.layers.initialize_carry((batch_size, self.in_features))

    def __call__(
        self, inputs: Array, *, initial_carry: Sequence[Carry] | None = None, return_carry: bool = False
    ) -> Any:
        """Forecast what follows.

        Args:
          inputs: ``[batch, time, in_features]``; ``[batch, time]`` is taken as univariate.
          initial_carry: one carry per layer; zeros by default.
          return_carry: return ``(carry, forecasts)``.

        Returns:
          ``[batch, out_features]``, or ``[batch, time, out_features]`` with ``return_sequences``.
        """
        inputs = checks.array("inputs", inputs)
        if inputs.ndim == 2:
            inputs = inputs[..., None]
        if inputs.ndim != 3 or inputs.shape[-1] != self.in_features:
            raise ValueError(
                f"{inputs.shape=} must be [batch, time, {self.in_features}]"
                + (" or [batch, time]" if self.in_features == 1 else "")
            )
        carry, hidden = self.layers(inputs, initial_carry=initial_carry, return_carry=True)
        forecasts = self.head(hidden) * self.output_scale
        return (carry, forecasts) if return_carry else forecasts
