"""Resets as in recurrent reinforcement learning: to zeros, in a sequence that began with another carry."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn

ROWS, TIME, FEATURES, HIDDEN = 3, 6, 2, 4
RANDOM = np.random.RandomState(0)
X = RANDOM.randn(ROWS, TIME, FEATURES)
WEIGHTS = RANDOM.randn(ROWS, TIME, HIDDEN)
FIRST_OF_EPISODE = np.zeros((ROWS, TIME), bool)
FIRST_OF_EPISODE[0, [0, 4]] = FIRST_OF_EPISODE[1, 2:4] = True  # row 2 goes on without a reset
ROLLOUT = tuple({name: RANDOM.randn(ROWS, HIDDEN) for name in "ch"} for _ in range(2))


def layers(**options: Any) -> Any:
    return jaxrnn.LSTM(FEATURES, HIDDEN, num_layers=2, return_carry=True, rngs=nnx.Rngs(0), **options)


def carry_of(rows: Any = ROLLOUT) -> Any:
    return tuple(
        jaxrnn.LSTMCarry(**{name: jnp.asarray(part, jnp.float32) for name, part in c.items()}) for c in rows
    )


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def loop(cells: Any, first: Any, after_reset: Any):
    """In float64: where an episode begins, the carry becomes ``after_reset`` before the step."""
    outputs = X
    last = []
    for number, cell in enumerate(cells):
        kernel, recurrent, bias = (
            np.asarray(p[...], np.float64) for p in (cell.kernel, cell.recurrent_kernel, cell.bias)
        )
        below, outputs = outputs, np.zeros((ROWS, TIME, HIDDEN))
        c, h = (np.array(first[number][name]) for name in "ch")
        for t in range(TIME):
            for row in range(ROWS):
                if FIRST_OF_EPISODE[row, t]:
                    c[row], h[row] = (after_reset[number][name][row] for name in "ch")
            i, f, g, o = np.split(below[:, t] @ kernel + h @ recurrent + bias, 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = outputs[:, t] = sigmoid(o) * np.tanh(c)
        last.append({"c": c, "h": h})
    return last, outputs


ZEROS = tuple({name: np.zeros((ROWS, HIDDEN)) for name in "ch"} for _ in range(2))
OTHER = tuple({name: RANDOM.randn(ROWS, HIDDEN) for name in "ch"} for _ in range(2))


@pytest.mark.parametrize("implementation", ["scan", "native", "reference"])
def test_resets_equal_a_loop_over_episodes(implementation):
    model = layers(implementation=implementation)
    for reset_carry, after_reset in (("zeros", ZEROS), (carry_of(OTHER), OTHER), (None, ROLLOUT)):
        carry, outputs = model(
            jnp.asarray(X, jnp.float32),
            initial_carry=carry_of(),
            resets=jnp.asarray(FIRST_OF_EPISODE),
            reset_carry=reset_carry,
        )
        wanted_carry, wanted = loop(model.cells, ROLLOUT, after_reset)
        np.testing.assert_allclose(outputs, wanted, atol=2e-6)
        for found, expected in zip(carry, wanted_carry, strict=True):
            np.testing.assert_allclose(found.c, expected["c"], atol=2e-6)
            np.testing.assert_allclose(found.h, expected["h"], atol=2e-6)


def stepwise(model: Any, step: Any, first: Any) -> Any:
    """What an agent does: forget where an episode begins, then take one step."""
    carry, outputs = first, []
    for t in range(TIME):
        begins = jnp.asarray(FIRST_OF_EPISODE[:, t, None])
        carry = jax.tree.map(lambda c, begins=begins: jnp.where(begins, 0, c), carry)
        carry, output = step(carry, jnp.asarray(X[:, t], jnp.float32))
        outputs.append(output)
    return carry, jnp.stack([jnp.asarray(output) for output in outputs], axis=1)


@pytest.mark.parametrize("implementation", ["jax", "native"])
def test_one_step_streaming_and_a_sequence_agree(implementation):
    model = layers()
    step, _ = jaxrnn.streaming_step(model, jnp.zeros((ROWS, FEATURES)), implementation=implementation)
    found = stepwise(model, step, carry_of())
    expected = model(
        jnp.asarray(X, jnp.float32),
        initial_carry=carry_of(),
        resets=jnp.asarray(FIRST_OF_EPISODE),
        reset_carry="zeros",
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("implementation", ["scan", "native"])
def test_gradients_equal_those_of_a_loop_over_steps(implementation):
    def by_sequence(model, first):
        outputs = model(
            jnp.asarray(X, jnp.float32),
            initial_carry=first,
            resets=jnp.asarray(FIRST_OF_EPISODE),
            reset_carry="zeros",
            return_carry=False,
        )
        return (outputs * WEIGHTS).sum()

    def by_steps(model, first):
        def step(carry, x):
            below, new = x, []
            for cell, part in zip(model.cells, carry, strict=True):
                part, below = cell(part, below)
                new.append(part)
            return tuple(new), below

        return (stepwise(model, step, first)[1] * WEIGHTS).sum()

    model = layers(implementation=implementation)
    found = nnx.grad(by_sequence, argnums=(0, 1))(model, carry_of())
    expected = nnx.grad(by_steps, argnums=(0, 1))(model, carry_of())
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
    assert not found[1][0].h[0].any()  # row 0 is reset before its first step
    assert found[1][0].h[2].all()


@pytest.mark.parametrize(
    "make",
    [
        lambda rngs: jaxrnn.GRUCell(FEATURES, HIDDEN, rngs=rngs),
        lambda rngs: nnx.GRUCell(FEATURES, HIDDEN, rngs=rngs),  # on the engine
        lambda rngs: nnx.GRUCell(FEATURES, HIDDEN, activation_fn=jnp.sin, rngs=rngs),  # in a plain scan
    ],
    ids=["ours", "translated", "scanned"],
)
def test_both_directions_of_any_cell_return_to_their_own_reset_carry(make):
    rngs = nnx.Rngs(0)
    x, resets = jnp.asarray(X, jnp.float32), jnp.zeros((ROWS, TIME), bool).at[:, 3].set(True)
    forward, backward = jaxrnn.RNN(make(rngs)), jaxrnn.RNN(make(rngs))
    layer = jaxrnn.Bidirectional(forward, backward)
    first, other = jnp.full((ROWS, HIDDEN), 0.5), jnp.full((ROWS, HIDDEN), -0.25)
    for reset_carry, parts in (("zeros", (0 * first, 0 * first)), ((other, first), (other, first))):
        found = layer(x, initial_carry=(first, first), resets=resets, reset_carry=reset_carry)
        # Forward, the reset comes before step 3; backward, steps 5 and 4 come before it.
        ahead = jnp.concatenate(
            [forward(x[:, :3], initial_carry=first), forward(x[:, 3:], initial_carry=parts[0])], axis=1
        )
        back = [backward(x[:, part], initial_carry=carry, reverse=True, keep_order=True)
                for part, carry in ((slice(4), parts[1]), (slice(4, None), first))]  # fmt: skip
        np.testing.assert_allclose(found, jnp.concatenate([ahead, jnp.concatenate(back, 1)], -1), atol=1e-6)


def test_rematerialised_blocks_reset_in_the_same_way():
    for options in ({}, {"remat_every": 2}):
        outputs = layers(**options)(
            jnp.asarray(X, jnp.float32),
            initial_carry=carry_of(),
            resets=jnp.asarray(FIRST_OF_EPISODE),
            reset_carry="zeros",
        )[1]
        np.testing.assert_allclose(outputs, loop(layers().cells, ROLLOUT, ZEROS)[1], atol=2e-6)


@pytest.mark.parametrize(
    ("reset_carry", "message"),
    [
        ("zero", "reset_carry must be a carry, \"zeros\" or None for initial_carry, not 'zero'"),
        ((jnp.zeros((ROWS, HIDDEN)),) * 2, "reset_carry has the structure PyTreeDef(*), but must have that"),
        (carry_of()[:1], "reset_carry must be a tuple of 2 carries, not 1"),
        (jax.tree.map(lambda c: c[:1], carry_of()), "reset_carry.c has the shape (1, 4), but must have that of"),
    ],
)
def test_a_reset_carry_that_does_not_fit_is_refused_with_its_value(reset_carry, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        layers()(jnp.asarray(X, jnp.float32), resets=jnp.asarray(FIRST_OF_EPISODE), reset_carry=reset_carry)
