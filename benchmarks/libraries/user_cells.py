"""Cells of your own, those that the documentation shows and others, and the loop that one would write by hand.

The documentation's are read from the page that shows them, so that what is timed and tested is what is shown.
"""

import doctest
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

import jaxrnn
from benchmarks.libraries.base import Contestant, layer_in_jax

PAGE = Path(__file__).parents[2] / "jaxrnn" / "README.md"

Cells = Mapping[str, type[jaxrnn.RecurrentCell]]


@functools.cache
def readme_cells() -> Cells:
    """Name to class of every cell that the page defines below its heading."""
    before, section = PAGE.read_text().split("\n### A cell of your own\n")
    section = section.partition("\n### ")[0]
    parser = doctest.DocTestParser()
    imports = [example for example in parser.get_examples(before) if "import" in example.source]
    classes = [example for example in parser.get_examples(section) if example.source.startswith("class ")]
    names: dict[str, Any] = {"__name__": "README"}
    for example in [*imports, *classes]:
        exec(compile(example.source, str(PAGE), "exec"), names)
    return {name: value for name, value in names.items() if isinstance(value, type)}


def _normal(rngs: nnx.Rngs, *shape: int) -> Any:
    return nnx.Param(shape[0] ** -0.5 * jax.random.normal(rngs.params(), shape))


class OwnLSTMCell(jaxrnn.RecurrentCell):
    """The LSTM, written as a cell of one's own; gates i f g o."""

    num_gates = 4

    def carry_like(self, h):
        return jaxrnn.LSTMCarry(h, h)

    def pointwise(self, carry, xw, rh):
        i, f, o = (jax.nn.sigmoid(xw[gate] + rh[gate]) for gate in (0, 1, 3))
        c = f * carry.c + i * jnp.tanh(xw[2] + rh[2])
        h = o * jnp.tanh(c)
        return jaxrnn.LSTMCarry(c, h), h


class PeepholeCell(jaxrnn.RecurrentCell):
    """The LSTM whose gates see the cell state; gates i f g o.

    Source: Gers, Schraudolph, Schmidhuber (2002), jmlr.org/papers/v3/gers02a.html.
    """

    num_gates = 4

    def __init__(self, in_features, hidden_features, *, rngs, **options):
        super().__init__(in_features, hidden_features, rngs=rngs, **options)
        self.input_peephole, self.forget_peephole, self.output_peephole = (
            _normal(rngs, hidden_features) for _ in range(3)
        )

    def carry_like(self, h):
        return h, h

    def pointwise(self, carry, xw, rh):
        c, h = carry
        i = jax.nn.sigmoid(xw[0] + rh[0] + self.input_peephole[...] * c)
        f = jax.nn.sigmoid(xw[1] + rh[1] + self.forget_peephole[...] * c)
        c = f * c + i * jnp.tanh(xw[2] + rh[2])
        h = jax.nn.sigmoid(xw[3] + rh[3] + self.output_peephole[...] * c) * jnp.tanh(c)
        return (c, h), h


class ExponentialGateCell(jaxrnn.RecurrentCell):
    """The sLSTM: exponential gates with a stabiliser m; gates i f z o.

    Source: Beck et al. (2024), arXiv:2405.04517, equations 8 to 18.
    """

    num_gates = 4

    def carry_like(self, h):
        return h, h, h, h

    def pointwise(self, carry, xw, rh):
        c, n, m, h = carry
        i, f, z, o = (x + r for x, r in zip(xw, rh))
        log_f = jax.nn.log_sigmoid(f)
        new_m = jnp.maximum(log_f + m, i)
        i, f = jnp.exp(i - new_m), jnp.exp(log_f + m - new_m)
        c, n = f * c + i * jnp.tanh(z), f * n + i
        h = jax.nn.sigmoid(o) * c / n
        return (c, n, new_m, h), h


class TwoPartCell(jaxrnn.RecurrentCell):
    """A damped oscillator for every unit: a position h, which the loop sees, and a velocity."""

    def carry_like(self, h):
        return h, h

    def pointwise(self, carry, xw, rh):
        velocity, h = carry
        velocity = 0.9 * velocity + 0.1 * (jnp.tanh(xw[0] + rh[0]) - h)
        h = h + velocity
        return (velocity, h), h


class SecondProductCell(jaxrnn.RecurrentCell):
    """A matrix product of its own within the step, which keeps the cell on the scan."""

    def __init__(self, in_features, hidden_features, *, rngs, **options):
        super().__init__(in_features, hidden_features, rngs=rngs, **options)
        self.second_kernel = _normal(rngs, hidden_features, hidden_features)

    def pointwise(self, h, xw, rh):
        h = jnp.tanh(xw[0] + jax.nn.relu(rh[0]) @ self.second_kernel[...])
        return h, h


CELLS: Cells = {
    cell.__name__: cell
    for cell in (OwnLSTMCell, PeepholeCell, ExponentialGateCell, TwoPartCell, SecondProductCell)
}

BUILT_IN: Cells = {"OwnLSTMCell": jaxrnn.LSTMCell, "LeakyCell": jaxrnn.LeakyCell}
"""The built-in cells with the same parameters."""


def scan_by_hand(cell: Any, inputs: Array, h: Any, *, hoisted: bool) -> tuple[Any, Array]:
    """The equations of a cell over inputs ``[batch, time, in_features]``, as one scans them without this library,
    for JAX to differentiate: the last carry, and the outputs ``[batch, time, hidden]``.

    Args:
      h: the carry before the first step: parts ``[batch, hidden]``, of which the last is the hidden state.
      hoisted: take the input projection of all steps before the scan, as a careful author would; or within each
        step, as ``flax.nnx.RNN`` does with any cell.
    """

    def project(x: Array) -> Array:
        return x @ cell.kernel[...] + (0 if cell.bias is None else cell.bias[...])

    def step(h: Any, x: Array) -> tuple[Any, Array]:
        rh = jax.tree.leaves(h)[-1] @ cell.recurrent_kernel[...]
        xw, rh = (jnp.split(a, cell.num_gates, axis=-1) for a in (x if hoisted else project(x), rh))
        return cell.pointwise(h, xw, rh)

    sequence = inputs.swapaxes(0, 1)
    h, outputs = lax.scan(step, h, project(sequence) if hoisted else sequence)
    return h, outputs.swapaxes(0, 1)


def by_hand(cell: Any, inputs: Any, *, hoisted: bool, time_major: bool = False) -> Contestant:
    """A layer that is scanned by hand, from a zero carry."""
    graphdef, params = nnx.split(cell)
    first = cell.initialize_carry((inputs[0] if time_major else inputs[:, 0]).shape)
    first = jax.tree.map(lambda a: a.astype(inputs.dtype), first)

    def apply(params: Any, x: Any) -> Any:
        rows = x.swapaxes(0, 1) if time_major else x
        outputs = scan_by_hand(nnx.merge(graphdef, params), rows, first, hoisted=hoisted)[1]
        return outputs.swapaxes(0, 1) if time_major else outputs

    return layer_in_jax(apply, params, inputs)
