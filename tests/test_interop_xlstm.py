"""The sLSTM computes what the package xlstm does with the same weights, and so do its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.interop import load_xlstm_weights


def cell(**options) -> jaxrnn.SLSTMCell:
    return jaxrnn.SLSTMCell(8, 8, num_heads=2, rngs=nnx.Rngs(0), **options)


@pytest.mark.filterwarnings("ignore")  # those of torch and xlstm
def test_outputs_and_gradients_equal_the_vanilla_backend_of_xlstm():
    torch = pytest.importorskip("torch")
    pytest.importorskip("xlstm")
    from xlstm.blocks.slstm.layer import sLSTMLayer, sLSTMLayerConfig  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    config = sLSTMLayerConfig(
        embedding_dim=8,
        num_heads=2,
        conv1d_kernel_size=0,
        dropout=0.0,
        backend="vanilla",
        dtype="float32",
        enable_automatic_mixed_precision=False,
        output_shape="BSH",
    )
    module = sLSTMLayer(config)
    inner = module.slstm_cell
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.7)
    random = np.random.RandomState(0)
    inputs, weights = (random.randn(3, 20, 8).astype(np.float32) for _ in range(2))

    x = torch.tensor(inputs, requires_grad=True)
    gates = torch.cat([module.fgate(x), module.igate(x), module.zgate(x), module.ogate(x)], -1)
    expected = inner(gates)[0]
    (expected * torch.tensor(weights)).sum().backward()

    ours = cell()
    load_xlstm_weights(ours, module.state_dict())
    graphdef, state = nnx.split(ours)

    @jax.jit
    def run(state, x):
        def loss(state, x):
            outputs = jaxrnn.RNN(nnx.merge(graphdef, state))(x)
            return (outputs * weights).sum(), outputs

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(state, x)

    (_, outputs), (gradients, dinputs) = run(state, jnp.asarray(inputs))
    found = nnx.to_pure_dict(gradients)
    np.testing.assert_allclose(outputs, expected.detach(), atol=1e-5, rtol=1e-5)
    scale = float(np.abs(dinputs).max())
    np.testing.assert_allclose(dinputs, x.grad, atol=1e-5 * scale)
    for name, of_torch in (
        ("recurrent_kernel", np.asarray(inner._recurrent_kernel_.grad).swapaxes(1, 2)),
        ("bias", np.asarray(inner._bias_.grad)),
        *((gate, getattr(module, gate).weight.grad.numpy()) for gate in ("fgate", "igate", "zgate", "ogate")),
    ):
        ours_found = found.get(name)
        if ours_found is None:
            number = ("fgate", "igate", "zgate", "ogate").index(name)
            blocks = found["kernel"].reshape(2, 4, 4, 2, 4)[:, :, number]  # [heads, in, heads, out]
            ours_found = np.stack([blocks[head, :, head].T for head in range(2)])
        scale = np.abs(of_torch).max()
        np.testing.assert_allclose(ours_found, of_torch, atol=1e-5 * scale, err_msg=name)


def test_a_cell_in_float64_gets_every_bit_of_the_weights_of_the_gates():
    random = np.random.default_rng(0)
    state = {f"{name}gate.weight": random.normal(size=(2, 4, 4)) for name in "fizo"}
    state |= {
        "slstm_cell._recurrent_kernel_": random.normal(size=(2, 16, 4)),
        "slstm_cell._bias_": random.normal(size=32),
    }
    with jax.enable_x64(True):
        ours = cell(param_dtype=jnp.float64)
        load_xlstm_weights(ours, state)
        kernel = np.asarray(ours.kernel[...]).reshape(2, 4, 4, 2, 4)  # [heads, in, gates, heads, out]
    for number, name in enumerate("fizo"):
        for head in range(2):
            np.testing.assert_array_equal(kernel[head, :, number, head], state[f"{name}gate.weight"][head].T)


def test_a_state_that_does_not_fit_is_refused_with_what_is_wrong():
    good = {"_recurrent_kernel_": np.zeros((2, 16, 4)), "_bias_": np.zeros(32)}
    with pytest.raises(ValueError, match=r"_bias_ has shape \(31,\), but the cell needs \(32,\)"):
        load_xlstm_weights(cell(), good | {"_bias_": np.zeros(31)})
    with pytest.raises(ValueError, match="no place for conv1d"):
        load_xlstm_weights(cell(), good | {"conv1d.weight": np.zeros(3)})
    with pytest.raises(ValueError, match="no '_bias_'; it has _recurrent_kernel_"):
        load_xlstm_weights(cell(), {"_recurrent_kernel_": good["_recurrent_kernel_"]})
    with pytest.raises(ValueError, match="sigmoid forget gate and a bias"):
        load_xlstm_weights(cell(use_bias=False), good)
    with pytest.raises(ValueError, match="must be the state_dict"):
        load_xlstm_weights(cell(), [])  # pyright: ignore[reportArgumentType]
