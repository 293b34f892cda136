"""The parts of a step that all implementations of a recurrence share.

A cell is its parameters and one pointwise function::

    carry, y = pointwise(params, carry, xw, rh)

``xw`` and ``rh`` are tuples with one array ``[..., hidden]`` per gate: the contributions of the input and of the
previous hidden state. The rest of a step (which part of the carry is the hidden state, which precision is used) is
defined here once, so that the implementations cannot differ in it.

Precision: matrix products accumulate in float32 or wider, and the pointwise function runs in float32 or wider. The
carry keeps the dtype of ``initial_carry``, and the outputs have the dtype of ``xw``.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("inputs", "kernel", "bias"), meta_fields=("batch_major",)
)
@dataclass(frozen=True)
class Projection:
    """xw = inputs @ kernel + bias, not computed yet, because some implementations compute it inside their loop.

    Attributes:
      inputs: ``[time, *batch, in_features]``.
      kernel: ``[in_features, gates * hidden]``.
      bias: ``[gates * hidden]``, or None.
      batch_major: a hint that ``inputs`` is the transpose of an array with time after the batch, and that the
        outputs will be transposed back.
    """

    inputs: Array
    kernel: Array
    bias: Array | None = None
    batch_major: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of xw."""
        return (*self.inputs.shape[:-1], self.kernel.shape[-1])

    @property
    def dtype(self) -> jnp.dtype:
        return self.inputs.dtype

    @property
    def ndim(self) -> int:
        return self.inputs.ndim


def projected(xw: "Array | Projection") -> Array:
    """xw as an array ``[time, *batch, gates * hidden]`` in the dtype of the inputs."""
    if not isinstance(xw, Projection):
        return xw
    product = matmul(xw.inputs, xw.kernel)
    return cast(product if xw.bias is None else add_bias(product, xw.bias), xw.dtype)


def projected_by_gate(xw: "Array | Projection", hidden: int) -> tuple[Array, ...]:
    """xw as one array ``[time, *batch, hidden]`` per gate."""
    if not isinstance(xw, Projection):
        return by_gate(xw, hidden)
    kernels = by_gate(xw.kernel, hidden)
    biases = [None] * len(kernels) if xw.bias is None else by_gate(xw.bias, hidden)
    return tuple(projected(Projection(xw.inputs, *of_gate)) for of_gate in zip(kernels, biases))


def projection_gradient(xw: Projection, dxw: Array) -> Projection:
    """The gradients of a projection's arrays for ``dxw [time, *batch, gates * hidden]``."""
    dbias = None if xw.bias is None else cast(widen(dxw).sum(range(dxw.ndim - 1)), xw.bias.dtype)
    dinputs = cast(matmul(dxw, jnp.swapaxes(xw.kernel, 0, 1)), xw.inputs.dtype)
    dkernel = cast(kernel_gradient(xw.inputs, dxw, xw.kernel), xw.kernel.dtype)
    return Projection(dinputs, dkernel, dbias, xw.batch_major)


class Recurrence(NamedTuple):
    """The arrays of a recurrence, time first. All but the first three may be None.

    Attributes:
      recurrent_kernel: ``[hidden, gates * hidden]``, or ``[heads, hidden / heads, gates * hidden / heads]``.
      xw: ``[time, *batch, gates * hidden]``, or a :class:`Projection` for implementations that accept one.
      initial_carry: the carry before the first step.
      params: the parameters of the pointwise function.
      recurrent_bias: ``[gates * hidden]``.
      recurrent_scale: ``[*batch, hidden]``, multiplies h before the recurrent product at every step.
      valid: bool ``[time, *batch]``; where false, the carry does not change and the output is zero.
      resets: bool ``[time, *batch]``; where true, the carry returns to ``reset_carry`` before the step.
      reset_carry: shaped like ``initial_carry``.
    """

    recurrent_kernel: Array
    xw: Any
    initial_carry: "Carry"
    params: "Params" = ()
    recurrent_bias: Array | None = None
    recurrent_scale: Array | None = None
    valid: Array | None = None
    resets: Array | None = None
    reset_carry: "Carry" = None


Carry = Any
"""Any pytree of arrays ``[*batch, hidden]``; its last leaf is the hidden state h."""

Params = Any
"""Any pytree of arrays without time or batch axes: the parameters of the pointwise function."""

Pointwise = Callable[[Params, Carry, tuple[Array, ...], tuple[Array, ...]], tuple[Carry, Array]]


def hidden_state(carry: Carry) -> Array:
    """The part of the carry that the recurrent kernel multiplies: its last leaf."""
    return jax.tree.leaves(carry)[-1]


def dtype_of(parameter: Any) -> Any:
    """The dtype of an array, or the one that JAX gives to a Python number."""
    return parameter.dtype if hasattr(parameter, "dtype") else jnp.result_type(parameter)


def accumulation_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """float32 for half precision, otherwise the type itself."""
    return jnp.promote_types(dtype, jnp.float32)


