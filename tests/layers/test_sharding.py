"""Batches spread over an Explicit mesh, JAX's default: the same numbers, and results as spread as the inputs.

JAX must be told of two devices before it does anything, so the comparisons run in a process of their own.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P

import jaxrnn
from tests.xla_flags import XLA_FLAGS

X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
MASKS = {"seq_lengths": np.array([6, 0, 3, 5]), "resets": np.random.default_rng(1).random((4, 6)) < 0.3}


class OtherGRUCell(nnx.GRUCell):
    """Nothing that the engine knows."""


def layers() -> dict[str, Any]:
    rngs = nnx.Rngs(0)
    alone = {
        make.__name__: jaxrnn.RNN(make(3, 4, rngs=rngs), return_carry=True)
        for make in (jaxrnn.LeakyCell, nnx.LSTMCell, OtherGRUCell, jaxrnn.LRUCell, jaxrnn.MinGRUCell)
    }
    return alone | {
        "in blocks": jaxrnn.LSTM(3, 4, return_carry=True, remat_every=4, rngs=rngs),
        "zoneout": jaxrnn.LSTM(3, 4, zoneout=0.3, return_carry=True, rngs=rngs),
        "heads": jaxrnn.SLSTM(3, 4, num_heads=2, return_carry=True, rngs=rngs),
        "both ways": jaxrnn.GRU(3, 4, bidirectional=True, return_carry=True, return_sequences=False, rngs=rngs),
    }


def compare() -> None:
    """Run with two devices: every layer spread and on one device, with its own first carry and with one given."""
    mesh = jax.make_mesh((2,), ("rows",))
    for name, layer in layers().items():
        graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
        for masks, given in (({}, True), (MASKS, False)):

            def loss(params, x, carry, masks, rest, graphdef=graphdef):
                results = nnx.merge(graphdef, params, rest, copy=True)(x, initial_carry=carry, **masks)
                return sum((a * a.conj()).real.sum() for a in jax.tree.leaves(results)), results

            run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
            expected = run(params, X, None, masks, rest)
            carry = jax.tree.map(jnp.zeros_like, expected[0][1][0])
            with jax.set_mesh(mesh):
                x, spread_masks, spread_carry = jax.device_put((X, masks, carry), P("rows"))
                replicated, same = jax.device_put((params, rest), P())
                found = run(replicated, x, spread_carry if given else None, spread_masks, same)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
            (_, results), (dparams, dx) = found
            for array in jax.tree.leaves((results, dx)):
                assert jax.typeof(array).sharding.spec[0] == "rows", name
            for array in jax.tree.leaves(dparams):
                assert not any(jax.typeof(array).sharding.spec), name
        print("compared", name)


def compare_linear() -> None:
    """Linear recurrences whose masks and decay are on every device, with their own first states."""

    def total(decay, x, masks):
        b, resets = jnp.moveaxis(x, 1, 0), jnp.moveaxis(masks["resets"], 1, 0)
        lengths = masks["seq_lengths"]
        ways: Any = (
            (None, {"seq_lengths": lengths, "resets": resets}),
            ("scan", {}),
            ("chunked", {"resets": resets}),
        )
        return sum(
            jnp.sin(jaxrnn.ops.linear_recurrence(decay, b, implementation=name, **options)).sum()
            for name, options in ways
        )

    decay, run = jnp.array([0.9, 0.5, -0.3], jnp.float32), jax.jit(jax.grad(total, argnums=(0, 1)))
    expected = run(decay, X, MASKS)
    mesh = jax.make_mesh((2,), ("rows",))
    with jax.set_mesh(mesh):
        explicit = run(decay, jax.device_put(X, P("rows")), MASKS)
    assert jax.typeof(explicit[1]).sharding.spec[0] == "rows"
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))

    def of_both(*arguments):
        one = jax.shard_map(
            lambda *arguments: jax.lax.psum(total(*arguments), "rows"),
            mesh=mesh,
            in_specs=(P(), P("rows"), P("rows")),
            out_specs=P(),
        )
        return one(*arguments)

    found = explicit, jax.jit(jax.grad(of_both, argnums=(0, 1)))(decay, X, MASKS)
    for gradients in found:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradients, expected)
    print("compared linear recurrences")


def compare_within_shard_map() -> None:
    """Each device runs a layer on its part of the batch, and the gradients of the weights are added up."""
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    for name in ("LeakyCell", "heads", "in blocks"):
        graphdef, params, rest = nnx.split(layers()[name], nnx.Param, ...)

        def total(params, x, graphdef=graphdef, rest=rest):
            return jnp.sin(nnx.merge(graphdef, params, rest, copy=True)(x)[1]).sum()

        def of_both(params, x, total=total):
            one = jax.shard_map(
                lambda params, x: jax.lax.psum(total(params, x), "rows"),
                mesh=mesh,
                in_specs=(P(), P("rows")),
                out_specs=P(),
            )
            return one(params, x)

        found, expected = (jax.jit(jax.grad(run, argnums=(0, 1)))(params, X) for run in (of_both, total))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
        print("compared within shard_map", name)


def test_layers_spread_over_two_devices_equal_layers_on_one():
    program = (
        "import jax; jax.config.update('jax_num_cpu_devices', 2); "
        "from tests.layers import test_sharding as t; "
        "t.compare(); t.compare_linear(); t.compare_within_shard_map()"
    )
    # No other XLA_FLAGS: another test's number of devices would come before this one's.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": XLA_FLAGS}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compared") == len(layers()) + 4


def test_one_step_may_begin_with_a_carry_that_is_not_spread():
    def own_tanh(params, h, xw, rh):
        h = jnp.tanh(xw[0] + rh[0])
        return h, h

    def total(kernel, xw):
        return jaxrnn.ops.recurrence(own_tanh, kernel, xw, jnp.ones((4, 3)), implementation="scan")[1].sum()

    expected = jax.grad(total)(jnp.eye(3), jnp.ones((1, 4, 3)))
    with jax.set_mesh(jax.make_mesh((1,), ("rows",))):
        xw = jax.device_put(jnp.ones((1, 4, 3)), P(None, "rows"))
        np.testing.assert_allclose(jax.grad(total)(jnp.eye(3), xw), expected, rtol=1e-6)
