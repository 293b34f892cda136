"""The base class of all cells: parameters, one step, and the interface to the engine.

To write a cell, subclass :class:`RecurrentCell`, set its number of gates if there are several, and write its
equations::

    class LeakyCell(jaxrnn.RecurrentCell):
        def pointwise(self, carry, xw, rh):
            h = 0.9 * carry + 0.1 * jnp.tanh(xw[0] + rh[0])
            return h, h

The engine derives the backward pass from ``pointwise``, so the cell gets the same backpropagation through time as
the built-in ones.
"""

from typing import Any, ClassVar, TypeGuard

import jax
import jax.numpy as jnp
from flax import errors, nnx
from flax.nnx.nn.dtypes import canonicalize_dtype
from jax import Array
from jax.core import Tracer

from jaxrnn import checks
from jaxrnn.cells.initializers import Initializer, by_gates, glorot_uniform, orthogonal, zeros
from jaxrnn.cells.pure import pure_pointwise
from jaxrnn.ops.step import (
    Carry,
    Params,
    Pointwise,
    Projection,
    accumulation_dtype,
    apply_pointwise,
    by_gate,
    cast,
    projected,
    recurrent_projection,
)
from jaxrnn.signature import InitSignature


class RecurrentCell(nnx.RNNCellBase):
    """A recurrent cell made of two projections and one pointwise function.

    The gates are concatenated along the last axis of every parameter::

        xw = x @ kernel + bias                            kernel           [in_features, gates * hidden]
        rh = h @ recurrent_kernel (+ recurrent_bias)      recurrent_kernel [hidden, gates * hidden]
        carry, y = pointwise(carry, xw, rh)

    With ``num_heads`` above 1 the recurrent kernel is block-diagonal: a head's units read only the h of its own
    units. Then ``recurrent_kernel`` is ``[heads, hidden / heads, gates * hidden / heads]``, and head n has the
    units from ``n * hidden / heads`` on. All else is as without heads.

    Subclasses set ``num_gates`` and define :meth:`pointwise`; those whose carry is more than h also define
    :meth:`carry_like`. A subclass may have further parameters, as ``nnx.Param`` attributes; they get gradients.

    Args:
      in_features: size of the last axis of the inputs.
      hidden_features: size of the hidden state.
      num_heads: the number of blocks on the diagonal of the recurrent kernel; it must divide ``hidden_features``.
      use_bias: whether to add ``bias``.
      use_recurrent_bias: whether to add ``recurrent_bias``. Only useful in cells that do not just add xw and rh.
      kernel_init: initializer of ``kernel``; by default Glorot uniform, as in Keras.
      recurrent_kernel_init: initializer of one gate's ``[hidden, hidden]`` block of ``recurrent_kernel``, or with
        heads of one gate of one head. The default is orthogonal: at first the recurrent product keeps the length
        of the hidden state.
      bias_init: initializer of both biases.
      dtype: the dtype of the computation; None takes the widest of inputs and parameters. With bfloat16 or
        float16, products still accumulate in float32.
      param_dtype: the dtype of the parameters.
      rngs: source of the initial parameters.

    Raises:
      ValueError: at construction, an argument is invalid; at a step, the inputs or the carry do not fit the cell.
        The message shows the value.

    >>> import jax.numpy as jnp
    >>> import jaxrnn
    >>> from flax import nnx
    >>> class DecayingCell(jaxrnn.RecurrentCell):
    ...     def __init__(self, in_features, hidden_features, *, rngs, **options):
    ...         super().__init__(in_features, hidden_features, rngs=rngs, **options)
    ...         self.decay = nnx.Param(jnp.full(hidden_features, 0.9))
    ...
    ...     def pointwise(self, carry, xw, rh):
    ...         h = self.decay[...] * carry + jnp.tanh(xw[0] + rh[0])
    ...         return h, h
    >>> cell = DecayingCell(3, 4, rngs=nnx.Rngs(0))
    >>> carry, y = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3)))    # one step
    >>> jaxrnn.RNN(cell)(jnp.ones((2, 10, 3))).shape                        # a sequence
    (2, 10, 4)
    """

    __signature__ = InitSignature()

    num_gates: ClassVar[int] = 1

    output_is_hidden_state: ClassVar[bool] = False
    """Whether every step's output is the hidden state, as in all built-in cells. Layers that return only the last
    output then take it from the carry, and need not keep the others. Zoneout sees by itself where it is so."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, value in (
            ("pure_pointwise", RecurrentCell.pure_pointwise),
            ("output_is_hidden_state", False),
        ):
            # The equations come from the class itself or from a mixin, so this declaration, which stands further
            # down the line of base classes, was made for others.
            if _place(cls, "pointwise") < _place(cls, name):
                setattr(cls, name, value)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        num_heads: int = 1,
        use_bias: bool = True,
        use_recurrent_bias: bool = False,
        kernel_init: Initializer = glorot_uniform,
        recurrent_kernel_init: Initializer = orthogonal,
        bias_init: Initializer = zeros,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        in_features = checks.positive_integer("in_features", in_features)
        hidden_features = checks.positive_integer("hidden_features", hidden_features)
        num_heads = checks.positive_integer("num_heads", num_heads)
        if hidden_features % num_heads:
            raise ValueError(
                f"{num_heads=} must divide {hidden_features=}, but leaves {hidden_features % num_heads}"
            )
        dtype = None if dtype is None else checks.floating_dtype("dtype", dtype)
        param_dtype = checks.floating_dtype("param_dtype", param_dtype)
        use_bias = checks.flag("use_bias", use_bias)
        use_recurrent_bias = checks.flag("use_recurrent_bias", use_recurrent_bias)
        checks.initial_rngs(rngs)
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.num_heads = num_heads
        self.dtype = dtype
        self.param_dtype = param_dtype
        width = self.num_gates * hidden_features

        def blocks(init: Initializer, rows: int, columns: int) -> Array:
            # Gate by gate, because fan-out and orthogonality are meant for one gate's matrix. In at least float32,
            # because QR decompositions do not support half precision.
            wide = accumulation_dtype(param_dtype)
            keys = [rngs.params() for _ in range(self.num_gates)]
            return by_gates(init, keys, (rows, columns), wide).astype(param_dtype)

        self.kernel = nnx.Param(blocks(kernel_init, in_features, hidden_features))
        units = hidden_features // num_heads
        heads = [blocks(recurrent_kernel_init, units, units) for _ in range(num_heads)]
        self.recurrent_kernel = nnx.Param(heads[0] if num_heads == 1 else jnp.stack(heads))
        bias = nnx.Param(bias_init(rngs.params(), (width,), param_dtype)) if use_bias else None
        self.bias = nnx.data(bias)
        recurrent_bias = None
        if use_recurrent_bias:
            recurrent_bias = nnx.Param(bias_init(rngs.params(), (width,), param_dtype))
        self.recurrent_bias = nnx.data(recurrent_bias)

    def pointwise(self, carry: Carry, xw: tuple[Array, ...], rh: tuple[Array, ...]) -> tuple[Carry, Array]:
        """The cell's equations: ``(carry, xw, rh) -> (carry, y)``, all arrays ``[*batch, hidden]``.

        It must be a pure function of its arguments and of the cell's variables, without random numbers and side
        effects. Arrays that need gradients must be ``nnx.Param`` attributes of the cell; arrays from a closure or
        a global get no gradient. Globals and attributes of the class are read when the program is compiled, so a
        later change of them may have no effect.

        Args:
          carry: as from :meth:`carry_like`.
          xw: the input's contribution, one array per gate.
          rh: the previous hidden state's contribution, one array per gate.

        Returns:
          The new carry, with the structure of the old one, and the output.
        """
        raise NotImplementedError(f"{type(self).__name__} must define pointwise(carry, xw, rh)")

    def carry_like(self, h: Array) -> Carry:
        """A carry with parts that are all shaped like ``h``; its last leaf must be the hidden state.

        A part may have a wider dtype than ``h``.
        """
        return h

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Carry:
        """The initial carry, zeros by default.

        Args:
          input_shape: the shape of one step's inputs, ``(*batch, in_features)``.
          rngs: needed only with ``carry_init``.
          carry_init: initializer of each part of the carry.

        Raises:
          ValueError: ``carry_init`` is given without ``rngs``.
        """
        shape = (*input_shape[:-1], self.hidden_features)
        dtype = self.dtype or self.param_dtype
        if carry_init is None:
            return _apart(self.carry_like(jnp.zeros(shape, dtype)))
        if rngs is None:
            raise ValueError("carry_init needs rngs: initialize_carry(shape, rngs=nnx.Rngs(0), carry_init=...)")
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return jax.tree.map(
            lambda a: carry_init(stream(), shape, a.dtype), self.carry_like(jnp.zeros((0,), dtype))
        )

    @property
    def num_feature_axes(self) -> int:
        return 1

    def compute_dtype(self, inputs: Array) -> jnp.dtype:
        """The dtype of projections and outputs for these inputs."""
        return jnp.dtype(canonicalize_dtype(inputs, self.kernel[...], dtype=self.dtype))

    def input_projection(self, inputs: Array) -> Array:
        """xw = inputs @ kernel + bias for any number of leading axes; needs no recurrence."""
        return projected(self._projection(inputs))

    def lazy_projection(self, inputs: Array, batch_major: bool) -> Array | Projection:
        """Like :meth:`input_projection`, but not computed yet, unless a subclass overrides that method."""
        if type(self).input_projection is not RecurrentCell.input_projection:
            return self.input_projection(inputs)
        return self._projection(inputs, batch_major)

    def _projection(self, inputs: Array, batch_major: bool = False) -> Projection:
        check_inputs(self, inputs)
        dtype = self.compute_dtype(inputs)
        bias = None if self.bias is None else self.bias[...]
        if bias is not None:
            bias = cast(bias, jnp.promote_types(bias.dtype, dtype))
        return Projection(cast(inputs, dtype), cast(self.kernel[...], dtype), bias, batch_major)

    def recurrent_parameters(self, dtype: jnp.dtype) -> tuple[Array, Array | None]:
        """``recurrent_kernel`` in the computation's dtype, and ``recurrent_bias`` or None."""
        bias = None if self.recurrent_bias is None else self.recurrent_bias[...]
        return self.recurrent_kernel[...].astype(dtype), bias

    def pure_pointwise(self) -> tuple[Pointwise, Params]:
        """For the engine: :meth:`pointwise` as a pure function of its parameters, and these parameters."""
        return pure_pointwise(self)

    def __call__(self, carry: Carry, inputs: Array) -> tuple[Carry, Array]:
        """Compute one step, from a carry and ``inputs [*batch, in_features]``.

        Returns the new carry, and the output ``[*batch, hidden]``.
        """
        inputs = checks.array("inputs", inputs)
        xw = self.input_projection(inputs)
        carry = checked_carry(self, carry, inputs.shape)
        kernel, bias = self.recurrent_parameters(xw.dtype)
        pointwise, params = self.pure_pointwise()
        rh = recurrent_projection(carry, kernel, bias, None)
        xw, rh = (by_gate(block, self.hidden_features) for block in (xw, rh))
        return apply_pointwise(pointwise, params, carry, xw, rh)


