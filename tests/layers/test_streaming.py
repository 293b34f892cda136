"""One step at a time: the same as the whole sequence, for everything that can be streamed."""

import gc
import re
import weakref
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.layers.streaming import streaming_step
from jaxrnn.ops.native.library import why_not_loaded
from tests.cells_with_state import CountingCell, DroppingCell

X = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)


class OutputApartCell(jaxrnn.RecurrentCell):
    """Two parts in the carry, an output that is neither, a parameter, and a sum over the units."""

    num_gates = 2

    def __init__(self, in_features, hidden_features, *, rngs, **options):
        super().__init__(in_features, hidden_features, rngs=rngs, **options)
        self.gain = nnx.Param(jnp.linspace(0.5, 1, hidden_features, dtype=self.param_dtype))

    def carry_like(self, h):
        return {"a": h, "h": h}

    def pointwise(self, carry, xw, rh):
        a = jnp.tanh(carry["a"] * self.gain[...] + xw[0] + rh[0])
        h = jax.nn.sigmoid(xw[1] * rh[1] + a)
        return {"a": a, "h": h}, h * a - h.mean(-1, keepdims=True)


LAYERS = {
    "SimpleRNN": lambda: jaxrnn.SimpleRNN(3, 4, rngs=nnx.Rngs(0)),
    "LSTM": lambda: jaxrnn.LSTM(3, (5, 4), rngs=nnx.Rngs(0)),
    "GRU": lambda: jaxrnn.GRU(3, 4, num_layers=2, rngs=nnx.Rngs(0)),
    "GRU, reset before": lambda: jaxrnn.GRU(3, 4, reset_after=False, rngs=nnx.Rngs(0)),
    "skip connections": lambda: jaxrnn.LSTM(3, 4, num_layers=3, skip_connections=True, rngs=nnx.Rngs(0)),
    "one step returned": lambda: jaxrnn.GRU(3, 4, return_sequences=False, rngs=nnx.Rngs(0)),
    "RNN": lambda: jaxrnn.RNN(jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0))),
    "RNN of a Flax cell": lambda: jaxrnn.RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))),
    "LeakyCell": lambda: jaxrnn.RNN(jaxrnn.LeakyCell(3, 4, rngs=nnx.Rngs(0))),
    "a cell of one's own": lambda: jaxrnn.RNN(OutputApartCell(3, 4, rngs=nnx.Rngs(0))),
    "sLSTM with heads": lambda: jaxrnn.SLSTM(3, (6, 4), num_heads=2, rngs=nnx.Rngs(0)),
}


NATIVE = [
    "SimpleRNN",
    "LSTM",
    "GRU",
    "GRU, reset before",
    "LeakyCell",
    "skip connections",
    "one step returned",
    "RNN",
    "a cell of one's own",
    "sLSTM with heads",
]
"""Those that the C++ library has."""

needs_library = pytest.mark.skipif(why_not_loaded() is not None, reason=str(why_not_loaded()))


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, "jax") for name in LAYERS] + [pytest.param(name, "native", marks=needs_library) for name in NATIVE],
)
def test_steps_make_a_sequence(name, implementation):
    layer = LAYERS[name]()
    expected_carry, expected = layer(jnp.asarray(X), return_carry=True)
    step, carry = streaming_step(layer, X[:, 0], implementation=implementation)
    outputs = []
    for t in range(X.shape[1]):
        carry, y = step(carry, X[:, t] if t % 2 else jnp.asarray(X[:, t]))  # NumPy's arrays and JAX's
        outputs.append(y)
    assert_close(carry, expected_carry)
    assert_close(outputs[-1] if expected.ndim == 2 else jnp.stack(outputs, 1), expected)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_any_number_of_batch_axes(batch):
    cell = jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0))
    x = jnp.ones((*batch, 3))
    for implementation in (None, "jax"):
        step, carry = streaming_step(cell, jax.ShapeDtypeStruct(x.shape, x.dtype), implementation=implementation)
        expected = cell(cell.initialize_carry(x.shape), x)
        assert_close(step(carry, x), expected)


def test_bfloat16_keeps_its_dtypes():
    cell = jaxrnn.GRUCell(3, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    step, carry = streaming_step(cell, X[:, 0])
    carry, y = step(carry, X[:, 0])
    assert carry.dtype == y.dtype == jnp.bfloat16


def test_the_carry_is_donated_and_a_copy_can_be_returned_to():
    step, carry = streaming_step(jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0)), X[:, 0], implementation="jax")
    first = jax.tree.map(jnp.copy, carry)
    _, y = step(carry, X[:, 0])
    assert carry.h.is_deleted()
    step(first, X[:, 0])
    assert not y.is_deleted()  # outputs are the caller's own


