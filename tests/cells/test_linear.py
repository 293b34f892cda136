"""Cells whose state enters linearly: their papers' equations, in sequences, steps, layers and experiments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.cells import CELLS, LinearRecurrentCell

LINEAR = {name: cell for name, cell in CELLS.items() if issubclass(cell, LinearRecurrentCell)}
each = pytest.mark.parametrize("name", LINEAR)
TIME, BATCH = 9, 3
LENGTHS = jnp.array([9, 0, 5])


class Decay(LinearRecurrentCell):
    """The docstring's example, with two leading axes for what may go wrong with them."""

    def coefficients(self, xw, inputs):
        keep = jax.nn.sigmoid(xw[0])
        return keep, (1 - keep) * xw[1]


@pytest.fixture(scope="module", autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def made(name: str, in_features: int = 2, hidden: int = 2, **options):
    cell = LINEAR[name](in_features, hidden, param_dtype=jnp.float64, rngs=nnx.Rngs(0), **options)
    rng = np.random.default_rng(0)
    if cell.bias is not None:
        cell.bias[...] = jnp.asarray(rng.normal(size=cell.bias[...].shape))
    return cell, rng.normal(size=(BATCH, TIME, in_features))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lru(cell, x, state):
    """Equations (4) to (8) of arXiv:2303.06349, a step."""
    nu, theta, gamma = (np.exp(np.asarray(p[...])) for p in (cell.nu_log, cell.theta_log, cell.gamma_log))
    of_input = np.split(np.asarray(cell.kernel[...]), 2, axis=1)
    of_output = np.split(np.asarray(cell.output_kernel[...]), 2)
    state = np.exp(-nu + 1j * theta) * state + gamma * (x @ (of_input[0] + 1j * of_input[1]))
    return state, (state @ (of_output[0] + 1j * of_output[1])).real + x @ np.asarray(cell.skip_kernel[...])


def rg_lru(cell, x, h):
    """Equations (1) to (4) of arXiv:2402.19427."""
    gates = np.split(x @ np.asarray(cell.kernel[...]) + np.asarray(cell.bias[...]), cell.num_gates, axis=-1)
    x = x if cell.num_gates == 2 else gates[2]
    a = sigmoid(np.asarray(cell.decay[...])) ** (8 * sigmoid(gates[0]))
    h = a * h + np.sqrt(1 - a**2) * sigmoid(gates[1]) * x
    return h, h


def positive(x):
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def min_gru(cell, x, h):
    """Algorithm 1 and appendix B of arXiv:2410.01201."""
    z, candidate = np.split(x @ np.asarray(cell.kernel[...]) + np.asarray(cell.bias[...]), 2, axis=-1)
    h = (1 - sigmoid(z)) * h + sigmoid(z) * positive(candidate)
    return h, h


def min_lstm(cell, x, h):
    f, i, candidate = np.split(x @ np.asarray(cell.kernel[...]) + np.asarray(cell.bias[...]), 3, axis=-1)
    f, i = sigmoid(f), sigmoid(i)
    h = f / (f + i) * h + i / (f + i) * positive(candidate)
    return h, h


EQUATIONS = {"lru": lru, "rg_lru": rg_lru, "min_gru": min_gru, "min_lstm": min_lstm}


def first_state(cell):
    state = np.random.default_rng(1).random((BATCH, cell.state_features))
    return state * (1 + 0.5j) if cell.complex_state else state


class Stepwise(nnx.Module):
    """A cell that the layers do not know."""

    num_feature_axes = 1

    def __init__(self, cell):
        self.cell = cell

    def initialize_carry(self, input_shape, rngs=None):
        return self.cell.initialize_carry(input_shape)

    def __call__(self, carry, inputs):
        return self.cell(carry, inputs)


@each
def test_a_sequence_its_steps_and_the_papers_equations_agree(name):
    cell, x = made(name)
    resets = np.random.default_rng(2).random((BATCH, TIME)) < 0.3
    first = first_state(cell)
    layer = jaxrnn.RNN(cell, return_carry=True)

    @jax.jit
    def run(x, resets, lengths):
        return layer(x, initial_carry=first, resets=resets, seq_lengths=lengths)

    carry, outputs = run(x, resets, LENGTHS)
    state, stepped = first, jnp.asarray(first)
    step = jax.jit(cell)
    for t in range(TIME):
        reset, valid = (resets[:, t] & (t < LENGTHS))[:, None], (t < LENGTHS)[:, None]
        new, y = EQUATIONS[name](cell, x[:, t], np.where(reset, first, state))
        new_stepped, y_stepped = step(jnp.where(reset, first, stepped), x[:, t])
        state, stepped = np.where(valid, new, state), jnp.where(valid, new_stepped, stepped)
        np.testing.assert_allclose(outputs[:, t], np.where(valid, y, 0), atol=1e-10)
        np.testing.assert_allclose(np.where(valid, y_stepped, 0), np.where(valid, y, 0), atol=1e-10)
    np.testing.assert_allclose(carry, state, atol=1e-10)
    np.testing.assert_allclose(stepped, state, atol=1e-10)


@pytest.mark.parametrize("name", ["min_gru", "min_lstm"])
def test_the_states_are_those_of_the_papers_parallel_scan_of_logarithms(name):
    """``parallel_scan_log`` and the listings of appendix B of arXiv:2410.01201."""
    cell, x = made(name)
    first = first_state(cell)
    gates = np.split(x @ np.asarray(cell.kernel[...]) + np.asarray(cell.bias), cell.num_gates, axis=-1)

    def softplus(x):
        return np.logaddexp(x, 0)

    log_candidate = np.where(gates[-1] >= 0, np.log(np.maximum(gates[-1], 0) + 0.5), -softplus(-gates[-1]))
    if name == "min_gru":
        log_coefficients, log_update = -softplus(gates[0]), -softplus(-gates[0])
    else:
        difference = softplus(-gates[0]) - softplus(-gates[1])
        log_coefficients, log_update = -softplus(difference), -softplus(-difference)
    log_values = np.concatenate([np.log(first)[:, None], log_update + log_candidate], axis=1)
    decays = np.cumsum(np.pad(log_coefficients, [(0, 0), (1, 0), (0, 0)]), axis=1)
    states = np.exp(decays + np.logaddexp.accumulate(log_values - decays, axis=1))
    found = jaxrnn.RNN(cell)(jnp.asarray(x), initial_carry=first)
    np.testing.assert_allclose(found, states[:, 1:], rtol=1e-10)


@pytest.mark.parametrize("name", ["lru", "rg_lru"])  # a complex state, and a real one
def test_layers_agree_with_flax_and_with_themselves(name):
    """Both directions, blocks, a cut with the carry handed over, gradients, and a scan of single steps."""
    cell, x = made(name, in_features=3, hidden=4)
    graphdef, params = nnx.split(cell)
    other, _ = made(name, in_features=3, hidden=4)

    @jax.jit
    def run(params, x):
        def loss(params, x, wrap, options):
            merged = nnx.merge(graphdef, params)
            both = jaxrnn.Bidirectional(
                jaxrnn.RNN(wrap(merged), **options), jaxrnn.RNN(wrap(other), **options), return_carry=True
            )
            carry, y = both(x, seq_lengths=LENGTHS)
            return jnp.sin(y).sum() + sum(jnp.abs(c).sum() for c in carry), y

        found = [
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x, wrap, options)
            for wrap, options in ((lambda c: c, {}), (lambda c: c, {"remat_every": 4}), (Stepwise, {}))
        ]
        layer = jaxrnn.RNN(nnx.merge(graphdef, params), return_carry=True)
        carry, first = layer(x[:, :4])
        _, second = layer(x[:, 4:], initial_carry=carry)
        return found, jnp.concatenate([first, second], axis=1), layer(x)[1]

    found, cut, whole = run(params, x)
    np.testing.assert_allclose(cut, whole, atol=1e-12)
    for others in found[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), others, found[0])


