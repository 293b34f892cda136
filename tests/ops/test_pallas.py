"""What is the kernels' own: what they refuse, what they save, padding and tiles, and that compilers take them."""

import re
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractMesh, AxisType, use_abstract_mesh
from jax.sharding import PartitionSpec as P

import benchmarks.aot
from benchmarks.aot import CELLS, forward_and_backward, shapes, without_masks_gradients
from benchmarks.common.compilers import KINDS, known_device
from jaxrnn.ops import (
    IMPLEMENTATIONS,
    LSTMCarry,
    explain,
    gru_pointwise,
    gru_reset_before_pointwise,
    lstm_pointwise,
    recurrence,
    simple_rnn_pointwise,
)
from jaxrnn.ops.pallas import mosaic_tpu, not_a_tile
from jaxrnn.ops.pallas.cell import Cell, plan
from jaxrnn.ops.pallas.mosaic_gpu import MOSAIC_GPU
from jaxrnn.ops.pallas.mosaic_gpu_sm import MOSAIC_GPU_SM
from jaxrnn.ops.pallas.mosaic_tpu import MOSAIC_TPU
from jaxrnn.ops.pallas.triton import TRITON
from jaxrnn.ops.step import Recurrence
from jaxrnn.ops.varying import varying_alike
from tests.ops.interpreted import KERNELS, RACES
from tests.ops.oracle import assert_close

TANH = simple_rnn_pointwise(jnp.tanh)


def arrays(hidden: int = 64, gates: int = 1, dtype: Any = "bfloat16", carry: Any = lambda h: h, params: Any = ()):
    """Shapes of a recurrence."""

    def array(*shape, dtype=dtype) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    h = array(2, hidden)
    return Recurrence(array(hidden, gates * hidden), array(5, 2, gates * hidden), carry(h), params)


def reason(pointwise, a: Recurrence, platform: str) -> str | None:
    choice = explain(pointwise, a.recurrent_kernel, a.xw, a.initial_carry, params=a.params, platform=platform)
    return choice.reasons.get("pallas")


def test_a_cpu_is_refused_by_name_and_something_else_runs():
    x = jnp.ones((3, 2, 4))
    with pytest.raises(
        ValueError, match="implementation='pallas' cannot run this: it needs a gpu or a tpu, not a cpu"
    ):
        recurrence(TANH, jnp.eye(4), x, x[0], implementation="pallas")
    assert explain(TANH, jnp.eye(4), x, x[0], platform="cpu").chosen in ("native", "scan")


@pytest.mark.parametrize(
    ("gates", "dtype", "largest"),
    [(1, "bfloat16", 256), (3, "bfloat16", 128), (4, "bfloat16", 128), (1, "float32", 128), (4, "float32", 64)],
)
def test_on_a_gpu_the_kernel_is_picked_up_to_the_largest_hidden_size_that_fits(gates, dtype, largest):
    pointwise, carry = {1: (TANH, None), 3: (gru_pointwise, None), 4: (lstm_pointwise, LSTMCarry)}[gates]

    def why_not(hidden):
        a = arrays(hidden, gates, dtype, carry=lambda h: carry(h, h) if carry else h)
        return TRITON.unable(a), reason(pointwise, a, "gpu")

    assert why_not(largest) == (None, None)
    found, other = why_not(largest + 1)
    assert found is not None
    assert found.endswith(f"the largest hidden size that does is {largest}")
    # A cluster of SMs has room, but for half precision only.
    only_half = "the kernels for the tensor cores of Hopper multiply bfloat16 and float16, not float32"
    assert other == (f"{only_half}; {found}" if dtype == "float32" else None)


def test_on_a_tpu_a_larger_size_fits_but_scan_is_picked_until_somebody_measures():
    assert MOSAIC_TPU.unable(arrays(1024)) is None
    assert MOSAIC_TPU.unable(arrays(2048, 4, carry=lambda h: LSTMCarry(h, h))) is None
    assert "the largest hidden size that does is 2048" in str(MOSAIC_TPU.unable(arrays(4096, 4)))
    assert "not measured" in str(reason(TANH, arrays(), "tpu"))


