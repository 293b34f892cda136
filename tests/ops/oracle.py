"""What the engine is held against: the cells under test, random problems, and a Python loop over time.

The loop knows nothing of ``lax.scan``, of the engine's step or of its backward pass: JAX differentiates
it operation by operation. A cell joins the conformance suite with one line in ``CASES``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.ops import (
    LSTMCarry,
    Pointwise,
    Projection,
    SLSTMCarry,
    gru_pointwise,
    gru_reset_before_pointwise,
    leaky_pointwise,
    lstm_pointwise,
    simple_rnn_pointwise,
    slstm_pointwise,
)


@dataclass(frozen=True)
class Case:
    """A cell under test.

    Attributes:
      name: in the names of the tests.
      pointwise: what the engine runs.
      gates: how many blocks xw has.
      recurrent_gates: how many blocks rh has, where that is another number.
      carry: makes a carry of parts ``[*batch, hidden]``; the last one is h.
      params: makes what the pointwise function has of its own, from a random state and the hidden size.
      recurrent_bias: whether the cell has one.
      equations: what the loop runs instead of ``pointwise``, where that has a derivative of its own making.
    """

    name: str
    pointwise: Pointwise
    gates: int = 1
    recurrent_gates: int | None = None
    carry: Callable[[Callable[[], Any]], Any] = lambda part: part()
    params: Callable[[np.random.RandomState, int], Any] = lambda random, hidden: ()
    recurrent_bias: bool = False
    equations: Pointwise | None = None

    def __str__(self) -> str:
        return self.name


def elman(activation) -> Pointwise:
    def equations(params, carry, xw, rh):
        h = activation(xw[0] + rh[0])
        return h, h

    return equations


def leaky(params, carry, xw, rh):
    leak = 1 / (1 + jnp.exp(-params))
    h = (1 - leak) * carry + leak * jnp.tanh(xw[0] + rh[0])
    return h, h


def two_part(params, carry, xw, rh):
    # The output is neither part of the carry, so that nothing can be mistaken for it.
    v, h = carry
    v = 0.9 * v + xw[0] * h + rh[0]
    h = jnp.tanh(v)
    return (v, h), h + jnp.sin(v)


def minimal_gated_unit(params, carry, xw, rh):
    forget = jax.nn.sigmoid(xw[0] + rh[0])
    h = (1 - forget) * jnp.tanh(xw[1] + forget * rh[1]) + forget * carry
    return h, h


def lstm(params, carry, xw, rh):
    i, f, g, o = (a + b for a, b in zip(xw, rh))
    c = jax.nn.sigmoid(f) * carry.c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return LSTMCarry(c, h), h


def gru(params, carry, xw, rh):
    r, z = jax.nn.sigmoid(xw[0] + rh[0]), jax.nn.sigmoid(xw[1] + rh[1])
    h = (1 - z) * jnp.tanh(xw[2] + r * rh[2]) + z * carry
    return h, h


def gru_reset_before(params, carry, xw, rh):
    r, z = jax.nn.sigmoid(xw[0] + rh[0]), jax.nn.sigmoid(xw[1] + rh[1])
    h = (1 - z) * jnp.tanh(xw[2] + (r * carry) @ params) + z * carry
    return h, h


def slstm(params, carry, xw, rh):
    # Without a stabiliser: exp(m) is back in c and n. It overflows soon, but these numbers are small.
    i, f, z, o = (a + b for a, b in zip(xw, rh))
    old_c, old_n = carry.c * jnp.exp(carry.m), carry.n * jnp.exp(carry.m)
    c = old_c / (1 + jnp.exp(-f)) + jnp.exp(i) * jnp.tanh(z)
    n = old_n / (1 + jnp.exp(-f)) + jnp.exp(i)
    m = jnp.where(carry.n == 0, i, jnp.maximum(i, carry.m - jnp.logaddexp(0.0, -f)))
    h = c / n / (1 + jnp.exp(-o))
    return SLSTMCarry(c * jnp.exp(-m), n * jnp.exp(-m), m, h), h


def positive(part: Any) -> Any:
    """Numbers above 1; shapes stay as they are."""
    return part if isinstance(part, jax.ShapeDtypeStruct) else 1 + abs(part)


CASES = [
    Case("tanh", simple_rnn_pointwise(jnp.tanh), equations=elman(jnp.tanh)),
    Case("relu", simple_rnn_pointwise(jax.nn.relu), equations=elman(lambda z: jnp.maximum(z, 0))),
    Case("gelu", simple_rnn_pointwise(jax.nn.gelu), equations=elman(jax.nn.gelu)),
    Case("leaky", leaky_pointwise, params=lambda random, hidden: random.randn(hidden), equations=leaky),
    Case("two_part", two_part, carry=lambda part: (part(), part())),
    Case("minimal_gated_unit", minimal_gated_unit, gates=2, recurrent_bias=True),
    Case("lstm", lstm_pointwise, gates=4, carry=lambda part: LSTMCarry(part(), part()), equations=lstm),
    Case("gru", gru_pointwise, gates=3, recurrent_bias=True, equations=gru),
    Case(
        "gru_reset_before",
        gru_reset_before_pointwise,
        gates=3,
        recurrent_gates=2,
        params=lambda random, hidden: random.randn(hidden, hidden),
        equations=gru_reset_before,
    ),
    Case(
        "slstm",
        slstm_pointwise(),
        gates=4,
        carry=lambda part: SLSTMCarry(part(), positive(part()), part(), part()),
        equations=slstm,
    ),
]


def problem(
    case: Case, time: int, batch: tuple[int, ...] = (), hidden: int = 3, seed: int = 0, *, optional: bool = False
):
    """Random float64 arguments of a recurrence, and random cotangents of its (carry, outputs).

    With ``optional``, xw is a projection that is not computed yet, and resets return to a carry of their own.
    """
    random = np.random.RandomState(seed)
    width = case.gates * hidden
    recurrent_width = (case.recurrent_gates or case.gates) * hidden

    def array(*shape: int) -> Any:
        return random.randn(*shape)

    def part():
        return array(*batch, hidden)

    arguments = {
        "params": case.params(random, hidden),
        "recurrent_kernel": 0.5 * random.randn(hidden, recurrent_width),
        "recurrent_bias": random.randn(recurrent_width) if case.recurrent_bias else None,
        "xw": random.randn(time, *batch, width),
        "initial_carry": case.carry(part),
    }
    if optional:
        arguments["xw"] = Projection(array(time, *batch, 2), array(2, width), array(width))
        arguments["reset_carry"] = case.carry(part)
    return arguments, (case.carry(part), random.randn(time, *batch, hidden))


def loop(
    case: Case,
    arguments: dict[str, Any],
    *,
    seq_lengths=None,
    resets=None,
    recurrent_scale=None,
    reverse: bool = False,
):
    """The recurrence, step after step: ``(carry, outputs)``."""
    equations = case.equations or case.pointwise
    kernel, bias, xw = (arguments[name] for name in ("recurrent_kernel", "recurrent_bias", "xw"))
    if isinstance(xw, Projection):
        xw = xw.inputs @ xw.kernel + (0 if xw.bias is None else xw.bias)
    reset_carry = arguments.get("reset_carry", arguments["initial_carry"])
    scale = 1 if recurrent_scale is None else recurrent_scale
    time, *batch, _ = xw.shape
    lengths = np.full(batch, time) if seq_lengths is None else np.asarray(seq_lengths)
    resets = np.zeros((time, *batch), bool) if resets is None else np.asarray(resets)
    carry, outputs = arguments["initial_carry"], [jnp.zeros(())] * time
    for t in reversed(range(time)) if reverse else range(time):
        valid = t < lengths
        carry = _rows(resets[t] & valid, reset_carry, carry)
        rh = (jax.tree.leaves(carry)[-1] * scale) @ kernel + (0 if bias is None else bias)
        new_carry, y = equations(arguments["params"], carry, *(_gates(block, kernel) for block in (xw[t], rh)))
        carry = _rows(valid, new_carry, carry)
        outputs[t] = _rows(valid, y, jnp.zeros_like(y))
    return carry, jnp.stack(outputs) if time else jnp.zeros((0, *batch, kernel.shape[0]))


def _gates(block, kernel):
    hidden = kernel.shape[0]
    return tuple(block[..., first : first + hidden] for first in range(0, block.shape[-1], hidden))


def _rows(condition: np.ndarray, yes, no):
    if condition.all() or not condition.any():
        return yes if condition.all() else no
    return jax.tree.map(lambda a, b: jnp.where(condition[..., None], a, b), yes, no)


def loop_and_gradients(case: Case, arguments, cotangents, **options):
    """``(carry, outputs)`` of the loop, and the gradient of every argument."""
    results, pullback = jax.vjp(lambda a: loop(case, a, **options), jax.tree.map(jnp.asarray, arguments))
    return results, pullback(jax.tree.map(jnp.asarray, cotangents))[0]


def assert_close(found, expected, tolerance: float = 1e-10) -> None:
    """Every array is right to ``tolerance``, relative to the largest number of the array."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape, jax.tree_util.keystr(path)
        scale = np.abs(b).max(initial=0)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * scale, err_msg=f"at {jax.tree_util.keystr(path)}"
        )


# Rounding units: 2^-9 and 2^-12. A gradient passes through twice as many rounded numbers as an output.
HALF_PRECISION = {
    # dtype of xw and kernel, of the carry: tolerance of results, of gradients
    ("bfloat16", "bfloat16"): (2e-2, 4e-2),
    ("float16", "float32"): (2e-3, 4e-3),
}


def cast(tree, dtype):
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), tree)