@each
def test_one_step_at_a_time_and_in_a_stack(name):
    layers = jaxrnn.StackedRNN([made(name, 2, 4)[0], made(name, 4, 4)[0]], skip_connections=True)
    x = jnp.asarray(made(name)[1])
    step, carry = jaxrnn.streaming_step(layers, x[:, 0])
    for t in range(TIME):
        carry, y = step(carry, x[:, t])
    np.testing.assert_allclose(y, layers(x)[:, -1], atol=1e-10)


@pytest.mark.parametrize("name", ["lru", "rg_lru"])
def test_half_precision_stays_near(name):
    x = made(name)[1]

    def total(x, dtype):
        y = jaxrnn.RNN(LINEAR[name](2, 4, dtype=dtype, rngs=nnx.Rngs(0)))(x)
        return y.sum(), y

    def both(x):
        narrow, gradient = jax.value_and_grad(total, has_aux=True)(x.astype(jnp.bfloat16), jnp.bfloat16)
        return total(x, None)[1], narrow[1], gradient

    wide, narrow, gradient = jax.jit(both)(jnp.asarray(x, "float32"))
    assert narrow.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype("float32"), wide, atol=0.02 * float(jnp.abs(wide).max()))


def test_a_long_memory_in_half_precision_loses_nothing_between_blocks_and_steps():
    """With a carry of bfloat16, every step would lose what is small beside the state."""
    cell = jaxrnn.RGLRUCell(2, 2, min_decay=0.99, max_decay=0.999, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.abs(jax.random.normal(jax.random.key(0), (1, 1000, 2))).astype(jnp.bfloat16)
    step, carry = jaxrnn.streaming_step(cell, x[:, 0])
    assert carry.dtype == cell.initialize_carry((1, 2)).dtype == "float32"
    whole = jaxrnn.RNN(cell)(x).astype("float32")
    for t in range(1000):
        carry, y = step(carry, x[:, t])
    np.testing.assert_allclose(y.astype("float32"), whole[:, -1], rtol=0.01)
    layer = jaxrnn.RNN(cell, remat_every=1, return_carry=True)
    np.testing.assert_allclose(layer(x)[1].astype("float32"), whole, rtol=0.01)
    given, _ = layer(x[:, :2], initial_carry=jnp.ones((1, 2), jnp.bfloat16))
    assert given.dtype == jnp.bfloat16  # a given carry keeps its dtype


def test_gates_that_round_to_their_ends_keep_gradients_finite():
    x = jnp.ones(2, "float32")
    for name in ("rg_lru", "min_gru", "min_lstm"):
        cell = LINEAR[name](2, 3, rngs=nnx.Rngs(0))

        @jax.jit
        def gradient(xw, cell=cell):
            return jax.grad(lambda xw: sum(c.sum() for c in cell.coefficients(xw, x)))(xw)

        for size in (-8000, -80, 80, 8000):
            xw = tuple(jnp.full(3, float(size), "float32") for _ in range(cell.num_gates))
            assert all(bool(jnp.isfinite(leaf).all()) for leaf in gradient(xw)), (name, size)


def test_initial_decays_lie_where_they_should():
    cell = jaxrnn.LRUCell(2, 500, min_radius=0.4, max_radius=0.8, max_phase=0.3, rngs=nnx.Rngs(0))
    a, _ = cell.coefficients((jnp.zeros(500), jnp.zeros(500)), jnp.zeros(2))
    assert 0.4 <= jnp.abs(a).min() < 0.45 and 0.77 < jnp.abs(a).max() <= 0.8
    assert jnp.angle(a).min() >= 0 and jnp.angle(a).max() <= 0.3
    griffin = jaxrnn.RGLRUCell(500, 500, min_decay=0.8, max_decay=0.9, rngs=nnx.Rngs(0))
    a, _ = griffin.coefficients((jnp.full(500, 99.0), jnp.zeros(500)), jnp.zeros(500))
    assert 0.8 <= a.min() < 0.81 and 0.89 < a.max() <= 0.9


BAD = {
    "min_radius < max_radius <= 1, not 0.9 and 1.1": lambda: jaxrnn.LRUCell(
        2, 3, min_radius=0.9, max_radius=1.1, rngs=nnx.Rngs(0)
    ),
    "max_phase must be an angle above 0 and up to 2 pi, not 7": lambda: jaxrnn.LRUCell(
        2, 3, max_phase=7, rngs=nnx.Rngs(0)
    ),
    "0 < min_decay < max_decay < 1, not 0.5 and 1.5": lambda: jaxrnn.RGLRUCell(
        2, 3, min_decay=0.5, max_decay=1.5, rngs=nnx.Rngs(0)
    ),
    "min_radius must be a number, not 'a'": lambda: jaxrnn.LRUCell(2, 3, min_radius="a", rngs=nnx.Rngs(0)),  # type: ignore
    "max_phase must be a number, not None": lambda: jaxrnn.LRUCell(2, 3, max_phase=None, rngs=nnx.Rngs(0)),  # type: ignore
    "min_decay must be a number, not 'x'": lambda: jaxrnn.RGLRUCell(2, 3, min_decay="x", rngs=nnx.Rngs(0)),  # type: ignore
    "kernel_init must be a function": lambda: jaxrnn.MinGRUCell(2, 3, kernel_init=None, rngs=nnx.Rngs(0)),  # type: ignore
    "dtype must be a floating type": lambda: jaxrnn.MinGRUCell(2, 3, dtype=jnp.complex64, rngs=nnx.Rngs(0)),
    "complex64.* must be a real type": lambda: jaxrnn.RNN(Decay(2, 3, rngs=nnx.Rngs(0)))(
        jnp.ones((1, 4, 2), "complex64")
    ),
    "it must be a complex array of shape": lambda: jaxrnn.RNN(jaxrnn.LRUCell(2, 3, rngs=nnx.Rngs(0)))(
        jnp.ones((1, 4, 2)), initial_carry=jnp.zeros((1, 3))
    ),
    "unknown implementation 'pallas_x'": lambda: jaxrnn.RNN(
        Decay(2, 3, rngs=nnx.Rngs(0)), implementation="pallas_x"
    )(jnp.ones((1, 4, 2))),
    "recurrent dropout needs a recurrent product, but a Decay has none": lambda: jaxrnn.StackedRNN(
        [Decay(2, 3, rngs=nnx.Rngs(0))], recurrent_dropout=0.5, rngs=nnx.Rngs(0)
    )(jnp.ones((1, 4, 2))),
    "a LRUCell cannot be exported to ONNX": lambda: jaxrnn.export.to_onnx(
        jaxrnn.RNN(jaxrnn.LRUCell(2, 3, rngs=nnx.Rngs(0)))
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_invalid_arguments_are_named_with_their_values(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


class WrongShape(Decay):
    def coefficients(self, xw, inputs):
        return xw[0][..., :2], xw[1]


class TooManyGates(Decay):
    def coefficients(self, xw, inputs):
        return xw[0], xw[2]


class Complex(Decay):
    def coefficients(self, xw, inputs):
        return 1j * xw[0], xw[1]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (WrongShape, "a that broadcasts to"),
        (TooManyGates, "Its xw has 2 arrays"),
        (Complex, "set complex_state = True"),
    ],
)
def test_coefficients_that_do_not_fit_are_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        jaxrnn.RNN(cell(2, 3, rngs=nnx.Rngs(0)))(jnp.ones((1, 4, 2)))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "must return two arrays.*not None"),
        ((1, 2, 3), r"must return two arrays.*not \(1, 2, 3\)"),
        ({"a": 1, "b": 2}, "must return two arrays.*not {'a': 1, 'b': 2}"),
        (("x", 1.0), "a from coefficients of Returns must be an array of numbers, not 'x'"),
        ((0.9, 1.0), r"b of this shape, not \(\) and \(\)"),
    ],
)
def test_what_coefficients_return_is_checked_and_shown(returned, message):
    class Returns(Decay):
        def coefficients(self, xw, inputs):
            return returned

    with pytest.raises(ValueError, match=message):
        Returns(2, 3, rngs=nnx.Rngs(0))(jnp.zeros(3), jnp.ones(2))


def test_a_decay_may_be_a_python_number():
    class Fixed(Decay):
        def coefficients(self, xw, inputs):
            return 0.5, jnp.ones_like(xw[0])

    outputs = jaxrnn.RNN(Fixed(2, 3, rngs=nnx.Rngs(0)))(jnp.ones((1, 3, 2)))
    np.testing.assert_allclose(outputs[0, :, 0], [1, 1.5, 1.75])
