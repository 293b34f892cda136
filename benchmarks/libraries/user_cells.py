"""Cells of your own: those that the documentation shows, and others.

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

import jaxrnn

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