def test_all_bits_of_float32_have_their_own_limit():
    with jax.default_matmul_precision("highest"):
        assert TRITON.unable(arrays(64, dtype="float32")) is None
        for hidden in (128, 512):
            assert "is 64, or ask for the precision" in str(TRITON.unable(arrays(hidden, dtype="float32")))
        assert TRITON.unable(arrays(128)) is None  # bfloat16 has no such bits


def mean_over_units(params, carry, xw, rh):
    return carry, xw[0] - xw[0].mean(-1, keepdims=True)


def constant(params, carry, xw, rh):
    return carry, xw[0] * np.full(1, 0.9, np.float32)


@pytest.mark.parametrize(
    ("pointwise", "changes", "message"),
    [
        (mean_over_units, {}, "not elementwise: it or its derivative has reduce_sum"),
        (lambda p, c, xw, rh: (c, jnp.cumsum(xw[0], -1)), {}, "has cumsum, which kernels lack"),
        (lambda p, c, xw, rh: (c, xw[0] * jax.lax.lgamma(rh[0])), {}, "has lgamma, which kernels lack"),
        (constant, {}, "closes over an array"),
        (
            lambda p, c, xw, rh: (c, p @ xw[0]),
            {"params": jax.ShapeDtypeStruct((64,), "float32")},
            "does not take tiles",
        ),
        (gru_reset_before_pointwise, {"params": jax.ShapeDtypeStruct((64, 64), "bfloat16")}, r"\(64, 64\)"),
        (TANH, {"params": jax.ShapeDtypeStruct((64,), "int32")}, "params is int32, but the GPU kernel runs"),
        (TANH, {"dtype": "float64"}, "xw is float64, but the GPU kernel runs float32, bfloat16, float16"),
        (
            lambda p, c, xw, rh: (c, xw[0]),
            {"carry": lambda h: (jax.ShapeDtypeStruct((2, 7), "bfloat16"), h)},
            "7 columns, not those of h: 64",
        ),
    ],
)
def test_what_the_kernels_cannot_run_falls_back_and_is_told(pointwise, changes, message):
    found = reason(pointwise, arrays(**changes), "gpu")
    assert found is not None
    assert re.search(message, found), found


def test_what_is_saved_of_a_step():
    def kept(pointwise, a):
        found = plan(Cell.of(pointwise, a))
        return len(found.kept), found.carries, found.shared

    assert kept(TANH, arrays()) == (
        0,
        (0,),
        True,
    )  # the output, which exists anyway, and h for the weight gradient
    assert kept(lstm_pointwise, arrays(gates=4, carry=lambda h: LSTMCarry(h, h))) == (5, (0, 1), True)
    assert kept(gru_pointwise, arrays(gates=3)) == (4, (0,), False)


def random_problem(time, batch, hidden, dtype, seed=0):
    random = np.random.RandomState(seed)

    def array(*shape):
        return jnp.asarray(random.randn(*shape), dtype)

    arguments = {
        "params": {"scale": 1 + 0.1 * array(hidden)},
        "recurrent_kernel": array(hidden, hidden) / hidden**0.5,
        "xw": array(time, batch, hidden),
        "initial_carry": array(batch, hidden),
        "recurrent_scale": array(batch, hidden),
    }
    return arguments, (array(batch, hidden), array(time, batch, hidden))


