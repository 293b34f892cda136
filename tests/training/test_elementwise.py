"""The optimiser's step as calls of the C++ library: as without it, for every optimiser and transformation."""

import functools
import operator
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxrnn import training
from jaxrnn.ops.native import elementwise
from jaxrnn.ops.native.library import available
from jaxrnn.training.step import Gradient, take_step
from tests.xla_flags import XLA_FLAGS

pytestmark = pytest.mark.skipif(not available(), reason="the C++ library is not built")

SHAPES = {"kernel": (5, 3), "recurrent": (40, 40), "bias": (3,), "leak": (1,), "scalar": (), "nothing": (0, 4)}


def only_kernels(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(1e-2),
    "amsgrad": optax.amsgrad(1e-2),
    "adamw, of kernels": optax.adamw(1e-2, weight_decay=0.1, mask=only_kernels),
    "nadam": optax.nadam(1e-2),
    "radam": optax.radam(1e-2),
    "yogi": optax.yogi(1e-2),
    "adabelief": optax.adabelief(1e-2),
    "adagrad": optax.adagrad(1e-2),
    "adadelta": optax.adadelta(1e-2),
    "adamax": optax.adamax(1e-2),
    "rmsprop": optax.rmsprop(1e-2, centered=True, momentum=0.9),
    "rprop": optax.rprop(1e-2),
    "lion": optax.lion(1e-2),
    "lamb": optax.lamb(1e-2),
    "lars": optax.lars(1e-2),
    "novograd": optax.novograd(1e-2),
    "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=2),
    "noisy": optax.noisy_sgd(1e-2, key=jax.random.key(0)),
    "signs": optax.sign_sgd(1e-2),
    "clipped": optax.chain(optax.clip(0.5), optax.adaptive_grad_clip(0.1), optax.adam(1e-2)),
    "clipped by block": optax.chain(optax.clip_by_block_rms(0.5), optax.sgd(0.1)),
    "two steps": optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    "if finite": optax.apply_if_finite(optax.adam(1e-2), 3),
    "lookahead of the loss": optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau()),
    "ours": training.make_optimizer("adam", optax.cosine_decay_schedule(1e-2, 100), clip_norm=0.5),
    "ours, by number": training.make_optimizer("rmsprop", 1e-2),
}


def arrays(seed: int, dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def state_of(optimizer: Any, dtype: Any = jnp.float32, **options: Any) -> training.TrainState:
    return training.TrainState.create(arrays(0, dtype), optimizer, **options)


def found(seed: int, dtype: Any = jnp.float32, carry: Any = None, loss: float = 1.0) -> Gradient:
    return Gradient(jnp.float32(loss), arrays(seed, dtype), carry, jnp.float32(0))


def stepped(optimizer: Any, **options: Any) -> Any:
    options = {"average_decay": 0.9, "skip_non_finite": True} | options
    return functools.partial(take_step, optimizer, **options)


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "_in_library", lambda leaves: False)


def calls_in(function: Any, *arguments: Any) -> int:
    return jax.jit(function).lower(*arguments).as_text().count("@jaxrnn_elementwise")


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_step_of_every_optimizer(name: str, monkeypatch: pytest.MonkeyPatch):
    optimizer = OPTIMIZERS[name]
    states = []
    for library in (True, False):
        if not library:
            without_library(monkeypatch)
        step, state = jax.jit(stepped(optimizer)), state_of(optimizer, average=True)
        assert bool(calls_in(stepped(optimizer), state, found(1))) == library
        for seed in range(1, 5):
            state, _ = step(state, found(seed))
        states.append(state)
    assert_close(*states, tolerance=2e-6)


@pytest.mark.parametrize("name", ["adam", "ours", "lamb", "adafactor"])
def test_in_double_precision(name: str, monkeypatch: pytest.MonkeyPatch):
    with jax.enable_x64(True):
        optimizer = OPTIMIZERS[name]
        given = state_of(optimizer, jnp.float64), found(1, jnp.float64)
        actual = jax.jit(stepped(optimizer))(*given)
        without_library(monkeypatch)
        assert_close(actual, jax.jit(stepped(optimizer))(*given), tolerance=1e-13)


def test_all_arrays_are_one_call():
    optimizer = OPTIMIZERS["ours"]
    assert calls_in(stepped(optimizer), state_of(optimizer, average=True), found(1)) == 1


