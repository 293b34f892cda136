"""The block of xLSTM: against the package it comes from, in parts, with lengths, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrnn.interop import load_xlstm_weights
from jaxrnn.models import SLSTMBlock


def block(**options: Any) -> SLSTMBlock:
    return SLSTMBlock(8, **{"num_heads": 2, "mlp_features": 16, "rngs": nnx.Rngs(0), **options})


@nnx.jit
def run(ours: SLSTMBlock, x: Any, carry: Any = None, lengths: Any = None) -> Any:
    return ours(x, initial_carry=carry, seq_lengths=lengths, return_carry=True)


def values(*shape: int, seed: int = 0) -> Any:
    return np.random.RandomState(seed).randn(*shape).astype(np.float32)


@pytest.mark.filterwarnings("ignore")  # those of torch and xlstm
@pytest.mark.parametrize("conv_width", [4, 0])
def test_outputs_and_gradients_equal_those_of_the_package_xlstm(conv_width):
    torch = pytest.importorskip("torch")
    pytest.importorskip("xlstm")
    from xlstm.blocks.slstm import block as package  # pyright: ignore[reportMissingImports]
    from xlstm.blocks.slstm.layer import sLSTMLayerConfig  # pyright: ignore[reportMissingImports]
    from xlstm.components.feedforward import FeedForwardConfig  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    config = package.sLSTMBlockConfig(
        slstm=sLSTMLayerConfig(
            embedding_dim=8,
            num_heads=2,
            conv1d_kernel_size=conv_width,
            backend="vanilla",
            dtype="float32",
            enable_automatic_mixed_precision=False,
        ),
        feedforward=FeedForwardConfig(embedding_dim=8, proj_factor=2.0, round_proj_up_to_multiple_of=1),
        _num_blocks=1,
        _block_idx=0,
    )
    module = package.sLSTMBlock(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.5)
    inputs, weights = values(3, 12, 8), values(3, 12, 8, seed=1)
    x = torch.tensor(inputs, requires_grad=True)
    expected = module(x)
    (expected * torch.tensor(weights)).sum().backward()

    ours = block(conv_width=conv_width)
    load_xlstm_weights(ours, module.state_dict())
    graphdef, state = nnx.split(ours)

    def loss(state, x):
        outputs = nnx.merge(graphdef, state)(x)
        return (outputs * weights).sum(), outputs

    (_, outputs), (gradients, dinputs) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(state, inputs)
    np.testing.assert_allclose(outputs, expected.detach(), atol=1e-5, rtol=1e-5)
    # The gradients of the weights, by the places of the weights: what the loader does with them is linear,
    # but for the 1 that it adds to the scales of norms.
    places = {name: p.grad for name, p in module.named_parameters()}
    moved = block(conv_width=conv_width)
    load_xlstm_weights(moved, places)
    wanted = nnx.to_pure_dict(nnx.state(moved))
    wanted["head_scale"] -= 1
    for name in ("norm", "mlp_norm"):
        wanted[name]["scale"] -= 1
    found = nnx.to_pure_dict(gradients)
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        scale = float(np.abs(b).max())
        np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=1e-4, err_msg=jax.tree_util.keystr(path))
    np.testing.assert_allclose(dinputs, x.grad, atol=1e-5 * float(x.grad.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("conv_width", [4, 0])
def test_parts_with_the_carry_handed_over_equal_the_whole_and_padding_reaches_nothing(conv_width):
    ours, x = block(conv_width=conv_width), values(3, 7, 8)
    whole_carry, whole = run(ours, x)
    carry, first = run(ours, x[:, :2])  # fewer steps than the convolution sees
    steps = [first]
    for step in range(2, 7):
        carry, y = run(ours, x[:, step : step + 1], carry)
        steps.append(y)
    np.testing.assert_allclose(np.concatenate(steps, axis=1), whole, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), carry, whole_carry)

    lengths = np.array([2, 0, 7])
    padding = np.arange(7) >= lengths[:, None]
    poisoned = np.where(padding[..., None], np.nan, x)
    graphdef, state = nnx.split(ours)

    def loss(state):
        carry, outputs = run(nnx.merge(graphdef, state), poisoned, None, lengths)
        return (outputs**2).sum(), (carry, outputs)

    gradients, (carry, outputs) = jax.grad(loss, has_aux=True)(state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(outputs, np.where(padding[..., None], 0, whole), atol=1e-5)
    for row, length in enumerate(lengths):
        alone, _ = run(ours, x[row : row + 1, :length])
        jax.tree.map(lambda a, b, r=row: np.testing.assert_allclose(a[r], b[0], atol=1e-5), carry, alone)


def test_half_precision_stays_near_and_invalid_arguments_are_named():
    x = values(2, 5, 8)
    narrow, wide = (run(block(dtype=dtype), x)[1] for dtype in (jnp.bfloat16, None))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(narrow, np.float32), wide, atol=0.1)
    with pytest.raises(ValueError, match=r"inputs must be \[batch, time, 8\], not \(2, 5, 7\)"):
        block()(x[..., :7])
    with pytest.raises(ValueError, match="seq_lengths"):
        block()(x, seq_lengths=jnp.array([5, 6]))
    first = block().initialize_carry(2)
    refused: list[tuple[Any, str]] = [
        ((first.inputs, first.cell), "the carry has the structure"),
        (first._replace(cell=3), "the carry has the structure"),
        (
            first._replace(inputs=first.inputs[:1]),
            r"the carry.inputs is float32 \(1, 3, 8\), but for inputs of shape",
        ),
        (block().initialize_carry(3), "the carry.inputs is"),
    ]
    for carry, message in refused:
        with pytest.raises(ValueError, match=message):
            block()(x, initial_carry=carry)
    with pytest.raises(ValueError, match="num_heads=3 must divide"):
        block(num_heads=3)
    with pytest.raises(ValueError, match="conv_width must be a positive integer, not -1"):
        block(conv_width=-1)
    with pytest.raises(ValueError, match=r"the state has no 'xlstm_norm\.weight'"):
        load_xlstm_weights(block(), {"_bias_": np.zeros(32)})