def widen(tree: Any) -> Any:
    """Cast every array of a pytree to its accumulation dtype; arrays that have it already are not copied."""
    return jax.tree.map(lambda a: cast(a, accumulation_dtype(a.dtype)), tree)


def cast(array: Array, dtype: jnp.dtype) -> Array:
    return array if array.dtype == dtype else array.astype(dtype)


def matmul(a: Array, b: Array) -> Array:
    """``a @ b``, accumulated and returned in float32 or wider."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return jnp.matmul(cast(a, dtype), cast(b, dtype), preferred_element_type=accumulation_dtype(dtype))


def kernel_gradient(inputs: Array, doutputs: Array, kernel: Array) -> Array:
    """The gradient of ``kernel`` in ``inputs @ kernel``: inputs.T @ doutputs, summed over all leading axes."""
    if any(jax.typeof(inputs).sharding.spec):
        # On an explicit mesh, a sharded axis cannot be merged with others, and a sum over it needs out_sharding.
        sharding = _on_mesh_of(inputs, kernel)
        axes = tuple(range(inputs.ndim - 1))
        dtype = accumulation_dtype(inputs.dtype)
        return lax.dot_general(
            inputs, doutputs, ((axes, axes), ((), ())), preferred_element_type=dtype, out_sharding=sharding
        )
    return matmul(inputs.reshape(-1, inputs.shape[-1]).T, doutputs.reshape(-1, doutputs.shape[-1]))


def _on_mesh_of(inputs: Array, kernel: Array) -> Any:
    """The sharding of the gradient of a kernel; whole everywhere if the kernel was not placed on the mesh."""
    sharding = jax.typeof(kernel).sharding
    if sharding.mesh.empty:
        return jax.typeof(inputs).sharding.update(spec=PartitionSpec(*[None] * kernel.ndim))
    return sharding


def heads_of(recurrent_kernel: Any) -> int:
    """How many heads a recurrent kernel has: blocks on its diagonal, each of which has units of its own."""
    return recurrent_kernel.shape[0] if len(recurrent_kernel.shape) == 3 else 1


def units_of(recurrent_kernel: Any) -> int:
    """The hidden size of all heads together."""
    return heads_of(recurrent_kernel) * recurrent_kernel.shape[-2]


def recurrent_gates_of(recurrent_kernel: Any) -> int:
    return recurrent_kernel.shape[-1] // recurrent_kernel.shape[-2]


def check_recurrent_bias(recurrent_kernel: Any, recurrent_bias: Any) -> None:
    """Raise a ValueError unless the bias is None or has one number for every unit and gate of the kernel."""
    width = recurrent_gates_of(recurrent_kernel) * units_of(recurrent_kernel)
    if recurrent_bias is not None and recurrent_bias.shape != (width,):
        raise ValueError(f"{recurrent_bias.shape=} must be ({width},) as {recurrent_kernel.shape=}")


def recurrent_product(h: Array, recurrent_kernel: Array) -> Array:
    """``h @ recurrent_kernel``, ``[*batch, gates * hidden]``; with heads, of the units of every head.

    Head n has the units from ``n * hidden / heads`` on, in every gate. So gates come before heads in everything
    but the recurrent kernel, and only this product and its gradients need to know of heads.
    """
    if recurrent_kernel.ndim == 2:
        return matmul(h, recurrent_kernel)
    heads, units, width = recurrent_kernel.shape
    dtype = accumulation_dtype(recurrent_kernel.dtype)
    left = h.reshape(*h.shape[:-1], heads, units)
    product = jnp.einsum("...ni,nio->...no", left, recurrent_kernel, preferred_element_type=dtype)
    # Sizes are spelled out, because -1 stands for nothing where the batch is empty.
    split = product.reshape(*product.shape[:-1], width // units, units)  # [*batch, heads, gates, units]
    return jnp.swapaxes(split, -3, -2).reshape(*h.shape[:-1], heads * width)


def recurrent_product_gradient(drh: Array, transposed_kernel: Array) -> Array:
    """The gradient of h in :func:`recurrent_product`; the kernel has its last two axes exchanged."""
    if transposed_kernel.ndim == 2:
        return matmul(drh, transposed_kernel)
    dtype = accumulation_dtype(transposed_kernel.dtype)
    left = by_head(drh, transposed_kernel.shape[0], transposed_kernel.shape[2])
    dh = jnp.einsum("...no,noi->...ni", left, transposed_kernel, preferred_element_type=dtype)
    return dh.reshape(*drh.shape[:-1], dh.shape[-2] * dh.shape[-1])


def recurrent_kernel_gradient(h: Array, drh: Array, recurrent_kernel: Array) -> Array:
    """The gradient of the kernel in :func:`recurrent_product`, summed over all leading axes."""
    if recurrent_kernel.ndim == 2:
        return kernel_gradient(h, drh, recurrent_kernel)
    heads, units, _ = recurrent_kernel.shape
    left, right = h.reshape(*h.shape[:-1], heads, units), by_head(drh, heads, units)
    dtype = accumulation_dtype(h.dtype)
    if any(jax.typeof(h).sharding.spec):  # as in kernel_gradient
        axes, head = tuple(range(h.ndim - 1)), (h.ndim - 1,)
        sharding = _on_mesh_of(h, recurrent_kernel)
        return lax.dot_general(
            left, right, ((axes, axes), (head, head)), preferred_element_type=dtype, out_sharding=sharding
        )
    left, right = left.reshape(-1, heads, units), right.reshape(-1, heads, drh.shape[-1] // heads)
    return jnp.einsum("kni,kno->nio", left, right, preferred_element_type=dtype)


def by_head(block: Array, heads: int, units: int) -> Array:
    """``[..., gates * heads * units]`` as ``[..., heads, gates * units]``."""
    width = block.shape[-1] // heads
    split = block.reshape(*block.shape[:-1], width // units, heads, units)
    return jnp.swapaxes(split, -3, -2).reshape(*block.shape[:-1], heads, width)


def recurrent_projection(
    carry: Carry, recurrent_kernel: Array, recurrent_bias: Array | None, recurrent_scale: Array | None
) -> Array:
    """rh = (h * recurrent_scale) @ recurrent_kernel + recurrent_bias, shape ``[*batch, gates * hidden]``."""
    rh = recurrent_product(scaled_hidden(hidden_state(carry), recurrent_kernel, recurrent_scale), recurrent_kernel)
    return rh if recurrent_bias is None else add_bias(rh, recurrent_bias)


def add_bias(array: Array, bias: Array) -> Array:
    """``array + bias`` with explicit axes, because ``jax_numpy_rank_promotion`` may forbid implicit ones."""
    return array + bias.reshape((1,) * (array.ndim - 1) + bias.shape)


def scaled_hidden(h: Array, recurrent_kernel: Array, recurrent_scale: Array | None) -> Array:
    """The left factor of the recurrent product, in the dtype of the right factor."""
    h = h if recurrent_scale is None else h * recurrent_scale
    return cast(h, recurrent_kernel.dtype)


def by_gate(block: Array, hidden: int) -> tuple[Array, ...]:
    """``[..., gates * hidden]`` as one array ``[..., hidden]`` per gate."""
    gates = block.shape[-1] // hidden
    return (block,) if gates == 1 else tuple(jnp.split(block, gates, axis=-1))


def apply_pointwise(
    pointwise: Pointwise, params: Params, carry: Carry, xw: tuple[Array, ...], rh: tuple[Array, ...]
) -> tuple[Carry, Array]:
    """Apply the cell's equations in float32 or wider, and cast carry and output back to their dtypes."""
    new_carry, y = checked_pointwise(pointwise, params, widen(carry), widen(xw), rh)
    new_carry = jax.tree.map(lambda old, new: cast(new, old.dtype), carry, new_carry)
    return new_carry, cast(y, xw[0].dtype)


