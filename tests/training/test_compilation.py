"""What is compiled before the first result, how often, and that it changes no bit."""

import collections
import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import training
from jaxrnn.data import bucket_by_length
from jaxrnn.training.compilation import compile_together


@contextlib.contextmanager
def counted():
    """How often XLA compiles, or loads from its cache, each program within the block."""
    found = collections.Counter()

    def listen(event: str, duration_secs: float, **details):
        if event.endswith("backend_compile_duration"):
            found[details.get("fun_name")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def linear(params, inputs, carry):
    sequences = inputs.inputs if isinstance(inputs, training.Sequences) else inputs
    return carry, sequences.sum(axis=1) @ params


def test_every_length_compiles_a_gradient_and_the_optimisers_step_is_compiled_once():
    sequences = [np.ones((length, 2), np.float32) for length in (2, 3, 5, 5, 7, 7)]
    buckets = bucket_by_length(sequences, batch_size=2, num_buckets=3)
    optimizer = training.make_optimizer("adam", 0.1)
    state = training.TrainState.create(jnp.ones((2, 3)), optimizer)
    epoch = training.make_bucketed_epoch(linear, optimizer, training.cross_entropy(), buckets, np.arange(6) % 3)
    with counted() as first:
        state, _ = epoch(state)
        outputs = training.bucketed_outputs(linear, state.params, buckets)
    assert (first["jit(gradient)"], first["jit(step)"], first["jit(<lambda>)"]) == (buckets.num_programs, 1, 3)
    with counted() as later:
        state, _ = epoch(state)
        outputs = training.bucketed_outputs(linear, state.params, buckets)
    assert not later and outputs.shape == (6, 3)


@pytest.mark.parametrize("devices", [None, 1])
def test_an_epoch_over_windows_compiles_its_loop_and_its_order_once(devices):
    mesh = devices and jax.sharding.Mesh(jax.devices("cpu")[:devices], ("batch",))
    series, optimizer = jnp.ones((20, 2)), training.make_optimizer("sgd", 0.1)
    arrays = (series, series[:, :1], jnp.arange(10))
    options = {"window": 4, "batch_size": 5, "every_step": False, "mesh": mesh}
    epoch = training.make_windowed_epoch(linear, optimizer, training.huber, *arrays, **options)
    state = training.TrainState.create(jnp.ones((2, 1)), optimizer)
    with counted() as found:
        for _ in range(2):
            state, _ = epoch(state)
        for _ in range(2):
            state, _ = epoch.advance(state, 1)
    assert (found["jit(loop)"], found["jit(reorder)"]) == (1, 1)


def test_many_trainings_under_vmap_compile_no_program_for_one():
    series, optimizer = jnp.ones((20, 2)), training.make_optimizer("sgd", 0.1)
    arrays = (series, series[:, :1], jnp.arange(10))
    options = {"window": 4, "batch_size": 5, "every_step": False}
    epoch = training.make_windowed_epoch(linear, optimizer, training.huber, *arrays, **options)
    state = training.TrainState.create(jnp.ones((2, 1)), optimizer)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    with counted() as found:
        _, metrics = jax.jit(jax.vmap(epoch))(states)
    assert metrics.loss.shape == (2,) and not found["jit(loop)"] and not found["jit(reorder)"]


def test_a_state_is_copied_without_a_program_for_each_shape():
    params = {"kernel": jnp.ones((3, 41)), "bias": jnp.ones(43)}
    optimizer = training.make_optimizer("sgd", 0.1, momentum=None)
    with counted() as found:
        state = training.TrainState.create(params, optimizer, average=True)
    assert list(found) == ["jit(init_fn)"]
    leaves = jax.tree.leaves((params, state.params, state.average, state.step, state.totals))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**31, 2**40 + 3, -1, np.int32(5)])
def test_the_key_of_a_state_is_that_of_its_seed(seed, generator):
    with jax.default_prng_impl(generator):
        key, expected = (
            training.TrainState.create(jnp.ones(2), optax.sgd(0.1), seed=seed).key,
            jax.random.key(seed),
        )
    assert jax.typeof(key) == jax.typeof(expected) and jax.random.key_impl(key) == jax.random.key_impl(expected)
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(expected))


@pytest.mark.parametrize("name", sorted(training.OPTIMIZERS))
def test_an_optimizers_state_is_one_program_and_equal_to_the_optimizers_own(name):
    params = {"kernel": jnp.ones((3, 47)), "bias": jnp.ones(53, jnp.bfloat16), "count": jnp.arange(3)}
    for rate in (0.1, optax.cosine_decay_schedule(0.1, 10)):
        optimizer = training.make_optimizer(name, rate, clip_norm=1.0)
        with counted() as found:
            state = training.TrainState.create(params, optimizer).opt_state
        assert found["jit(broadcast_in_dim)"] == 0 and sum("init" in str(program) for program in found) == 1
        expected = optimizer.init(params)
        assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, expected)
        jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_an_optimizer_may_look_at_the_values_of_its_parameters():
    def init(params):
        return {"largest": jnp.array(max(float(leaf.max()) for leaf in jax.tree.leaves(params)))}

    optimizer = optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))
    state: Any = training.TrainState.create(jnp.arange(4.0), optimizer)
    assert float(state.opt_state["largest"]) == 3.0

    def masked(params):
        return {"n": jnp.sum(params[params > 0])}

    optimizer = optax.GradientTransformation(masked, optimizer.update)
    state = training.TrainState.create(jnp.arange(4.0), optimizer)
    assert float(state.opt_state["n"]) == 6.0

    def wrong(params):
        raise TypeError("no such parameters")

    with pytest.raises(TypeError, match="no such parameters"):
        training.TrainState.create(jnp.arange(4.0), optax.GradientTransformation(wrong, optimizer.update))


def test_initial_values_have_the_bits_that_full_optimisation_gives():
    def make(key):
        return jaxrnn.RNNForecaster(2, 9, rngs=nnx.Rngs(key))

    jax.config.update("jax_disable_most_optimizations", False)
    try:
        found = training.make_initializer(make)(jax.random.key(3))
        expected = jax.jit(lambda key: nnx.state(make(key)))(jax.random.key(3))
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    # Within a transformation JAX takes no options for a program.
    nested = jax.jit(lambda: training.pure_apply(lambda: make(3))[1])()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), nested, expected)


def test_the_function_of_an_abstract_model_is_that_of_the_model():
    def make():
        return jaxrnn.RNNForecaster(hidden_features=4, rngs=nnx.Rngs(0))

    apply, params = training.pure_apply(make)
    of_shapes, shapes = training.pure_apply(nnx.eval_shape(make))
    assert of_shapes == apply and jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


def test_what_cannot_be_compiled_says_so():
    with pytest.raises(TypeError, match="incompatible shapes"):
        compile_together([(jax.jit(jnp.add), (np.zeros(2), np.zeros(3)))])
