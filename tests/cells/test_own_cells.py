"""Cells of one's own: whatever they are made of, layers and single steps run the equations that they show."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn

X: Any = np.random.RandomState(0).randn(2, 6, 3).astype(np.float32)


class Halving:
    """Equations of a mixin, for any cell whose carry is an LSTM's."""

    def pointwise(self, carry, xw, rh):
        h = 0.5 * carry.h + 0.5 * jnp.tanh(xw[0] + rh[0])
        return jaxrnn.LSTMCarry(carry.c, h), -h


class ByMixin(Halving, jaxrnn.LSTMCell):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


class InItsBody(jaxrnn.LSTMCell):
    pointwise: Any = Halving.pointwise


class MixinBehind(jaxrnn.LSTMCell, Halving):  # pyright: ignore[reportIncompatibleMethodOverride]
    pass


class OfASubclass(ByMixin):
    pass


def steps(cell: Any, x: Any = X) -> Any:
    carry, outputs = cell.initialize_carry(x[:, 0].shape), []
    for t in range(x.shape[1]):
        carry, y = cell(carry, x[:, t])
        outputs.append(y)
    return jnp.stack(outputs, axis=1)


@pytest.mark.parametrize(
    ("kind", "like"), [(ByMixin, InItsBody), (OfASubclass, InItsBody), (MixinBehind, jaxrnn.LSTMCell)]
)
def test_the_equations_are_those_that_python_finds_first(kind, like):
    cell, expected = (one(3, 4, rngs=nnx.Rngs(0)) for one in (kind, like))
    assert cell.output_is_hidden_state == expected.output_is_hidden_state
    np.testing.assert_array_equal(jaxrnn.RNN(cell)(X), jaxrnn.RNN(expected)(X))
    np.testing.assert_array_equal(steps(cell), steps(expected))


@dataclasses.dataclass
class Options:
    share: float


class Scaled(jaxrnn.RecurrentCell):
    def __init__(self, *sizes: int, options: Any, rngs: nnx.Rngs):
        super().__init__(*sizes, rngs=rngs)
        self.options = options

    def pointwise(self, carry, xw, rh):
        options = self.options
        while isinstance(options, (list, tuple)):
            options = options[0]
        share = options["share"] if isinstance(options, dict) else options.share
        h = share * jnp.tanh(xw[0] + rh[0])
        return h, h


@pytest.mark.parametrize(
    "make",
    [
        lambda share: {"share": share},
        lambda share: ([{"share": share}],),
        Options,
        lambda share: SimpleNamespace(share=share),
    ],
    ids=["dict", "nested", "dataclass", "namespace"],
)
def test_a_program_is_not_found_for_options_that_it_was_not_made_with(make):
    options = make(0.9)
    first = Scaled(3, 4, options=options, rngs=nnx.Rngs(0))
    before = jaxrnn.RNN(first)(X)
    equations = first.pure_pointwise()[0]
    assert first.pure_pointwise()[0] == equations  # so that the program is found for what has not changed
    inner = options
    while isinstance(inner, (list, tuple)):
        inner = inner[0]
    inner.update(share=0.1) if isinstance(inner, dict) else setattr(inner, "share", 0.1)
    assert first.pure_pointwise()[0] != equations
    for cell in (Scaled(3, 4, options=make(0.1), rngs=nnx.Rngs(0)), first):
        outputs = jaxrnn.RNN(cell)(X)
        np.testing.assert_allclose(outputs, steps(cell), atol=1e-6)
        assert not np.allclose(outputs, before)


@pytest.mark.parametrize("kind", [jaxrnn.LSTMCell, jaxrnn.SLSTMCell])
def test_an_initial_carry_can_be_donated(kind):
    cell = kind(3, 4, rngs=nnx.Rngs(0))
    step = jax.jit(lambda carry, x: cell(carry, x), donate_argnums=0)
    _, y = step(cell.initialize_carry((2, 3)), X[:, 0])
    np.testing.assert_allclose(y, cell(cell.initialize_carry((2, 3)), X[:, 0])[1], atol=1e-6)


@pytest.mark.parametrize(
    "read",
    [
        lambda cell, h: h @ cell.recurrent_kernel,
        lambda cell, h: cell.recurrent_kernel @ h,
        lambda cell, h: h @ cell.recurrent_kernel.get_value(),
        lambda cell, h: h @ cell.recurrent_kernel.T,
        lambda cell, h: h + cell.bias,
        lambda cell, h: h / cell.bias.sum(),
        lambda cell, h: h @ jnp.asarray(cell.recurrent_kernel),
    ],
)
def test_reading_a_kernel_in_the_equations_is_explained(read):
    class Reading(jaxrnn.RecurrentCell):
        def pointwise(self, carry, xw, rh):
            h = jnp.tanh(xw[0] + read(self, carry))
            return h, h

    with pytest.raises(ValueError, match=r"pointwise reads a parameter \(4.*have already been applied"):
        jaxrnn.RNN(Reading(3, 4, rngs=nnx.Rngs(0)))(X)


class AsInFlax(jaxrnn.RecurrentCell):
    """A cell with an initialize_carry, as Flax's cells have it, and no carry_like; a part is narrower than h."""

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        batch = input_shape[:-1]
        return jnp.ones((*batch, 2), jnp.float16), jnp.zeros((*batch, self.hidden_features))

    def pointwise(self, carry, xw, rh):
        h = jnp.tanh(xw[0] + rh[0] + carry[0].sum(-1, keepdims=True))
        return (carry[0] / 2, h), h


@pytest.mark.parametrize("dtype", [None, jnp.float32])
def test_initialize_carry_alone_is_enough(dtype):
    cell = AsInFlax(3, 4, dtype=dtype, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(jaxrnn.RNN(cell)(X), steps(cell), atol=1e-6)


class StartingAnywhere(jaxrnn.RecurrentCell):
    def __init__(self, *sizes: int, rngs: nnx.Rngs):
        super().__init__(*sizes, rngs=rngs)
        self.rngs = rngs.fork()

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return jax.random.normal(self.rngs.params(), (*input_shape[:-1], self.hidden_features))

    def pointwise(self, carry, xw, rh):
        h = jnp.tanh(xw[0] + rh[0])
        return h, h


def test_a_cell_that_draws_its_carry_from_a_stream_of_its_own_takes_one_that_is_given():
    cell = StartingAnywhere(3, 4, rngs=nnx.Rngs(0))
    carry: Any = jnp.ones((2, 4))
    _, y = cell(carry, X[:, 0])
    np.testing.assert_allclose(jaxrnn.RNN(cell)(X, initial_carry=carry)[:, 0], y, atol=1e-6)
    assert cell.rngs.params.count[...] == 0
