"""Weights carried to and from the real PyTorch and Keras: outputs, carries and gradients must agree."""

import os
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn import interop

TOLERANCE = 1e-5
X = np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32)


def assert_close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=TOLERANCE, atol=TOLERANCE)


def assert_near(ours, theirs):
    """For gradients, whose entries differ in size: within the tolerance of the largest one."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def randomized(module):
    """Every parameter random, biases included, so that nothing agrees by being zero."""
    state = nnx.state(module, nnx.Param)
    leaves, treedef = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    random = [0.5 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    nnx.update(module, jax.tree.unflatten(treedef, random))
    return module


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(scope="module")
def keras():
    os.environ["KERAS_BACKEND"] = "jax"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras", reason="Keras is not installed")


@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_pytorch_both_ways(torch, kind, bidirectional, use_bias):
    def make(seed):
        return getattr(jaxrnn, kind)(
            4,
            5,
            num_layers=2,
            bidirectional=bidirectional,
            use_bias=use_bias,
            return_carry=True,
            rngs=nnx.Rngs(seed),
        )

    torch_type = getattr(torch.nn, "RNN" if kind == "SimpleRNN" else kind)
    module = torch_type(4, 5, 2, bias=use_bias, batch_first=True, bidirectional=bidirectional)
    ours = make(0)
    state = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    interop.load_torch_weights(ours, state)

    inputs = torch.tensor(X, requires_grad=True)
    outputs, last = module(inputs)
    (outputs**2).sum().backward()
    carry, our_outputs = ours(jnp.asarray(X))
    assert_close(our_outputs, outputs.detach())
    hs = last[0] if kind == "LSTM" else last
    flat = [c for layer in carry for c in (layer if bidirectional else [layer])]
    assert_close(jnp.stack([c.h if kind == "LSTM" else c for c in flat]), hs.detach())
    if kind == "LSTM":
        assert_close(jnp.stack([c.c for c in flat]), last[1].detach())

    def loss(model, x):
        return (model(x)[1] ** 2).sum()

    gradients, dx = nnx.jit(nnx.grad(loss, argnums=(0, 1)))(ours, jnp.asarray(X))
    assert_near(dx, inputs.grad)
    cell = gradients["cells"][0]
    assert_near(cell["kernel"][...].T, module.weight_ih_l0.grad)
    np.testing.assert_allclose(
        cell["recurrent_kernel"][...].T, module.weight_hh_l0.grad, rtol=1e-4, atol=TOLERANCE
    )
    if use_bias:
        assert_near(cell["bias"][...], module.bias_ih_l0.grad)

    other = randomized(make(1))
    back = torch_type(4, 5, 2, bias=use_bias, batch_first=True, bidirectional=bidirectional)
    back.load_state_dict({name: torch.from_numpy(array) for name, array in interop.torch_weights(other).items()})
    assert_close(other(jnp.asarray(X))[1], back(torch.tensor(X))[0].detach())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("SimpleRNN", {}),
        ("SimpleRNN", {"use_bias": False}),
        ("LSTM", {}),
        ("GRU", {"reset_after": True}),
        ("GRU", {"reset_after": False}),
        ("GRU", {"reset_after": True, "use_bias": False}),
    ],
)
def test_keras_both_ways(keras, kind, options):
    cell = randomized(getattr(jaxrnn, f"{kind}Cell")(4, 5, rngs=nnx.Rngs(0), **options))
    layer = getattr(keras.layers, kind)(5, return_sequences=True, **options)
    layer.build(X.shape)
    layer.set_weights(interop.keras_weights(cell))
    ours = jaxrnn.RNN(cell)
    assert_close(ours(jnp.asarray(X)), layer(X))

    trainable = [variable.value for variable in layer.trainable_variables]

    def keras_loss(weights, x):
        outputs, _ = layer.stateless_call(weights, [v.value for v in layer.non_trainable_variables], x)
        return (outputs**2).sum()

    dweights, dx = jax.grad(keras_loss, argnums=(0, 1))(trainable, jnp.asarray(X))
    gradients, our_dx = nnx.grad(lambda m, x: (m(x) ** 2).sum(), argnums=(0, 1))(ours, jnp.asarray(X))
    assert_near(our_dx, dx)
    as_cell = getattr(jaxrnn, f"{kind}Cell")(4, 5, rngs=nnx.Rngs(0), **options)
    nnx.update(as_cell, gradients["cell"])
    for ours_, theirs in zip(interop.keras_weights(as_cell), dweights):
        assert_near(ours_, theirs)

    fresh = getattr(jaxrnn, f"{kind}Cell")(4, 5, rngs=nnx.Rngs(7), **options)
    interop.load_keras_weights(fresh, [np.asarray(variable.value) for variable in layer.weights])
    np.testing.assert_array_equal(jaxrnn.RNN(fresh)(jnp.asarray(X)), ours(jnp.asarray(X)))


def test_what_does_not_fit_is_said_and_changes_nothing():
    stack = jaxrnn.LSTM(4, 5, rngs=nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(stack))
    state = interop.torch_weights(stack)
    missing = {name: array for name, array in state.items() if name != "bias_hh_l0"}
    for wrong, message in (
        (missing, "no 'bias_hh_l0'; it has bias_ih_l0"),
        (state | {"weight_ih_l1": state["weight_ih_l0"]}, "no place for weight_ih_l1"),
        (
            state | {"weight_hh_l0": np.zeros((20, 6))},
            r"weight_hh_l0 has shape \(20, 6\), but the layers need \(20, 5\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            interop.load_torch_weights(stack, wrong)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(stack))
    with pytest.raises(ValueError, match="is reset_after the same"):
        interop.load_keras_weights(
            jaxrnn.GRUCell(4, 5, rngs=nnx.Rngs(0)),
            interop.keras_weights(jaxrnn.GRUCell(4, 5, reset_after=False, rngs=nnx.Rngs(0))),
        )
    with pytest.raises(ValueError, match="reset_after=False"):
        interop.torch_weights(jaxrnn.GRU(4, 5, reset_after=False, rngs=nnx.Rngs(0)))
    both: Any = jaxrnn.Bidirectional(*(jaxrnn.RNN(jaxrnn.GRUCell(4, 5, rngs=nnx.Rngs(0))) for _ in range(2)))
    with pytest.raises(ValueError, match="StackedRNN have a counterpart, not Bidirectional"):
        interop.torch_weights(both)
    with pytest.raises(ValueError, match="have a counterpart, not LinearCell"):
        interop.keras_weights(LinearCell(4, 5, rngs=nnx.Rngs(0)))


class Louder(jaxrnn.LSTMCell):
    def pointwise(self, carry, xw, rh):
        carry, h = super().pointwise(carry, xw, rh)
        return carry, 2 * h


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: jaxrnn.LSTM(4, 5, num_layers=2, skip_connections=True, rngs=r), "skip_connections"),
        (lambda r: jaxrnn.LSTM(4, 5, bidirectional=True, merge="sum", rngs=r), "merge with add_features"),
        (lambda r: jaxrnn.LSTM(4, (5, 6), rngs=r), "one size, these LSTMCell of 5, LSTMCell of 6"),
        (
            lambda r: jaxrnn.StackedRNN([jaxrnn.LSTMCell(4, 5, rngs=r), jaxrnn.GRUCell(5, 5, rngs=r)]),
            "one kind of cell",
        ),
        (lambda r: jaxrnn.RNN(Louder(4, 5, rngs=r)), "Louder has a pointwise of its own, and so no counterpart"),
    ],
)
def test_what_pytorch_does_not_have_is_refused_both_ways(make, message):
    layers = make(nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        interop.torch_weights(layers)
    with pytest.raises(ValueError, match=message):
        interop.load_torch_weights(layers, {})


def test_a_module_is_no_state_dict():
    layers: Any = jaxrnn.LSTM(4, 5, rngs=nnx.Rngs(0))
    nothing: Any = None
    for state, text in ((layers, "a LSTM"), (nothing, "None")):
        with pytest.raises(ValueError, match=rf"must be the state_dict\(\) of a torch module, not {text}"):
            interop.load_torch_weights(layers, state)


def test_a_gru_without_recurrent_bias_is_written_with_zeros_and_reads_none():
    cell = jaxrnn.GRUCell(4, 5, use_recurrent_bias=False, bias_init=nnx.initializers.normal(), rngs=nnx.Rngs(0))
    stack = jaxrnn.StackedRNN([cell])
    bias = interop.keras_weights(cell)[2]
    assert bias.shape == (2, 15) and bias[0].all() and not bias[1].any()
    state = interop.torch_weights(stack)
    assert state["bias_ih_l0"].all() and not state["bias_hh_l0"].any()
    with pytest.raises(ValueError, match="Keras's GRU has a recurrent bias"):
        interop.load_keras_weights(cell, interop.keras_weights(cell))
    with pytest.raises(ValueError, match="PyTorch's GRU has a recurrent bias"):
        interop.load_torch_weights(stack, state)


def test_half_precision_tensors_are_read_as_well(torch):
    module, ours = torch.nn.GRU(4, 5).to(torch.bfloat16), jaxrnn.GRU(4, 5, rngs=nnx.Rngs(0))
    interop.load_torch_weights(ours, module.state_dict())
    cell: Any = ours.cells[0]
    assert_close(cell.kernel[...].T, module.weight_ih_l0.detach().float())


def test_parameters_that_want_gradients_are_read_as_well(torch):
    module, ours = torch.nn.LSTM(4, 5, batch_first=True), jaxrnn.LSTM(4, 5, rngs=nnx.Rngs(0))
    interop.load_torch_weights(ours, dict(module.named_parameters()))
    assert_close(ours(jnp.asarray(X)), module(torch.tensor(X))[0].detach())


@pytest.mark.parametrize("recurrent_bias", [True, "candidate"])
def test_a_recurrent_bias_without_a_bias_of_the_inputs_is_written(torch, keras, recurrent_bias):
    options: dict[str, Any] = dict(use_bias=False, use_recurrent_bias=recurrent_bias)
    layers = randomized(jaxrnn.GRU(4, 5, **options, rngs=nnx.Rngs(0)))
    module = torch.nn.GRU(4, 5, batch_first=True)
    state = interop.torch_weights(layers)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    assert_close(layers(jnp.asarray(X)), module(torch.tensor(X))[0].detach())
    layer = keras.layers.GRU(5, return_sequences=True)
    layer.build(X.shape)
    layer.set_weights(interop.keras_weights(layers))
    assert_close(layers(jnp.asarray(X)), layer(X))
    if recurrent_bias is not True:
        return
    pairs: list[tuple[Any, Any]] = [
        (interop.load_torch_weights, state),
        (interop.load_keras_weights, interop.keras_weights(layers)),
    ]
    for load, weights in pairs:
        again = jaxrnn.GRU(4, 5, **options, rngs=nnx.Rngs(1))
        load(again, weights)
        jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(layers))
    before = jax.tree.map(jnp.copy, nnx.state(layers))
    with pytest.raises(ValueError, match=r"PyTorch's GRU has a bias of the inputs.*use_bias=True"):
        interop.load_torch_weights(layers, state | {"bias_ih_l0": np.ones(15)})
    with pytest.raises(ValueError, match="the state has no 'bias_ih_l0'"):
        interop.load_torch_weights(layers, {name: state[name] for name in state if "weight" in name})
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(layers))


@pytest.mark.parametrize("wrong", [None, "text", np.ones(15) * 1j, [None] * 15], ids=str)
def test_arrays_that_cannot_be_loaded_change_nothing(wrong):
    layers = jaxrnn.GRU(4, 5, rngs=nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(layers))
    with pytest.raises(ValueError, match="bias_hh_l0 must be an array of real numbers, not"):
        interop.load_torch_weights(layers, interop.torch_weights(layers) | {"bias_hh_l0": wrong})
    arrays = interop.keras_weights(layers)
    refused: list[Any] = [[*arrays[:2], wrong], [*arrays[:2], np.ones((2, 15)) * 1j], None, layers, arrays[0]]
    for weights in refused:
        with pytest.raises(ValueError, match="weights"):
            interop.load_keras_weights(layers, weights)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(layers))
    interop.load_keras_weights(layers, iter([array + 1 for array in arrays]))
    np.testing.assert_array_equal(interop.keras_weights(layers)[0], arrays[0] + 1)


@pytest.mark.parametrize("library", ["torch", "keras"])
def test_a_gru_with_a_bias_of_the_candidate_only_reads_nothing(library):
    layers = jaxrnn.GRU(4, 5, use_recurrent_bias="candidate", rngs=nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(layers))
    other = randomized(jaxrnn.GRU(4, 5, rngs=nnx.Rngs(1)))
    with pytest.raises(ValueError, match="make the cells with use_recurrent_bias=True"):
        getattr(interop, f"load_{library}_weights")(layers, getattr(interop, f"{library}_weights")(other))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(layers))


class TwiceTheInputs(jaxrnn.LSTMCell):
    def __call__(self, carry, inputs):
        return super().__call__(carry, 2 * inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: jaxrnn.LSTM(4, 5, zoneout=0.3, rngs=r), "has no zoneout"),
        (lambda r: jaxrnn.StackedRNN([TwiceTheInputs(4, 5, rngs=r)]), "TwiceTheInputs has a __call__ of its own"),
    ],
)
def test_layers_that_compute_something_else_are_refused(make, message):
    layers = make(nnx.Rngs(0))
    layers.eval()
    weights = jaxrnn.LSTM(4, 5, rngs=nnx.Rngs(0))
    for call in (
        lambda: interop.torch_weights(layers),
        lambda: interop.keras_weights(layers),
        lambda: interop.load_torch_weights(layers, interop.torch_weights(weights)),
        lambda: interop.load_keras_weights(layers, interop.keras_weights(weights)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_int8_kernels_are_written_but_not_loaded():
    layers: Any = jaxrnn.LSTM(4, 5, rngs=nnx.Rngs(0))
    small = jaxrnn.export.quantize(layers)
    state, arrays = interop.torch_weights(small), interop.keras_weights(small)
    np.testing.assert_allclose(state["weight_ih_l0"].T, layers.cells[0].kernel[...], atol=0.01)
    pairs: list[tuple[Any, Any]] = [(interop.load_torch_weights, state), (interop.load_keras_weights, arrays)]
    for load, weights in pairs:
        with pytest.raises(ValueError, match="load the weights first, then call quantize"):
            load(small, weights)


def test_weights_of_bfloat16_are_written_in_float32(torch):
    layers: Any = jaxrnn.GRU(4, 5, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    module = torch.nn.GRU(4, 5)
    state = {name: torch.from_numpy(array) for name, array in interop.torch_weights(layers).items()}
    module.load_state_dict(state)
    np.testing.assert_array_equal(module.weight_ih_l0.detach().T, layers.cells[0].kernel[...].astype(jnp.float32))


class LinearCell(jaxrnn.RecurrentCell):
    def pointwise(self, carry, xw, rh):
        return xw[0] + rh[0], xw[0] + rh[0]
