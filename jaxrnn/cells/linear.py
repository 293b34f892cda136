"""The base class of cells whose state enters linearly: all steps of a sequence are computed in one pass."""

from typing import Any, ClassVar, TypeGuard

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import canonicalize_dtype
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.base import check_inputs, checked_carry
from jaxrnn.cells.initializers import Initializer, glorot_uniform, zeros
from jaxrnn.ops.linear import broadcasts, checked_arrays, run_linear_recurrence
from jaxrnn.ops.step import Projection, accumulation_dtype, by_gate, cast, projected, widen
from jaxrnn.signature import InitSignature


class LinearRecurrentCell(nnx.RNNCellBase):
    """A recurrent cell whose gates depend on the inputs alone, and whose state enters linearly.

        xw     = x @ kernel + bias                      kernel [in_features, gates * state_features]
        a, b   = coefficients(xw, x)
        h_t    = a * h_{t-1} + b                        elementwise, real or complex
        y_t    = outputs(h_t, x)                        by default h_t

    There is no matrix product that waits for the step before, so a layer computes a whole sequence by
    :func:`jaxrnn.ops.linear_recurrence`. Subclasses set ``num_gates`` and define :meth:`coefficients`; those with
    another output also define :meth:`outputs`. Both are called with all steps at once, or with one.

    Args:
      in_features: size of the last axis of the inputs.
      hidden_features: size of the last axis of the outputs.
      state_features: size of the state; by default ``hidden_features``. Another size needs its own ``outputs``.
      use_bias: whether to add ``bias``.
      kernel_init: initializer of one gate's block of ``kernel``; by default Glorot uniform.
      bias_init: initializer of ``bias``.
      dtype: the dtype of projections and outputs; None takes the widest of inputs and parameters. The state is
        computed in float32 or wider, and so is the carry that a layer makes. A given carry keeps its dtype.
      param_dtype: the dtype of the parameters.
      rngs: source of the initial parameters.

    Raises:
      ValueError: at construction, an argument is invalid; at a step, the inputs or the carry do not fit the cell,
        or ``coefficients`` returns something else than two arrays that fit its state.

    >>> import jax, jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> class ForgetfulCell(jaxrnn.LinearRecurrentCell):
    ...     def coefficients(self, xw, inputs):
    ...         keep = jax.nn.sigmoid(xw[0])
    ...         return keep, (1 - keep) * xw[1]
    >>> cell = ForgetfulCell(3, 4, rngs=nnx.Rngs(0))
    >>> carry, y = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3)))    # one step
    >>> jaxrnn.RNN(cell)(jnp.ones((2, 10, 3))).shape                        # a sequence
    (2, 10, 4)
    """

    __signature__ = InitSignature()

    num_gates: int = 2

    complex_state: ClassVar[bool] = False
    """Whether the state, and with it the carry, is complex."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        state_features: int | None = None,
        use_bias: bool = True,
        kernel_init: Initializer = glorot_uniform,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.in_features = checks.positive_integer("in_features", in_features)
        self.hidden_features = checks.positive_integer("hidden_features", hidden_features)
        state_features = self.hidden_features if state_features is None else state_features
        self.state_features = checks.positive_integer("state_features", state_features)
        self.dtype = None if dtype is None else checks.floating_dtype("dtype", dtype)
        self.param_dtype = checks.floating_dtype("param_dtype", param_dtype)
        use_bias = checks.flag("use_bias", use_bias)
        checks.initial_rngs(rngs)
        checks.function("kernel_init", kernel_init, "nnx.initializers.glorot_uniform()")
        checks.function("bias_init", bias_init, "nnx.initializers.zeros_init()")
        block = (self.in_features, self.state_features)
        gates = [self.initial(kernel_init, rngs, *block) for _ in range(self.num_gates)]
        self.kernel = nnx.Param(jnp.concatenate(gates, axis=-1))
        width = self.num_gates * self.state_features
        self.bias = nnx.data(nnx.Param(bias_init(rngs.params(), (width,), param_dtype)) if use_bias else None)

    def initial(self, init: Initializer, rngs: nnx.Rngs, *shape: int) -> Array:
        """An initial parameter in ``param_dtype``, drawn in float32 or wider."""
        return init(rngs.params(), shape, accumulation_dtype(self.param_dtype)).astype(self.param_dtype)

    def coefficients(self, xw: tuple[Array, ...], inputs: Array) -> tuple[Array, Array]:
        """The coefficients a and b of every step, from the inputs alone.

        It must be a pure function of its arguments and of the cell's variables, without random numbers.

        Args:
          xw: ``x @ kernel + bias``, one array ``[..., state_features]`` for each gate, in float32 or wider.
          inputs: ``[..., in_features]``. The leading axes may hold the steps of a sequence.

        Returns:
          a, ``[..., state_features]`` or what broadcasts to it (a Python number too), and b,
          ``[..., state_features]``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(xw, inputs)")

    def outputs(self, states: Array, inputs: Array) -> Array:
        """The output ``[..., hidden_features]`` of every step, from the state after it and its inputs."""
        return states

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Array:
        """The initial state ``[*batch, state_features]``, zeros by default.

        It is float32 (complex64) or wider, also for a ``dtype`` of half precision. A carry keeps its dtype from
        step to step, and a narrower one would lose the digits of small changes to a long memory.

        Args:
          input_shape: the shape of one step's inputs, ``(*batch, in_features)``.
          rngs: needed only with ``carry_init``.
          carry_init: initializer of the state.
        """
        shape, dtype = (*input_shape[:-1], self.state_features), self.state_dtype(self.dtype or self.param_dtype)
        if carry_init is None:
            return jnp.zeros(shape, dtype)
        if rngs is None:
            raise ValueError("carry_init needs rngs: initialize_carry(shape, rngs=nnx.Rngs(0), carry_init=...)")
        return carry_init((rngs.carry if isinstance(rngs, nnx.Rngs) else rngs)(), shape, dtype)

    @property
    def num_feature_axes(self) -> int:
        return 1

    def compute_dtype(self, inputs: Array) -> jnp.dtype:
        """The dtype of projections and outputs for these inputs."""
        return jnp.dtype(canonicalize_dtype(inputs, self.kernel[...], dtype=self.dtype))

    def state_dtype(self, dtype: Any) -> jnp.dtype:
        """The dtype of a carry for projections of this dtype: float32, complex64 or wider."""
        return jnp.promote_types(dtype, jnp.complex64 if self.complex_state else jnp.float32)

    def __call__(self, carry: Array, inputs: Array) -> tuple[Array, Array]:
        """Compute one step, from a carry and ``inputs [*batch, in_features]``.

        Returns the new carry, and the output ``[*batch, hidden_features]``.
        """
        inputs = checks.array("inputs", inputs)
        a, b = self._coefficients(inputs)
        carry = checked_carry(self, carry, inputs.shape)
        state = a * cast(carry, b.dtype) + b
        return cast(state, carry.dtype), self._outputs(state, inputs)

    def sequence(
        self,
        carry: Array,
        inputs: Array,
        *,
        seq_lengths: Array | None = None,
        resets: Array | None = None,
        reset_carry: Array | None = None,
        reverse: bool = False,
        implementation: str | None = None,
        batch_major: bool = False,
    ) -> tuple[Array, Array]:
        """Compute all steps of ``inputs [time, *batch, in_features]``.

        Args:
          carry: the state before the first step, ``[*batch, state_features]``.
          seq_lengths, resets, reverse, implementation: as in :func:`jaxrnn.ops.linear_recurrence`.
          reset_carry: the carry after a reset; by default ``carry``.
          batch_major: a hint that ``inputs`` is the transpose of an array with time after the batch, and that the
            outputs will be transposed back.

        Returns:
          The final carry, and the outputs ``[time, *batch, hidden_features]``; zeros beyond a row's length.
        """
        # Steps in the order in which they are in memory. This cancels the transpositions of the caller.
        x = jnp.moveaxis(inputs, 0, -2) if batch_major else inputs
        a, b = self._coefficients(x)
        a = a.reshape((1,) * (b.ndim - a.ndim) + a.shape)
        if batch_major:
            a, b = (jnp.moveaxis(array, -2, 0) for array in (a, b))
        wide = [None if state is None else cast(state, b.dtype) for state in (carry, reset_carry)]
        arrays = checked_arrays(a, b, wide[0], seq_lengths, resets, wide[1])
        states = run_linear_recurrence(
            arrays, reverse=reverse, implementation=implementation, batch_major=batch_major
        )
        y = self._outputs(jnp.moveaxis(states, 0, -2) if batch_major else states, x)
        y = jnp.moveaxis(y, -2, 0) if batch_major else y
        if arrays.lengths is not None:
            steps = jnp.arange(y.shape[0]).reshape(-1, *([1] * (y.ndim - 1)))
            y = jnp.where(steps < arrays.lengths[None, ..., None], y, 0)
        # A symbolic size of jax.export is at least 1, and does not equal 0.
        if states.shape[0] != 0:
            carry = cast(states[0 if reverse else -1], carry.dtype)
        return carry, y

    def _coefficients(self, inputs: Array) -> tuple[Array, Array]:
        check_inputs(self, inputs)
        dtype = self.compute_dtype(inputs)
        bias = None if self.bias is None else self.bias[...]
        bias = None if bias is None else cast(bias, jnp.promote_types(bias.dtype, dtype))
        xw = widen(projected(Projection(cast(inputs, dtype), cast(self.kernel[...], dtype), bias)))
        shape = (*inputs.shape[:-1], self.state_features)
        gates = by_gate(xw, self.state_features)
        try:
            found = self.coefficients(gates, inputs)
        except IndexError as error:
            raise ValueError(
                f"coefficients of {type(self).__name__} failed ({error}). Its xw has {len(gates)} arrays, "
                "one for each of its num_gates"
            ) from error
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise ValueError(
                f"coefficients of {type(self).__name__} must return two arrays, a that broadcasts to {shape} and "
                f"b of this shape, not {checks.shown(found)}"
            )
        a, b = (
            checks.array(f"{name} from coefficients of {type(self).__name__}", value)
            for name, value in zip("ab", found, strict=True)
        )
        for name, array in (("a", a), ("b", b)):
            if jnp.issubdtype(array.dtype, jnp.complexfloating) and not self.complex_state:
                raise ValueError(
                    f"coefficients of {type(self).__name__} returned {name} in {array.dtype}, but its state is "
                    "real: set complex_state = True in the class"
                )
        if b.shape != shape or not broadcasts(a.shape, shape):
            raise ValueError(
                f"coefficients of {type(self).__name__} must return a that broadcasts to {shape}, and b of this "
                f"shape, not {a.shape} and {b.shape}"
            )
        wide = self.state_dtype(xw.dtype)
        return cast(a, wide), cast(b, wide)

    def _outputs(self, states: Array, inputs: Array) -> Array:
        y = self.outputs(states, inputs)
        shape = (*inputs.shape[:-1], self.hidden_features)
        if y.shape != shape or jnp.issubdtype(y.dtype, jnp.complexfloating):
            raise ValueError(
                f"outputs of {type(self).__name__} must be real and of shape {shape}, not {y.dtype} {y.shape}"
            )
        return cast(y, self.compute_dtype(inputs))


def steps_linearly(cell: checks.Cell) -> TypeGuard[LinearRecurrentCell]:
    """Whether a sequence of the cell is a linear recurrence. It is not if a subclass has its own ``__call__``."""
    return isinstance(cell, LinearRecurrentCell) and type(cell).__call__ is LinearRecurrentCell.__call__