def test_each_dtype_has_its_own_arithmetic(monkeypatch: pytest.MonkeyPatch):
    """Half precision and integers stay with XLA."""
    optimizer = optax.adam(1e-2)
    with jax.enable_x64(True):
        dtypes = [jnp.float32, jnp.float64, jnp.bfloat16]
        params = {str(number): jnp.linspace(-1, 1, 30, dtype=dtype) for number, dtype in enumerate(dtypes)}
        state = training.TrainState.create(params, optimizer)
        given = state, Gradient(jnp.float32(1), jax.tree.map(jnp.cos, params), None, jnp.float32(0))
        assert calls_in(stepped(optimizer), *given) == 2
        actual = jax.jit(stepped(optimizer))(*given)
        without_library(monkeypatch)
        assert_close(actual, jax.jit(stepped(optimizer))(*given), tolerance=1e-6)


@pytest.mark.parametrize("loss", [1.0, float("nan")])
@pytest.mark.parametrize("donated", [True, False])
def test_a_step_that_is_skipped_changes_nothing(loss: float, donated: bool):
    optimizer = OPTIMIZERS["ours"]
    state, carry = state_of(optimizer, carry=jnp.ones((4, 3))), jnp.zeros((4, 3))
    before = jax.tree.map(np.array, (state.params, state.opt_state, state.carry))
    step = jax.jit(stepped(optimizer), donate_argnums=0 if donated else ())
    after, _ = step(state, found(1, carry=carry, loss=loss))
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), before, (after.params, after.opt_state, after.carry))
    names = {name: same[0][name] for name, shape in SHAPES.items() if 0 not in shape}
    assert set(names.values()) == {np.isnan(loss)} == {same[2]}
    if not donated:
        assert_close(jax.tree.map(np.array, (state.params, state.opt_state, state.carry)), before, tolerance=0)


def test_without_skipping_every_value_is_taken():
    optimizer = optax.sgd(0.1)
    after, _ = jax.jit(stepped(optimizer, skip_non_finite=False))(state_of(optimizer), found(1, loss=jnp.nan))
    assert_close(after.params, jax.tree.map(lambda p, g: p - 0.1 * g, arrays(0), arrays(1)), tolerance=1e-6)


def test_runs_under_vmap_have_their_own_rates_and_skips(monkeypatch: pytest.MonkeyPatch):
    def run(rate: Any, loss: Any, seed: Any) -> Any:
        optimizer = training.make_optimizer("adam", 1e-2)
        state = state_of(optimizer)
        state = training.with_learning_rate(state, rate)
        grads = jax.tree.map(lambda leaf: leaf * seed, arrays(1))
        return stepped(optimizer)(state, Gradient(loss, grads, None, jnp.float32(0)))[0].params

    given = jnp.array([0.1, 0.2, 0.3]), jnp.array([1.0, jnp.nan, 1.0]), jnp.array([1.0, 2.0, -1.0])
    both = jax.jit(jax.vmap(jax.vmap(run)))(*(jnp.stack([x, x[::-1]]) for x in given))
    alone = jax.jit(run)
    for place in np.ndindex(2, 3):
        expected = alone(*(x[place[1] if place[0] == 0 else 2 - place[1]] for x in given))
        assert_close(jax.tree.map(operator.itemgetter(place), both), expected, tolerance=0)
    assert_close(jax.tree.map(operator.itemgetter((0, 1)), both), arrays(0), tolerance=0)


@pytest.mark.parametrize("held", [True, False])
def test_derivatives_with_respect_to_anything_that_is_traced(held: bool, monkeypatch: pytest.MonkeyPatch):
    """A rate that the optimiser holds, as in meta-learning, and the gradients."""

    def loss(rate: jax.Array, grads: Any) -> Any:
        optimizer = optax.sgd(rate, momentum=0.9) if held else optax.sgd(0.1, momentum=0.9)
        state = state_of(optimizer)
        after, _ = stepped(optimizer)(state, Gradient(jnp.float32(1), grads, None, jnp.float32(0)))
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(after.params))

    actual = jax.jit(jax.grad(loss, argnums=(0, 1)))(0.1, arrays(1))
    forward = jax.jit(jax.jacfwd(loss))(0.1, arrays(1))
    np.testing.assert_allclose(forward, actual[0], rtol=1e-5)
    without_library(monkeypatch)
    assert_close(actual, jax.jit(jax.grad(loss, argnums=(0, 1)))(0.1, arrays(1)), tolerance=1e-5)


