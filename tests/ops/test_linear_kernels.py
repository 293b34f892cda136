"""The kernels of a linear recurrence for GPUs and TPUs equal the scan, interpreted on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops.linear import kernel
from jaxrnn.ops.linear.arrays import LinearArrays
from jaxrnn.ops.linear.loops import loop_recurrence, scan
from tests.ops.linear_oracle import assert_close, problem


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", ["gpu_loop", "tpu_loop"])
def test_interpreted_kernels_equal_the_scan(name, monkeypatch):
    """With one chunk or block of time and with several, fewer channels than a program has and more; then with a
    reset after an infinite state."""
    monkeypatch.setattr(kernel, "LEAST_STEPS", 20)
    monkeypatch.setattr(kernel, "TPU_STEPS", 16)

    def interpreted(*arguments):
        return getattr(kernel, name)(*arguments, interpret=True)

    for time, rows, channels, a_shape, reverse in [(5, 1, 3, None, True), (50, 3, 70, (1, 3, 70), False)]:
        p = problem(time, (rows,), channels, "float64", a_shape=a_shape, masks=False)
        p = p._replace(a=np.tanh(p.a))

        @functools.partial(jax.jit, static_argnums=0)
        def run(loop, x, dstates, reverse=reverse):
            def states(x):
                return loop_recurrence(loop, x, reverse=reverse, batch_major=False)

            found, pullback = jax.vjp(states, x)
            return jnp.where(jnp.isfinite(found), found, 0), pullback(dstates)[0][:4]

        x = LinearArrays(*map(jnp.asarray, p[:3]))
        assert_close(run(interpreted, x, p.dstates), run(scan, x, p.dstates))
    resets = jnp.zeros((time, rows), bool).at[1].set(True)
    x = x._replace(b=x.b.at[0].set(jnp.inf), resets=resets, reset_state=jnp.asarray(p.reset_state))
    assert_close(run(interpreted, x, p.dstates), run(scan, x, p.dstates))
