"""Cells with equations of their own, translated to ONNX operation by operation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import to_onnx
from jaxrnn.export.onnx_equations import translate
from jaxrnn.export.onnx_graph import Graph
from tests.export.onnx_runs import TOLERANCE, distance, run, session

NEEDS = ("onnx", "onnxruntime")
X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
LENGTHS = np.array([6, 0, 2, 5], np.int32)


class LeakyOfReadme(jaxrnn.RecurrentCell):
    def __init__(self, in_features, hidden_features, *, rngs, **options):
        super().__init__(in_features, hidden_features, rngs=rngs, **options)
        self.leak = nnx.Param(jnp.zeros(hidden_features))

    def pointwise(self, carry, xw, rh):
        a = jax.nn.sigmoid(self.leak[...])
        h = (1 - a) * carry + a * jnp.tanh(xw[0] + rh[0])
        return h, h


class MinimalGatedCell(jaxrnn.RecurrentCell):
    num_gates = 2

    def pointwise(self, h, xw, rh):
        forget = jax.nn.sigmoid(xw[0] + rh[0])
        candidate = jnp.tanh(xw[1] + forget * rh[1])
        h = h + forget * (candidate - h)
        return h, h


class LayerNormCell(jaxrnn.RecurrentCell):
    def __init__(self, in_features, hidden_features, *, rngs, **options):
        super().__init__(in_features, hidden_features, use_bias=False, rngs=rngs, **options)
        self.norm = nnx.LayerNorm(hidden_features, rngs=rngs)

    def pointwise(self, h, xw, rh):
        h = jnp.tanh(self.norm(xw[0] + rh[0]))
        return h, h


class Louder(jaxrnn.LSTMCell):
    def pointwise(self, carry, xw, rh):
        carry, h = super().pointwise(carry, xw, rh)
        return carry, 2 * h


class Memory(NamedTuple):
    age: Any
    state: dict[str, Any]


class ManyOperations(jaxrnn.RecurrentCell):
    """A carry of several parts, a matrix of its own, and operations of every kind."""

    num_gates = 2

    def __init__(self, in_features, hidden_features, *, rngs, **options):
        super().__init__(in_features, hidden_features, use_recurrent_bias=True, rngs=rngs, **options)
        self.mixing = nnx.Param(jax.random.normal(rngs.params(), (hidden_features, hidden_features)))

    def carry_like(self, h):
        return Memory(age=h + 1, state={"a": h, "h": h})

    def pointwise(self, carry, xw, rh):
        a, h = carry.state["a"], carry.state["h"]
        share = jax.nn.softmax(xw[0] + rh[0])
        smooth = jax.nn.softplus(xw[1]) + jax.nn.elu(rh[1]) + jnp.expm1(-jnp.abs(a)) + jnp.square(h) ** 1.5
        joined = jnp.concatenate([share, smooth], axis=-1)[:, 2:6]
        halves = jnp.concatenate(jnp.split(joined, 2, axis=-1)[::-1], axis=-1)
        chosen = jnp.where((halves > 0.1) & (carry.age != 2.0), jnp.clip(halves, -0.5, 0.5), jax.nn.relu(a))
        mean = chosen.mean(axis=-1, keepdims=True)
        mixed = jnp.tanh(chosen @ self.mixing[...]) * jax.lax.rsqrt(1 + mean**2) + jnp.maximum(mean, 0.2)
        steps = (mixed > 0).astype(jnp.float32) * jax.nn.sigmoid(self.mixing[0])
        new = Memory(carry.age + jnp.minimum(steps, 1), {"a": a + 0.1 * jnp.sin(mixed), "h": jnp.tanh(mixed)})
        return new, new.state["h"] - jnp.broadcast_to(chosen.max(axis=-1, keepdims=True), a.shape)


class ConstantOutput(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        return jnp.tanh(xw[0] + rh[0]), jnp.ones_like(h)


class WithActivation(jaxrnn.SimpleRNNCell):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, activation_fn=jax.nn.gelu, **options)


class MoreOperations(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        z = xw[0] + rh[0]
        ends = jax.lax.erfc(z) + jnp.cbrt(2 + h) + z.std(-1, keepdims=True)
        ends -= jax.nn.logsumexp(z, axis=-1, keepdims=True)
        whole = jnp.round(2 * z) + jax.lax.round(3 * z) + jnp.mod(z, 0.7) + jnp.fmod(z, 0.3)
        finite = jnp.where(jnp.isfinite(1 / jnp.maximum(z, 0)), z, h)
        moved = jnp.roll(z, 1, axis=-1) + z[:, ::-1] + jnp.repeat(z[:, ::2], 2, axis=-1)
        h = jnp.tanh(0.1 * (ends + finite + moved) + 0.01 * whole)  # jumps make small differences large
        return h, h


@pytest.mark.parametrize(
    "kind",
    [
        LeakyOfReadme,
        MinimalGatedCell,
        LayerNormCell,
        Louder,
        ManyOperations,
        MoreOperations,
        ConstantOutput,
        WithActivation,
    ],
)
def test_equations_of_one_s_own(kind, randomized):
    rngs = nnx.Rngs(0)
    cells, backward = ([kind(below, 4, rngs=rngs) for below in (3, 8)] for _ in range(2))
    model = randomized(jaxrnn.StackedRNN(cells, backward_cells=backward, return_carry=True))
    reference = jax.jit(lambda lengths, carry: model(X, seq_lengths=lengths, initial_carry=carry))
    first, random = model.initialize_carry((4, 3)), np.random.default_rng(1)
    other = jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), first)
    for with_lengths in (False, True):
        for with_carry in (False, True):
            lengths = LENGTHS if with_lengths else np.full(4, 6, np.int32)
            carry, outputs = reference(lengths, other if with_carry else first)
            data = to_onnx(model, seq_lengths=with_lengths, initial_carry=with_carry)
            result = run(data, X, lengths if with_lengths else None, other if with_carry else None)
            for ours, theirs in zip(result.values(), [outputs, *jax.tree.leaves(carry)], strict=True):
                assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("opset", [14, 18, 22])
def test_every_set_of_operators(opset, randomized):
    model = randomized(jaxrnn.RNN(ManyOperations(3, 4, rngs=nnx.Rngs(0))))
    assert distance(run(to_onnx(model, opset=opset), X)["outputs"], model(X)) <= TOLERANCE


class MeanOfBatch(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        h = jnp.tanh(xw[0] + rh[0]) - h.mean(axis=0)
        return h, h


class Accumulated(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        h = jnp.cumsum(jnp.tanh(xw[0] + rh[0]), axis=-1)
        return h, h


class Transposed(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        h = jnp.tanh(xw[0] + rh[0]) + (h.T @ h).sum()
        return h, h


class FirstRow(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        h = jnp.tanh(xw[0] + rh[0]) + h[:1]
        return h, h


class RowNumber(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        h = jnp.tanh(xw[0] + rh[0]) + jnp.arange(len(h))[:, None]
        return h, h


class Sorted(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        h = jnp.sort(xw[0] + rh[0], axis=-1)
        return h, h


class Int8Sum(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        h = jnp.tanh(xw[0] + rh[0]) + (rh[0].astype(jnp.int8) + jnp.int8(1)).astype(jnp.float32)
        return h, h


class Chosen(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        h = jnp.tanh(jax.lax.select_n((h > 0).astype(jnp.int32), xw[0], rh[0]))
        return h, h


class LargerBool(jaxrnn.RecurrentCell):
    def pointwise(self, h, xw, rh):
        h = jnp.where((h > 0) > (rh[0] > 0), xw[0], rh[0])
        return h, h


class Int8Compared(jaxrnn.RecurrentCell):
    """Narrow integers that stay in their range are exported."""

    def pointwise(self, h, xw, rh):
        whole = (3 * jnp.tanh(xw[0] + rh[0])).astype(jnp.int8)
        h = jnp.where(whole == 1, jnp.maximum(whole, jnp.int8(2)).astype(jnp.float32), jnp.tanh(h + xw[0]))
        return h, h


def test_integers_within_their_range(randomized):
    model = randomized(jaxrnn.RNN(Int8Compared(3, 4, rngs=nnx.Rngs(0))))
    assert distance(run(to_onnx(model), X)["outputs"], model(X)) <= TOLERANCE


@pytest.mark.parametrize(("function", "exact"), [(jnp.expm1, np.expm1), (jnp.log1p, np.log1p)])
def test_no_digits_are_lost_near_zero(function, exact):
    graph = Graph(17)
    x = graph.input("x", ["batch", 1])
    (y,) = translate(function, graph, (x,), 1)
    graph.output("y", y, ["batch", 1])
    small = np.logspace(-30, 1.9, 1000)
    inputs = np.concatenate([small, -small, [0, np.inf, -np.inf, np.nan, 3e38, -1]]).astype(np.float32)
    (found,) = session(graph.finish("function", "0", {})).run(None, {"x": inputs[:, None]})
    with np.errstate(all="ignore"):
        expected = exact(inputs.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(found[:, 0], expected, rtol=5e-7)


@pytest.mark.parametrize(
    ("kind", "operation"),
    [
        (Int8Sum, "add in int8"),
        (Chosen, "select_n with int32 to select by"),
        (LargerBool, "gt"),
        (MeanOfBatch, "reduce_sum over the batch"),
        (Accumulated, "cumsum"),
        (Transposed, "transpose"),
        (FirstRow, "slice"),
        (Sorted, "sort"),
        (RowNumber, "an array that differs from row to row"),
    ],
)
@pytest.mark.parametrize("hidden", [1, 4])
def test_an_operation_that_cannot_be_translated_is_named(kind, operation, hidden):
    message = f"layer 0: a {kind.__name__} cannot be exported to ONNX: .* without a translation, {operation}"
    with pytest.raises(ValueError, match=message):
        to_onnx(jaxrnn.StackedRNN([kind(3, hidden, rngs=nnx.Rngs(0))]))
