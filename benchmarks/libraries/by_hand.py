"""The cells of user_cells.py scanned by hand: one step as an author would write it without this library.

JAX differentiates it. The equations are written a second time, so that they also check those of the cells.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

import jaxrnn
from benchmarks.libraries.base import Contestant, layer_in_jax


def _leaky(params: Any, h: Array, xw: Array, rh: Array) -> Array:
    a = jax.nn.sigmoid(params["leak"])
    return (1 - a) * h + a * jnp.tanh(xw + rh)


def _minimal_gated(params: Any, h: Array, xw: Array, rh: Array) -> Array:
    (xf, xn), (hf, hn) = jnp.split(xw, 2, axis=-1), jnp.split(rh, 2, axis=-1)
    f = jax.nn.sigmoid(xf + hf)
    return (1 - f) * h + f * jnp.tanh(xn + f * hn)


def _layer_norm(params: Any, h: Array, xw: Array, rh: Array) -> Array:
    z = xw + rh
    z = z - z.mean(-1, keepdims=True)
    z = z / jnp.sqrt((z**2).mean(-1, keepdims=True) + 1e-6)
    return jnp.tanh(z * params["norm"]["scale"] + params["norm"]["bias"])


def _own_lstm(params: Any, carry: Any, xw: Array, rh: Array) -> Any:
    c, _ = carry
    i, f, g, o = jnp.split(xw + rh, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jaxrnn.LSTMCarry(c, jax.nn.sigmoid(o) * jnp.tanh(c))


def _peephole(params: Any, carry: Any, xw: Array, rh: Array) -> Any:
    c, _ = carry
    i, f, g, o = jnp.split(xw + rh, 4, axis=-1)
    forget = jax.nn.sigmoid(f + params["forget_peephole"] * c)
    c = forget * c + jax.nn.sigmoid(i + params["input_peephole"] * c) * jnp.tanh(g)
    return c, jax.nn.sigmoid(o + params["output_peephole"] * c) * jnp.tanh(c)


def _exponential_gate(params: Any, carry: Any, xw: Array, rh: Array) -> Any:
    c, n, m, _ = carry
    i, f, z, o = jnp.split(xw + rh, 4, axis=-1)
    log_f = jax.nn.log_sigmoid(f)
    new_m = jnp.maximum(log_f + m, i)
    i, f = jnp.exp(i - new_m), jnp.exp(log_f + m - new_m)
    c, n = f * c + i * jnp.tanh(z), f * n + i
    return c, n, new_m, jax.nn.sigmoid(o) * c / n


def _two_part(params: Any, carry: Any, xw: Array, rh: Array) -> Any:
    velocity, h = carry
    velocity = 0.9 * velocity + 0.1 * (jnp.tanh(xw + rh) - h)
    return velocity, h + velocity


def _second_product(params: Any, h: Array, xw: Array, rh: Array) -> Array:
    return jnp.tanh(xw + jax.nn.relu(rh) @ params["second_kernel"])


EQUATIONS: dict[str, Any] = {
    "LeakyCell": _leaky,
    "MinimalGatedCell": _minimal_gated,
    "LayerNormCell": _layer_norm,
    "OwnLSTMCell": _own_lstm,
    "PeepholeCell": _peephole,
    "ExponentialGateCell": _exponential_gate,
    "TwoPartCell": _two_part,
    "SecondProductCell": _second_product,
}
"""The new carry from the parameters, the carry, and what inputs and h contribute, ``[batch, gates * hidden]``."""


def scan_by_hand(name: str, params: Any, inputs: Array, h: Any, *, hoisted: bool) -> tuple[Any, Array]:
    """The whole layer: the last carry, and the outputs ``[batch, time, hidden]``.

    Args:
      params: a pure dict of the parameters of the cell.
      inputs: ``[batch, time, in_features]``.
      h: the carry before the first step: parts ``[batch, hidden]``, of which the last is the hidden state.
      hoisted: take the input projection of all steps before the scan, as a careful author would; or within each
        step, as ``flax.nnx.RNN`` does with any cell.
    """

    def project(x: Array) -> Array:
        return x @ params["kernel"] + params.get("bias", 0)

    def step(h: Any, x: Array) -> tuple[Any, Array]:
        rh = jax.tree.leaves(h)[-1] @ params["recurrent_kernel"]
        h = EQUATIONS[name](params, h, x if hoisted else project(x), rh)
        return h, jax.tree.leaves(h)[-1]

    sequence = inputs.swapaxes(0, 1)
    h, outputs = lax.scan(step, h, project(sequence) if hoisted else sequence)
    return h, outputs.swapaxes(0, 1)


def by_hand(cell: Any, inputs: Any, *, hoisted: bool, time_major: bool = False) -> Contestant:
    """The layer of a cell, from a zero carry."""
    name, params = type(cell).__name__, nnx.to_pure_dict(nnx.state(cell, nnx.Param))
    first = cell.initialize_carry((inputs[0] if time_major else inputs[:, 0]).shape)
    first = jax.tree.map(lambda a: a.astype(inputs.dtype), first)

    def apply(params: Any, x: Any) -> Any:
        rows = x.swapaxes(0, 1) if time_major else x
        outputs = scan_by_hand(name, params, rows, first, hoisted=hoisted)[1]
        return outputs.swapaxes(0, 1) if time_major else outputs

    return layer_in_jax(apply, params, inputs)
