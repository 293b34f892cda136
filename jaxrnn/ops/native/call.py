"""A recurrence as a call of the C++ library: what all cells have in common."""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.step import Carry, Projection, Recurrence, cast, heads_of, matmul, units_of
from jaxrnn.ops.varying import all_axes, made_to_vary

MOST_THREADS = 0
"""The largest number of threads that a call uses; 0 means all threads of JAX. Results do not depend on it."""


class Call(abc.ABC):
    """The arrays of a recurrence in the library's form: one batch axis, in the caller's memory order."""

    def __init__(self, reverse: bool, arrays: Recurrence):
        self.reverse, self.arrays = reverse, arrays
        self.time, *self.batch_axes = arrays.xw.shape[:-1]
        self.batch = 1
        for size in self.batch_axes:
            self.batch *= size
        self.hidden = units_of(arrays.recurrent_kernel)
        self.heads = heads_of(arrays.recurrent_kernel)
        self.dtype = arrays.recurrent_kernel.dtype
        self.batch_major = isinstance(arrays.xw, Projection) and arrays.xw.batch_major
        self.steps = (self.batch, self.time) if self.batch_major else (self.time, self.batch)

    def shape(self, *sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, self.dtype)

    def native_order(self, array: Array) -> Array:
        """``[time, *batch, width]`` in the library's order, ``[*self.steps, width]``."""
        if self.batch_major:
            # This cancels the layer's transposition to time first, so that XLA does not move the data.
            array = jnp.moveaxis(array, 0, -2)
            return array.reshape(self.batch, self.time, array.shape[-1])
        return array.reshape(self.time, self.batch, array.shape[-1])

    def time_first(self, array: Array) -> Array:
        if self.batch_major:
            return jnp.moveaxis(array.reshape(*self.batch_axes, self.time, array.shape[-1]), -2, 0)
        return array.reshape(self.time, *self.batch_axes, array.shape[-1])

    @property
    def absent(self) -> Array:
        return jnp.zeros(0, self.dtype)

    @property
    def projection(self) -> Projection | None:
        return self.arrays.xw if isinstance(self.arrays.xw, Projection) else None

    @property
    def in_features(self) -> int:
        return 0 if self.projection is None else self.projection.inputs.shape[-1]

    @abc.abstractmethod
    def forward(self, save: bool) -> tuple[Carry, Array, Array]:
        """Carry and outputs, and with ``save`` the other values that the backward pass needs."""

    @abc.abstractmethod
    def backward(
        self, of_inputs: bool, outputs: Array, saved: Array, dcarry: Carry, doutputs: Array | None
    ) -> Recurrence:
        """The gradient of every array; None for arrays that need none."""

    def rows(self, carry: Carry) -> list[Array]:
        """The parts of a carry, ``[batch, hidden]``."""
        return [leaf.reshape(self.batch, self.hidden) for leaf in jax.tree.leaves(carry)]

    def input_arguments(self) -> list[Array]:
        """inputs, kernel, bias and xw; recurrent kernel and bias."""
        a, absent = self.arrays, self.absent
        if self.projection is not None:
            bias = absent if self.projection.bias is None else self.projection.bias
            inputs = [self.native_order(self.projection.inputs), self.projection.kernel, bias, absent]
        else:
            inputs = [absent, absent, absent, self.native_order(a.xw)]
        return [*inputs, a.recurrent_kernel, absent if a.recurrent_bias is None else a.recurrent_bias]

    def mask_arguments(self) -> list[Array]:
        """recurrent_scale, valid and resets."""
        a, absent = self.arrays, self.absent

        def mask(array: Array | None) -> Array:
            return absent if array is None else array.reshape(self.time, self.batch).astype(jnp.uint8)

        scale = absent
        if a.recurrent_scale is not None:
            shape = (*self.batch_axes, self.hidden)
            scale = jnp.broadcast_to(a.recurrent_scale, shape).reshape(self.batch, self.hidden)
        return [scale, mask(a.valid), mask(a.resets)]

    def input_shapes(self, of_inputs: bool) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of the gradients of inputs and weights."""
        a, absent, width = self.arrays, self.shape(0), self.arrays.xw.shape[-1]
        projection = self.projection
        # With heads, the gradient of the inputs is a sum over heads, which XLA computes from dxw.
        of_xw = projection is None or self.heads > 1
        inputs = self.shape(*self.steps, width if of_xw else self.in_features) if of_inputs else absent
        return {
            "dinputs": absent if of_xw else inputs,
            "dxw": inputs if of_xw else absent,
            "dkernel": absent if projection is None else self.shape(*projection.kernel.shape),
            "dbias": self.shape(width) if projection and projection.bias is not None else absent,
            "drecurrent_kernel": self.shape(*a.recurrent_kernel.shape),
            "drecurrent_bias": absent if a.recurrent_bias is None else self.shape(*a.recurrent_bias.shape),
        }

    def xw_gradient(self, results: Any, of_inputs: bool) -> Any:
        """The gradient of ``arrays.xw`` from results with the names of :meth:`input_shapes`."""
        if self.projection is None:
            return self.time_first(results.dxw) if of_inputs else None
        dinputs: Any = None
        if of_inputs and self.heads > 1:
            product = matmul(results.dxw, jnp.swapaxes(self.projection.kernel, 0, 1))
            dinputs = self.time_first(cast(product, self.dtype))
        elif of_inputs:
            dinputs = self.time_first(results.dinputs)
        dbias = None if self.projection.bias is None else results.dbias
        return Projection(dinputs, results.dkernel, dbias, self.projection.batch_major)


def foreign_call(
    target: str, shapes: list[jax.ShapeDtypeStruct], arguments: list[Array], attributes: dict[str, Any]
) -> list[Array]:
    # The library finds the axes that vmap adds, see arrays.h, and divides the runs among the threads.
    foreign: Callable[..., Any] = jax.ffi.ffi_call(target, shapes, vmap_method="expand_dims")
    # JAX does not know that the results vary over a mesh as the arguments do.
    axes = all_axes(arguments)
    return [made_to_vary(result, axes) for result in foreign(*arguments, **attributes)]


def residual_flag(value: bool) -> Array:
    """A bool among the residuals of a ``custom_vjp``: an array of size 1 for True and 0 for False.

    As a Python bool it would be part of the residuals' tree structure. Where JAX differentiates one traced program
    with respect to different arguments, it traces the forward rule for each of them, but keeps only the structure
    of the last. The backward rule would then read the wrong value.
    """
    return jnp.zeros(int(value), jnp.bool_)