def test_weights_are_those_of_the_moment():
    cell = jaxrnn.SimpleRNNCell(3, 4, rngs=nnx.Rngs(0))
    step, carry = streaming_step(cell, X[:, 0])
    before = cell(cell.initialize_carry((2, 3)), jnp.asarray(X[:, 0]))[1]
    cell.kernel[...] = cell.kernel[...] * 0
    assert_close(step(carry, X[:, 0])[1], before)


def both_directions() -> jaxrnn.Bidirectional:
    forward, backward = (jaxrnn.RNN(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(seed))) for seed in (0, 1))
    return jaxrnn.Bidirectional(forward, backward)


def uneven() -> jaxrnn.StackedRNN:
    return jaxrnn.LSTM(3, (5, 4), skip_connections=True, rngs=nnx.Rngs(0))


def test_inputs_may_be_a_list():
    cell = jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0))
    step, carry = streaming_step(cell, [[1.0, 2.0, 3.0]])
    expected = cell(cell.initialize_carry((1, 3)), jnp.array([[1.0, 2.0, 3.0]]))[1]
    assert_close(step(carry, [[1.0, 2.0, 3.0]])[1], expected)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: jaxrnn.GRU(3, 4, bidirectional=True, rngs=nnx.Rngs(0)), "cannot be streamed"),
        (lambda: jaxrnn.RNN(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)), reverse=True), "cannot be streamed"),
        (both_directions, "a Bidirectional cannot be streamed"),
        (lambda: jaxrnn.GRU(3, 4, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0)), "eval"),
        (lambda: jaxrnn.GRU(3, 4, recurrent_dropout=0.5, rngs=nnx.Rngs(0)), "eval"),
        (uneven, "skip_connections need layers of one width, but layer 1 reads 5 features and returns 4"),
        (lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)), "not a Linear"),
    ],
)
def test_what_cannot_be_streamed_is_said(layer, message):
    with pytest.raises(ValueError, match=message):
        streaming_step(layer(), X[:, 0])
    if layer is uneven:
        with pytest.raises(ValueError, match=message):
            jaxrnn.Streams(layer(), 2)
        with pytest.raises(ValueError, match=message):
            layer()(X)


def test_dropout_that_is_off_does_not_matter():
    layer = jaxrnn.GRU(3, 4, num_layers=2, dropout=0.5, recurrent_dropout=0.5, rngs=nnx.Rngs(0))
    layer.eval()
    step, carry = streaming_step(layer, X[:, 0])
    assert_close(step(carry, X[:, 0])[1], layer(jnp.asarray(X[:, :1]))[:, 0])


@needs_library
@pytest.mark.parametrize("make", [jaxrnn.SimpleRNNCell, jaxrnn.LSTMCell, jaxrnn.GRUCell, OutputApartCell])
@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (3, 16), (17, 33), (64, 128), (5, 65)])
def test_the_library_steps_like_the_cell_in_float64(make, inputs, hidden):
    random = np.random.default_rng(1)
    xs = random.normal(size=(5, 2, inputs))
    with jax.enable_x64(True):
        cell = nnx.eval_shape(lambda: make(inputs, hidden, param_dtype=jnp.float64, rngs=nnx.Rngs(0)))
        # Initializers would take longer to compile, for every size, than all else.
        params = nnx.state(cell, nnx.Param)
        nnx.update(cell, jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape) / hidden**0.5), params))
        call = nnx.jit(lambda cell, carry, x: cell(carry, x))
        step, carry = streaming_step(cell, xs[0], implementation="native")
        expected = cell.initialize_carry(xs[0].shape)
        for x in xs:
            carry, y = step(carry, x)
            expected, expected_y = call(cell, expected, x)
            assert y.dtype == np.float64
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), carry, expected)
            np.testing.assert_allclose(y, expected_y, rtol=0, atol=1e-12)


@needs_library
def test_what_came_out_never_changes_and_any_carry_can_be_returned_to():
    step, carry = streaming_step(jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0)), X[:, 0])
    signal = np.random.default_rng(2).normal(size=(150, 2, 3)).astype(np.float32)
    carries, copies = [carry], []
    for x in signal:
        carry, y = step(carry, x)
        carries.append(carry)
        copies.append(y.copy())
    for t in (149, 0, 64, 63, 1):
        np.testing.assert_array_equal(carries[t + 1].h, copies[t])
        np.testing.assert_array_equal(step(carries[t], signal[t])[1], copies[t])
        np.testing.assert_array_equal(step(jax.tree.map(jnp.asarray, carries[t]), signal[t])[1], copies[t])
    with pytest.raises(ValueError, match="read-only"):
        carry.h[0, 0] = 1