def _place(cls: type, name: str) -> int:
    """Where in the line of its base classes a class finds an attribute."""
    return next(place for place, base in enumerate(cls.__mro__) if name in vars(base))


def _apart(carry: Carry) -> Carry:
    """The carry with a buffer for every part, as ``jax.jit`` needs them to take a carry as ``donate_argnums``."""
    leaves, structure = jax.tree.flatten(carry)
    parts: list[Array] = []
    for leaf in leaves:
        shared = any(leaf is part for part in parts) and not isinstance(leaf, Tracer)
        parts.append(jnp.copy(leaf) if shared else leaf)
    return structure.unflatten(parts)


def steps_on_engine(cell: checks.Cell) -> TypeGuard[RecurrentCell]:
    """Whether the engine can run the cell's step. It cannot if a subclass defines its own ``__call__``."""
    return isinstance(cell, RecurrentCell) and type(cell).__call__ is RecurrentCell.__call__


def check_inputs(cell: Any, inputs: Array) -> None:
    """Raise a ValueError unless the inputs are ``[..., in_features]`` with the cell's ``in_features``."""
    if inputs.ndim < 1 or inputs.shape[-1] != cell.in_features:
        width = inputs.shape[-1] if inputs.ndim else None
        raise ValueError(f"{inputs.shape=} ends in {width}, but in_features is {cell.in_features}")
    if jnp.issubdtype(inputs.dtype, jnp.complexfloating):
        raise ValueError(f"{inputs.dtype=} must be a real type")


def checked_carry(cell: checks.Cell, carry: Carry, input_shape: tuple[int, ...]) -> Carry:
    """The carry as arrays. Raises a ValueError if it does not fit the cell and the shape of a step's inputs."""
    return checks.carry(type(cell).__name__, carry, shapes_of_carry(cell, input_shape), input_shape)


def shapes_of_carry(cell: checks.Cell, input_shape: tuple[int, ...]) -> Carry:
    """Shapes and dtypes of the cell's initial carry, for a step's inputs of this shape."""
    try:
        return jax.eval_shape(lambda: cell.initialize_carry(input_shape, nnx.Rngs(0)))
    except errors.TraceContextError:  # it draws from random streams of its own, which stay as they are
        return jax.eval_shape(lambda: nnx.clone(cell).initialize_carry(input_shape, nnx.Rngs(0)))
