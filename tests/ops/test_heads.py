"""Recurrent kernels with heads: every implementation computes what it computes with the block-diagonal kernel."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import IMPLEMENTATIONS, explain, lstm_pointwise, recurrence
from jaxrnn.ops.native import library
from tests.ops.interpreted import KERNELS
from tests.ops.oracle import CASES, Case, assert_close, loop_and_gradients, problem

ALL = IMPLEMENTATIONS | KERNELS
BY_NAME = {case.name: case for case in CASES}
HEADS, UNITS, TIME, BATCH = 3, 2, 4, (5,)

needs_library = pytest.mark.skipif(library.why_not_loaded() is not None, reason=str(library.why_not_loaded()))


@pytest.fixture(scope="module", autouse=True)
def float64_and_interpreted_kernels():
    IMPLEMENTATIONS.update(KERNELS)
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
    for name in KERNELS:
        del IMPLEMENTATIONS[name]


def block_diagonal(kernel: Any) -> Any:
    """``[heads, units, gates * units]`` as ``[heads * units, gates * heads * units]``."""
    heads, units, width = kernel.shape
    gates = width // units
    blocks = np.zeros((heads, units, gates, heads, units))
    of_blocks = np.eye(heads)[:, None, None, :, None] * np.ones_like(blocks)
    spread = jnp.broadcast_to(kernel.reshape(heads, units, gates, 1, units), blocks.shape)
    return (spread * of_blocks).reshape(heads * units, gates * heads * units)


def blocks_of(dense: Any, heads: int) -> Any:
    """The gradient of the blocks from that of the block-diagonal kernel."""
    units = dense.shape[0] // heads
    split = dense.reshape(heads, units, -1, heads, units)
    return np.stack([split[n, :, :, n].reshape(units, -1) for n in range(heads)])


def with_heads(case: Case, **options: Any):
    """A problem whose kernels have heads, the same without, and the cotangents."""
    arguments, cotangents = problem(case, TIME, BATCH, HEADS * UNITS, **options)
    random = np.random.RandomState(7)
    kernels = {"recurrent_kernel": (case.recurrent_gates or case.gates) * UNITS}
    if case.name == "gru_reset_before":
        kernels["params"] = UNITS
    headed = arguments | {name: random.randn(HEADS, UNITS, width) for name, width in kernels.items()}
    dense = headed | {name: np.asarray(block_diagonal(headed[name])) for name in kernels}
    return headed, dense, cotangents, kernels


RANDOM = np.random.RandomState(3)
MASKS = {
    "seq_lengths": np.array([0, 4, 3, 1, 4]),
    "resets": RANDOM.rand(TIME, *BATCH) < 0.4,
    "recurrent_scale": RANDOM.rand(*BATCH, HEADS * UNITS),
}


@functools.cache
def compiled(case: Case, implementation: str, reverse: bool):
    @jax.jit
    def run(arguments, cotangents, masks):
        def forward(arguments):
            return recurrence(case.pointwise, **arguments, **masks, reverse=reverse, implementation=implementation)

        results, pullback = jax.vjp(forward, arguments)
        return results, pullback(cotangents)[0]

    return run


PAIRS = {
    "lstm": ["reference"],
    "leaky": ["native", "pallas_triton"],
    "two_part": ["native"],
    "gru": ["scan", "native", "pallas_triton", "pallas_mosaic_tpu"],
    "gru_reset_before": ["scan", "native"],
    "slstm": ["native", "pallas_triton"],
}
"""Together these have all that depends on heads: parameters, recurrent biases, second products, several parts."""


@pytest.mark.parametrize(("name", "implementation"), [(name, i) for name, of in PAIRS.items() for i in of])
def test_heads_equal_the_block_diagonal_kernel(name, implementation):
    if implementation == "native" and library.why_not_loaded() is not None:
        pytest.skip(str(library.why_not_loaded()))
    case, reverse = BY_NAME[name], implementation == "scan"
    headed, dense, cotangents, kernels = with_heads(case, optional=True)
    found = compiled(case, implementation, reverse)(headed, cotangents, MASKS)
    results, gradients = loop_and_gradients(case, dense, cotangents, **MASKS, reverse=reverse)
    gradients = gradients | {kernel: blocks_of(np.asarray(gradients[kernel]), HEADS) for kernel in kernels}
    assert_close(found, (results, gradients))


@pytest.mark.parametrize("name", ["pallas_triton", "pallas_mosaic_tpu"])
def test_heads_of_one_unit_may_share_a_parameter_also_of_a_weak_type(name):
    def scaled(params, carry, xw, rh):
        h = jnp.tanh(xw[0] + params * rh[0])
        return h, h

    def total(arguments, implementation):
        kernel, scale = arguments
        arrays = kernel, jnp.full((4, 2, 3), 0.5), jnp.full((2, 3), 0.1)
        return recurrence(scaled, *arrays, params=scale, implementation=implementation)[1].sum()

    arguments = jnp.linspace(0.1, 0.5, 3).reshape(3, 1, 1), jnp.asarray(0.7)
    found, expected = (jax.grad(total)(arguments, implementation) for implementation in (name, "scan"))
    assert_close(found, expected)


@pytest.mark.parametrize("implementation", ["scan", "native"])
def test_of_an_empty_batch_the_gradients_are_zero(implementation):
    if implementation == "native" and library.why_not_loaded() is not None:
        pytest.skip(str(library.why_not_loaded()))
    headed, _, cotangents, _ = with_heads(BY_NAME["lstm"])
    empty = headed | {"xw": headed["xw"][:, :0]}
    empty["initial_carry"] = jax.tree.map(lambda a: a[:0], headed["initial_carry"])
    cotangents = jax.tree.map(lambda a: a[:0], cotangents[0]), cotangents[1][:, :0]
    (carry, outputs), gradients = compiled(BY_NAME["lstm"], implementation, False)(empty, cotangents, {})
    assert outputs.shape == (TIME, 0, HEADS * UNITS) and carry.c.shape == (0, HEADS * UNITS)
    assert not gradients["recurrent_kernel"].any()


@pytest.mark.parametrize("implementation", ["scan", "native"])
def test_one_head_is_the_cell_without_heads_bit_for_bit(implementation):
    if implementation == "native" and library.why_not_loaded() is not None:
        pytest.skip(str(library.why_not_loaded()))
    case = BY_NAME["lstm"]
    arguments, cotangents = problem(case, 3, (2,), 20)
    plain = compiled(case, implementation, False)(arguments, cotangents, {})
    one = arguments | {"recurrent_kernel": arguments["recurrent_kernel"][None]}
    found = compiled(case, implementation, False)(one, cotangents, {})
    found[1]["recurrent_kernel"] = found[1]["recurrent_kernel"][0]
    assert jax.tree.all(jax.tree.map(np.array_equal, found, plain))


@needs_library
@pytest.mark.parametrize("name", ["lstm", "slstm"])
@pytest.mark.parametrize(("heads", "units", "batch"), [(2, 37, 40), (5, 16, 3), (1, 300, 2)], ids=str)
def test_the_library_at_sizes_with_threads_panels_and_tails(name, heads, units, batch):
    case, hidden = BY_NAME[name], heads * units
    arguments, cotangents = problem(case, 24, (batch,), hidden, optional=True)
    random = np.random.RandomState(1)
    arguments["recurrent_kernel"] = random.randn(heads, units, 4 * units) / np.sqrt(units)
    masks = {"seq_lengths": random.randint(0, 25, batch), "resets": random.rand(24, batch) < 0.1}
    found, expected = (compiled(case, name, False)(arguments, cotangents, masks) for name in ("native", "scan"))
    assert_close(found, expected)


def test_what_cannot_run_heads_says_so():
    def of_all_units(params, carry, xw, rh):
        h = jnp.tanh(xw[0] + rh[0])
        return h - h.mean(-1, keepdims=True), h

    def shape(*sizes: int, dtype: str = "float32") -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    why = explain(of_all_units, shape(2, 3, 3), shape(5, 4, 6), shape(4, 6), platform="cpu").reasons["native"]
    assert "sum or maximum over the units of all heads" in why or library.why_not_loaded()
    carry = type(problem(BY_NAME["lstm"], 1)[0]["initial_carry"])(*[shape(4, 1024, dtype="bfloat16")] * 2)
    half = functools.partial(shape, dtype="bfloat16")
    found = explain(lstm_pointwise, half(2, 512, 2048), half(5, 4, 4096), carry, platform="gpu")
    assert found.chosen == "scan" and "do not share the units of heads" in found.reasons["pallas"]
    carry = type(carry)(*[half(4, 768)] * 2)
    assert explain(lstm_pointwise, half(12, 64, 256), half(5, 4, 3072), carry, platform="gpu").chosen == "pallas"


@pytest.mark.parametrize("shape", [(2, 2, 8), (2, 3, 7), (3, 2, 0), (6,), (1, 2, 3, 4)], ids=str)
def test_kernels_of_other_shapes_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=r"recurrent_kernel\.shape=.*hidden = 6"):
        recurrence(lstm_pointwise, jnp.ones(shape), jnp.ones((5, 4, 24)), jnp.ones((4, 6)))