class CarryInADict(jaxrnn.RecurrentCell):
    def carry_like(self, h):
        return {"c": h, "h": h}

    def pointwise(self, carry, xw, rh):
        h = jnp.tanh(xw[0] + rh[0] + carry["c"])
        return {"c": carry["c"] / 2 + h, "h": h}, h


@needs_library
def test_what_is_written_into_a_carry_is_read():
    cell = CarryInADict(3, 4, rngs=nnx.Rngs(0))
    step, carry = streaming_step(cell, X[:, 0], implementation="native")
    carry, _ = step(carry, X[:, 0])
    zeros = np.zeros((2, 4), np.float32)
    carry["c"] = carry["h"] = zeros
    np.testing.assert_array_equal(step(carry, X[:, 1])[1], step({"c": zeros, "h": zeros}, X[:, 1])[1])


@needs_library
def test_threads_share_a_step():
    step, first = streaming_step(jaxrnn.GRUCell(3, 64, rngs=nnx.Rngs(0)), X[:, 0])

    def run(seed: int) -> np.ndarray:
        carry = y = first
        for x in np.random.default_rng(seed).normal(size=(300, 2, 3)).astype(np.float32):
            carry, y = step(carry, x)
        return y

    expected = [run(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(pool.map(run, range(4)), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@needs_library
def test_the_memory_of_a_step_is_freed():
    step, _ = streaming_step(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)), X[:, 0])
    gone = weakref.ref(step)
    del step
    gc.collect()
    assert gone() is None


@needs_library
@pytest.mark.parametrize(
    ("carry", "inputs", "message"),
    [
        (None, X[0, 0], "inputs have the shape (3,), but this step was made for (2, 3)"),
        (None, X[:, :1], "inputs have the shape (2, 1, 3)"),
        (None, X[:, 0] * 1j, "Cannot cast"),
        (np.zeros((2, 4)), X[:, 0], "the carry has the structure PyTreeDef(*)"),
        (jaxrnn.LSTMCarry(jnp.zeros((2, 4)), jnp.zeros((1, 4))), X[:, 0], "with shapes [(2, 4), (1, 4)]"),
    ],
)
def test_wrong_arguments_of_a_native_step(carry, inputs, message):
    step, first = streaming_step(jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0)), X[:, 0])
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        step(first if carry is None else carry, inputs)


@pytest.mark.parametrize("make", [CountingCell, DroppingCell])
def test_a_cell_that_changes_its_own_variables_is_named(make):
    for layer in (make(), jaxrnn.RNN(make()), jaxrnn.StackedRNN([make()])):
        for stream in (
            lambda layer=layer: streaming_step(layer, X[:, 0]),
            lambda layer=layer: jaxrnn.Streams(layer, 2, in_features=3),
        ):
            with pytest.raises(
                ValueError, match=f"a {make.__name__} cannot be streamed, because its step changes"
            ):
                stream()
    cell = DroppingCell()
    cell.eval()
    step, carry = streaming_step(cell, X[:, 0])
    assert_close(
        step(carry, X[:, 0]), nnx.GRUCell(3, 3, rngs=nnx.Rngs(0))(jnp.zeros((2, 3)), jnp.asarray(X[:, 0]))
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: nnx.SimpleCell(3, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)),
        lambda: nnx.LSTMCell(3, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)),
    ],
)
def test_a_cell_of_flax_whose_carry_has_another_dtype(make):
    cell = make()
    expected = jaxrnn.RNN(cell)(jnp.asarray(X))
    step, carry = streaming_step(cell, X[:, 0])
    streams = jaxrnn.Streams(cell, 2)
    for t in range(X.shape[1]):
        carry, y = step(carry, X[:, t])
        assert y.dtype == expected.dtype
        for found in (y, streams.step(X[:, t])):
            np.testing.assert_allclose(found.astype(np.float32), expected[:, t].astype(np.float32), atol=2e-3)


class ShortBias(jaxrnn.GRUCell):
    def recurrent_parameters(self, dtype):
        kernel, bias = super().recurrent_parameters(dtype)
        return kernel, None if bias is None else bias[:4]


def test_a_recurrent_bias_that_is_too_short_is_not_read_beyond_its_end():
    cell = ShortBias(3, 4, rngs=nnx.Rngs(0))
    for run in (lambda: streaming_step(cell, X[:, 0]), lambda: jaxrnn.Streams(cell, 2)):
        with pytest.raises(ValueError, match=re.escape("recurrent_bias.shape=(4,) must be (12,)")):
            run()


@pytest.mark.parametrize(
    ("implementation", "message"),
    [("native", "is not a jaxrnn.RecurrentCell"), ("scan", "available: native, jax, or None")],
)
def test_an_implementation_that_cannot_be_had(implementation, message):
    with pytest.raises(ValueError, match=message):
        streaming_step(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)), X[:, 0], implementation=implementation)