def test_in_a_loop_the_old_arrays_are_written_over():
    """Otherwise XLA would copy all arrays at every step."""
    optimizer = OPTIMIZERS["adam"]

    def many(state: Any) -> Any:
        return jax.lax.fori_loop(0, 5, lambda i, s: stepped(optimizer)(s, found(1))[0], state)

    state = state_of(optimizer)
    text = jax.jit(many, donate_argnums=0).lower(state).compile().as_text() or ""
    copies = [line for line in text.splitlines() if " copy(" in line and "f32[40,40]" in line]
    assert not copies
    step, expected = jax.jit(stepped(optimizer)), state
    for _ in range(5):
        expected, _ = step(expected, found(1))
    assert_close(jax.jit(many)(state_of(optimizer)), expected, tolerance=0)


def check_within_shard_map() -> None:
    """Parameters are the same on all devices; each device has rows of the carry."""
    optimizer, step = OPTIMIZERS["ours"], stepped(OPTIMIZERS["ours"])
    state, given = state_of(optimizer, carry=jnp.ones((4, 3))), found(1, carry=jnp.zeros((4, 3)))
    of_state = jax.tree.map(lambda _: P(), state).replace(carry=P("batch"))
    of_given = jax.tree.map(lambda _: P(), given)._replace(carry=P("batch"))
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    specs: Any = {"mesh": mesh, "in_specs": (of_state, of_given), "out_specs": of_state}
    spread = jax.shard_map(lambda state, given: step(state, given)[0], **specs)
    assert calls_in(spread, state, given)
    assert calls_in(
        jax.shard_map(lambda state, given: step(state, given)[0], **specs, check_vma=False), state, given
    )
    assert_close(jax.jit(spread)(state, given), jax.jit(step)(state, given)[0], tolerance=1e-6)


def check_arrays_that_are_spread() -> None:
    """Arrays that are divided over devices stay so, which a call of the library would gather."""
    optimizer, step = OPTIMIZERS["adam"], jax.jit(stepped(OPTIMIZERS["adam"]))
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    alike, rows = (jax.sharding.NamedSharding(mesh, spec) for spec in (P(), P("model")))
    state = jax.device_put(state_of(optimizer), alike)
    params = state.params | {"recurrent": jax.device_put(state.params["recurrent"], rows)}
    actual, _ = step(state.replace(params=params), jax.device_put(found(1), alike))
    assert actual.params["recurrent"].sharding.is_equivalent_to(rows, 2)
    assert_close(actual, step(state_of(optimizer), found(1))[0], tolerance=1e-6)
    explicit = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(explicit):
        array = jax.device_put(jnp.ones((8, 5)), jax.sharding.NamedSharding(explicit, P("model")))

        def body(carry: Any, _: Any) -> Any:
            return elementwise.replace(lambda old, g: old * g + 1, carry, array), None

        last, _ = jax.jit(lambda first: jax.lax.scan(body, first, None, length=3))(array)
    np.testing.assert_array_equal(last, 4 * np.ones((8, 5)))


def test_over_two_devices():
    """In a process of its own, since the number of devices is fixed once JAX runs."""
    code = (
        "import tests.training.test_elementwise as t; t.check_within_shard_map(); t.check_arrays_that_are_spread()"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": XLA_FLAGS}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[2])


def test_an_optimizer_with_effects_runs_as_it_is():
    seen = []

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        jax.debug.callback(lambda: seen.append(1))
        return updates, state

    optimizer = optax.chain(optax.GradientTransformation(optax.init_empty_state, update), optax.sgd(0.1))
    state = state_of(optimizer)
    assert calls_in(stepped(optimizer), state, found(1)) == 0
    jax.block_until_ready(jax.jit(stepped(optimizer))(state, found(1)))
    jax.effects_barrier()
    assert seen == [1]


def test_numbers_that_a_function_returns_as_they_are():
    def function(old: Any, grads: Any) -> Any:
        return {"count": 0, "params": old["params"] - grads, "same": old["same"]}

    old = {"count": 3, "params": jnp.ones(3), "same": jnp.ones(2)}
    new = jax.jit(functools.partial(elementwise.replace, function))(old, jnp.arange(3.0))
    assert_close(new, {"count": jnp.int32(0), "params": 1 - jnp.arange(3.0), "same": jnp.ones(2)}, tolerance=0)


def test_outside_of_jit_it_runs_as_it_is():
    optimizer = OPTIMIZERS["adam"]
    eager, _ = stepped(optimizer)(state_of(optimizer), found(1))
    compiled, _ = jax.jit(stepped(optimizer))(state_of(optimizer), found(1))
    assert_close(eager, compiled, tolerance=1e-6)
