"""Gradients through a maximum go to the argument that equals it, also where the backward loop computes it again.

Computed again by other instructions, an argument may differ from the maximum in the last bit. None would get the
gradient then, without a word.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import nn

from jaxrnn.ops import recurrence
from jaxrnn.ops.native import library
from jaxrnn.ops.scan import _keeps_what_it_needs
from tests.ops.oracle import Case, assert_close, problem


def product(xw, rh):
    return nn.sigmoid(xw[0] + rh[0]) * jnp.tanh(xw[1] + rh[1])


def over_units(params, h, xw, rh):
    h = 0.5 * h + product(xw, rh)
    return h, h + h.max(-1, keepdims=True)


def as_output(params, h, xw, rh):
    p = product(xw, rh)
    return jnp.tanh(p), jnp.maximum(0.5 * h + p, 0.2 * h)


def least_of_a_row(params, h, xw, rh):
    p = product(xw, rh)
    least = (0.5 * h + p).min(-1, keepdims=True)
    return jnp.tanh(p), jnp.broadcast_to(least, p.shape) * jnp.cos(p)


def joined(params, carry, xw, rh):
    """The library has no program for joins of units, so this stays on the scan."""
    a, h = carry
    a = 0.5 * a + product(xw, rh)
    return (a, jnp.concatenate([jnp.tanh(a[:, 1:]), h[:, :1]], -1)), a.max(-1, keepdims=True) * h


# Whether an argument is rounded in another way depends on how XLA fuses operations, so it must do that here.
FUSED = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else {}


@pytest.fixture(autouse=True)
def all_optimizations():
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)  # as tests/conftest.py has it


@pytest.mark.parametrize(
    ("pointwise", "parts", "implementation", "derivatives"),
    [
        (over_units, 1, "scan", 1),
        (over_units, 1, "native", 2),  # the second one is always that of the scan
        (as_output, 1, "native", 1),
        (least_of_a_row, 1, "scan", 1),
        (joined, 2, "scan", 1),
    ],
)
def test_derivatives_are_those_of_plain_autodiff(pointwise, parts, implementation, derivatives):
    if implementation == "native" and library.why_not_loaded() is not None:
        pytest.skip(str(library.why_not_loaded()))
    carry = lambda part: tuple(part() for _ in range(parts)) if parts > 1 else part()  # noqa: E731
    case = Case("a cell", pointwise, gates=2, carry=carry)
    arguments, weights = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), problem(case, 6, (8,), hidden=5))

    def derivative(implementation: str) -> Any:
        def function(arguments):
            results = recurrence(case.pointwise, **arguments, implementation=implementation)
            leaves = zip(jax.tree.leaves(results), jax.tree.leaves(weights), strict=True)
            return sum((a * a * b).sum() for a, b in leaves)

        def of_gradient(arguments):
            return sum((d**2).sum() for d in jax.tree.leaves(jax.grad(function)(arguments)))

        once_or_twice = jax.grad(function if derivatives == 1 else of_gradient)
        return jax.jit(once_or_twice, compiler_options=FUSED)(arguments)

    expected = derivative("reference")
    assert np.abs(np.asarray(expected["xw"])).max() > 0.1
    assert_close(derivative(implementation), expected, 1e-4)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_a_softmax_has_no_maximum_in_its_derivative(wrap):
    def keeps(function):
        return _keeps_what_it_needs(jax.make_jaxpr(wrap(function))(jnp.ones((2, 3))).jaxpr)

    assert keeps(lambda x: x - x.max(-1, keepdims=True)) and keeps(lambda x: nn.softmax(x) * x.min())
    assert not any(map(keeps, (nn.softmax, nn.log_softmax, nn.logsumexp)))