def checked_pointwise(
    pointwise: Pointwise, params: Params, carry: Carry, xw: tuple[Array, ...], rh: tuple[Array, ...]
) -> tuple[Carry, Array]:
    """Call ``pointwise``. Raises a ValueError if its result has the wrong structure or shapes."""
    try:
        result = pointwise(params, carry, xw, rh)
    except IndexError as error:
        raise ValueError(
            f"pointwise raised an IndexError ({error}): it gets {len(xw)} gate{'s' * (len(xw) > 1)} in xw and "
            f"{len(rh)} in rh. If the cell needs more, set num_gates in its class."
        ) from error
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"pointwise must return (carry, output), not a {type(result).__name__}")
    new_carry, y = result
    expected, found = jax.tree.structure(carry), jax.tree.structure(new_carry)
    if expected != found:
        raise ValueError(
            f"pointwise must return a carry with the structure of its argument, {expected}, not {found}"
        )
    for old, new in zip(jax.tree.leaves(carry), jax.tree.leaves(new_carry), strict=True):
        if old.shape != jnp.shape(new):
            found = f"{new.shape}" if hasattr(new, "shape") else f"a {type(new).__name__}"
            raise ValueError(f"pointwise must keep the shapes of the carry, but changed {old.shape} to {found}")
    batch = hidden_state(carry).shape[:-1]
    if not isinstance(y, Array) or y.shape[:-1] != batch or y.ndim == 0:
        found = f"an array of shape {y.shape}" if isinstance(y, Array) else f"a {type(y).__name__}"
        raise ValueError(f"pointwise must return an output of shape {(*batch, 'features')}, not {found}")
    for leaf in jax.tree.leaves(result):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"pointwise must return a real carry and output, not {leaf.dtype}: keep real and imaginary "
                "parts as two parts of the carry"
            )
    return new_carry, y


def select(condition: Array, yes: Carry, no: Carry) -> Carry:
    """For each row of the batch, ``yes`` where ``condition [*batch]`` is true, else ``no``."""
    return jax.tree.map(lambda a, b: jnp.where(condition[..., None], a, b), yes, no)