def divided(params, carry, xw, rh):
    # In the padding 0 / 0: none of it may reach what is real.
    h = jnp.tanh((xw[0] + rh[0]) / params["scale"])
    return h, h


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_tiles_and_chunks_of_time_change_nothing(name, reverse, monkeypatch, capfd):
    monkeypatch.setattr(mosaic_tpu, "MOST_STEPS", 2)  # the last chunk holds one step
    monkeypatch.setattr(mosaic_tpu, "MOST_ROWS", 16)
    arguments, cotangents = random_problem(time=5, batch=19, hidden=20, dtype="float32")

    def results_and_gradients(implementation):
        def run(arguments):
            return recurrence(divided, **arguments, reverse=reverse, implementation=implementation)

        results, pullback = jax.vjp(run, arguments)
        gradients = pullback(cotangents)[0]
        del gradients["recurrent_scale"]  # reference differentiates it, the others hold it to be a mask
        return results, gradients

    monkeypatch.setitem(IMPLEMENTATIONS, name, KERNELS[name])
    assert_close(results_and_gradients(name), results_and_gradients("reference"), 2e-5)
    assert "RACE" not in "".join(capfd.readouterr())


def test_races_would_be_told(capfd):
    def everyone_writes(x, y):
        y[...] = x[...]

    block = pl.BlockSpec((8, 128), lambda i: (0, 0))
    params = pltpu.CompilerParams(dimension_semantics=("parallel",))
    call = pl.pallas_call(
        everyone_writes,
        grid=(2,),
        in_specs=[block],
        out_specs=block,
        out_shape=jax.ShapeDtypeStruct((8, 128), "float32"),
        compiler_params=params,
        interpret=replace(RACES, num_cores_or_threads=2),
    )
    raised = ""
    try:
        jax.block_until_ready(call(jnp.ones((8, 128))))
    except jax.errors.JaxRuntimeError as error:  # newer versions of JAX raise, older ones print
        raised = str(error)
    assert "RACE" in raised + "".join(capfd.readouterr())


DEVICES = {
    "triton": (TRITON, "cuda"),
    "mosaic_gpu": (MOSAIC_GPU, "cuda"),
    "mosaic_gpu_sm": (MOSAIC_GPU_SM, "cuda"),
    "mosaic_tpu": (MOSAIC_TPU, "tpu"),
}
TARGETS = {"triton": "__gpu$xla.gpu.triton", "mosaic_tpu": "tpu_custom_call"}


def lower(function, a, platform) -> str:
    with known_device(platform):
        return jax.jit(function).trace(a).lower(lowering_platforms=(platform,)).as_text()


def lowered_kernels(
    name: str, cell: str, hidden: int, dtype: str, *, reverse: bool, runs: tuple[int, ...] = ()
) -> int:
    """How many kernels a forward and a backward pass become on a device, those of all runs of ``vmap``."""
    device, platform = DEVICES[name]
    run = forward_and_backward(device, CELLS[cell], reverse=reverse)

    def program(a):
        results, gradients = run(a)
        return results, without_masks_gradients(gradients)

    a = shapes(CELLS[cell], hidden, dtype, batch=20, time=9)
    for _ in runs:
        program = jax.vmap(program)
    a = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*runs, *leaf.shape), leaf.dtype), a)
    text = lower(program, a, platform)
    return text.count(TARGETS.get(name, "mosaic_gpu"))


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("cell", "hidden", "dtype"),
    [(c, 64, "bfloat16") for c in CELLS if CELLS[c].heads == 1] + [("LSTM", 20, "float32")],
)
def test_kernels_lower_without_a_device(name, reverse, cell, hidden, dtype):
    if name.startswith("mosaic_gpu") and dtype == "float32":
        dtype = "float16"
    assert lowered_kernels(name, cell, hidden, dtype, reverse=reverse) >= 2


@pytest.mark.parametrize("name", ["triton", "mosaic_gpu_sm", "mosaic_tpu"])
def test_kernels_with_heads_lower_without_a_device(name):
    assert lowered_kernels(name, "sLSTM, 12 heads", 12 * 20, "bfloat16", reverse=False) >= 2


