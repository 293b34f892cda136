"""The scan's hand-written backward pass: what it saves of every step, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import recurrence
from jaxrnn.ops.scan import _keeps_what_it_needs
from tests.ops.oracle import CASES, assert_close, problem


@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, lambda f: jax.jit(jax.vmap(f))], ids=["plain", "jit", "vmap"]
)
def test_a_derivative_of_its_own_is_found_within_other_calls(wrap):
    @jax.custom_vjp
    def own(x):
        return x

    own.defvjp(lambda x: (x, None), lambda _, dy: (dy,))
    assert _keeps_what_it_needs(jax.make_jaxpr(wrap(own))(jnp.ones(2)).jaxpr)
    branch = jax.make_jaxpr(lambda x: jax.lax.cond(x[0] > 0, wrap(own), jnp.sin, x))(jnp.ones(2))
    assert _keeps_what_it_needs(branch.jaxpr)

    def custom_vjp_in_name_only(x):
        return jnp.sin(x)

    assert not _keeps_what_it_needs(jax.make_jaxpr(jax.jit(custom_vjp_in_name_only))(jnp.ones(2)).jaxpr)


def test_a_carry_may_be_narrower_than_the_kernel():
    arguments = jax.tree.map(jnp.asarray, problem(CASES[0], 3, (2,))[0])
    arguments["initial_carry"] = arguments["initial_carry"].astype(jnp.float32)

    def total(arguments, implementation):
        return recurrence(CASES[0].pointwise, **arguments, implementation=implementation)[1].sum()

    found, expected = (jax.grad(total)(arguments, name) for name in ("scan", "reference"))
    assert_close(found, expected, 1e-6)


def test_forward_mode_is_refused_by_name():
    arguments, _ = problem(CASES[0], 2)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(
            lambda xw: recurrence(CASES[0].pointwise, **arguments | {"xw": xw}, implementation="scan")[1],
            (jnp.asarray(arguments["xw"]),),
            (jnp.ones_like(arguments["xw"]),),
        )


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_of_every_step_only_the_output_is_saved(name):
    case = next(case for case in CASES if case.name == name)
    arguments = jax.tree.map(jnp.asarray, problem(case, 5, (4,))[0])
    (_, outputs), pullback = jax.vjp(
        lambda arguments: recurrence(case.pointwise, **arguments, implementation="scan"), arguments
    )
    stacked = [leaf for leaf in jax.tree.leaves(pullback) if leaf.shape[:1] == (5,)]
    # xw is the caller's, and there anyway.
    own = [leaf for leaf in stacked if not jnp.array_equal(leaf, arguments["xw"])]
    assert len(own) == 1
    np.testing.assert_array_equal(own[0], outputs)


def test_cheap_calls_and_the_derivative_of_tanh_are_computed_again():
    def second_product(kernel, h, xw, rh):
        h = jnp.tanh(xw[0] + jax.nn.relu(rh[0]) @ kernel)
        return h, h

    def run(kernels):
        arrays = kernels[0], jnp.full((5, 4, 3), 0.3), jnp.zeros((4, 3))
        return recurrence(second_product, *arrays, params=kernels[1], implementation="scan")[1]

    outputs, pullback = jax.vjp(run, (jnp.eye(3), 0.5 * jnp.eye(3)))
    stacked = [leaf for leaf in jax.tree.leaves(pullback) if leaf.shape == (5, 4, 3)]
    incoming = jnp.concatenate([jnp.zeros((1, 4, 3)), outputs[:-1]])
    assert len(stacked) == 2  # the output, and the recurrent product, here of the identity
    assert any(jnp.array_equal(leaf, outputs) for leaf in stacked)
    assert any(jnp.array_equal(leaf, incoming) for leaf in stacked)