@pytest.mark.parametrize("name", DEVICES)
def test_runs_of_vmap_lower_without_a_device(name):
    assert lowered_kernels(name, "LSTM", 64, "bfloat16", reverse=False, runs=(2, 3)) >= 2


@pytest.mark.parametrize("name", ["triton", "mosaic_gpu_sm", "mosaic_tpu"])
def test_kernels_within_shard_map_lower_without_a_device(name):
    device, platform = DEVICES[name]
    run = forward_and_backward(device, CELLS["LSTM"], reverse=False)
    mesh = AbstractMesh((1,), ("data",), (AxisType.Auto,), abstract_device=KINDS[platform])
    a = shapes(CELLS["LSTM"], 64, "bfloat16", batch=20, time=9)
    of_steps = ("xw", "valid", "resets")
    weights = ("recurrent_kernel", "recurrent_bias", "params")
    specs: Any = {
        name: jax.tree.map(
            lambda _, n=name: P(None, "data") if n in of_steps else P() if n in weights else P("data"), part
        )
        for name, part in a._asdict().items()
    }

    def program(a):
        results, gradients = run(varying_alike(a))
        leaves = jax.tree.leaves((results, without_masks_gradients(gradients)))
        return sum(jax.lax.psum(leaf.astype(jnp.float32).sum(), "data") for leaf in leaves)

    with use_abstract_mesh(mesh):
        traced = jax.jit(jax.shard_map(program, mesh=mesh, in_specs=(Recurrence(**specs),), out_specs=P())).trace(
            a
        )
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count(TARGETS.get(name, "mosaic_gpu")) >= 2


OPERATIONS = {
    "abs": jnp.abs,
    "clamp": lambda x: jnp.clip(x, -1, 1),
    "cos": jnp.cos,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "floor_ceil": lambda x: x * (jnp.floor(x) + jnp.ceil(x)),
    "gelu": jax.nn.gelu,
    "integer_pow": lambda x: x**3 + 1 / x**2,
    "is_finite": lambda x: jnp.where(jnp.isfinite(x), x, 0),
    "leaky_relu": jax.nn.leaky_relu,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "logical": lambda x: jnp.where(((x > 0) & (x <= 2)) | ~(x >= -1) ^ (x != 3), x, -x),
    "maximum": lambda x: jnp.maximum(x, 0) + jnp.minimum(x, 1),
    "pow": lambda x: jnp.abs(x) ** 1.5,
    "relu": jax.nn.relu,
    "rsqrt": jax.lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "sign": lambda x: x * jnp.sign(x),
    "silu": jax.nn.silu,
    "sin": jnp.sin,
    "softsign": jax.nn.soft_sign,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "stop_gradient": lambda x: x * jax.lax.stop_gradient(x),
    "tan": jnp.tan,
}


@pytest.mark.parametrize("name", DEVICES)
def test_operations_that_pass_for_elementwise_lower_with_their_derivatives(name):
    def cell(*operations):
        def pointwise(params, carry, xw, rh):
            x = xw[0] + rh[0]
            h = sum((OPERATIONS[operation](x) for operation in operations), jnp.zeros_like(x))
            return h, h

        return pointwise

    device, platform = DEVICES[name]
    a = arrays(dtype="bfloat16" if name.startswith("mosaic_gpu") else "float32")
    reasons = {operation: not_a_tile(cell(operation), a, device.lacks) for operation in OPERATIONS}
    lacking = [operation for operation, reason in reasons.items() if reason is not None]
    assert lacking == (["floor_ceil", "pow"] if name.startswith("mosaic_gpu") else [])
    assert all("which kernels of this size lack" in str(reasons[operation]) for operation in lacking)
    # All in one kernel, which costs little more than a kernel of one; a compiler error names the operation.
    together = cell(*(operation for operation in OPERATIONS if operation not in lacking))
    lower(forward_and_backward(device, benchmarks.aot.Cell(together, 1)), a, platform)
