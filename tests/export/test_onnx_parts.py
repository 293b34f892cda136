"""Resets, pairs within pairs and single steps of cells, in ONNX Runtime and here."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import to_onnx
from tests.export.onnx_runs import TOLERANCE, distance, run, run_session, session
from tests.export.test_onnx import CELLS, stack

NEEDS = ("onnx", "onnxruntime")
X = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
LENGTHS = np.array([6, 0, 2, 5], np.int32)
RESETS = np.random.default_rng(5).random((4, 6)) < 0.4
"""In the first step of a row, in padding, and twice in a row too."""


def random_like(tree: Any) -> Any:
    random = np.random.default_rng(3)
    return jax.tree.map(lambda a: random.normal(size=a.shape).astype(np.float32), tree)


def assert_close(result: dict[str, np.ndarray], *expected: Any, setup: Any = None) -> None:
    for ours, theirs in zip(result.values(), jax.tree.leaves(expected), strict=True):
        assert distance(ours, theirs) <= TOLERANCE, setup


@pytest.mark.parametrize("cell", CELLS)
def test_resets_in_every_cell(cell, randomized):
    """In both directions, with and without lengths and a first carry: one reference for all of them."""
    model = randomized(stack(cell, 2, "bidirectional"))

    @jax.jit
    def reference(lengths, carry):
        options: dict[str, Any] = dict(seq_lengths=lengths, initial_carry=carry, resets=RESETS)
        return model(X, **options, return_carry=True)

    @jax.jit
    def to_zeros(carry):
        options: dict[str, Any] = dict(initial_carry=carry, resets=RESETS, reset_carry="zeros")
        return model(X, **options, return_carry=True)

    given = random_like(jax.eval_shape(lambda: model.initialize_carry((4, 3))))
    finals, outputs = to_zeros(given)
    data = to_onnx(model, initial_carry=True, resets=True, reset_carry="zeros", return_carry=True)
    assert_close(run(data, X, None, given, RESETS), outputs, finals, setup="zeros")
    for with_lengths, with_carry in ((False, True), (True, False), (True, True)):
        lengths = LENGTHS if with_lengths else np.full(4, 6, np.int32)
        carry = given if with_carry else jax.tree.map(np.zeros_like, given)
        finals, outputs = reference(lengths, carry)
        data = to_onnx(model, seq_lengths=with_lengths, initial_carry=with_carry, resets=True, return_carry=True)
        found = run(data, X, lengths if with_lengths else None, carry if with_carry else None, RESETS)
        assert_close(found, outputs, finals, setup=(with_lengths, with_carry))


def test_resets_with_the_time_first_for_any_batch_and_time(randomized):
    model: Any = randomized(jaxrnn.GRU(3, 4, time_major=True, return_sequences=False, rngs=nnx.Rngs(0)))
    opened = session(to_onnx(model, resets=True))
    for batch, time in ((4, 6), (1, 1), (2, 3)):
        x, resets = X[:batch, :time].swapaxes(0, 1), RESETS[:batch, :time].T
        assert_close(run_session(opened, x, resets=resets), model(x, resets=resets), setup=(batch, time))


def pair(forward: Any, backward: Any, **options: Any) -> Any:
    return jaxrnn.Bidirectional(forward, backward, return_carry=True, **options)


def test_pairs_within_pairs(randomized):
    r = nnx.Rngs(0)

    def layer(kind: Any = jaxrnn.LSTMCell, **options: Any) -> Any:
        return jaxrnn.RNN(kind(3, 4, rngs=r), **options)

    models = {
        "backward": pair(layer(), pair(layer(), layer(jaxrnn.GRUCell))),
        # Whatever directions the inner layers are made for, the pair decides.
        "forward": pair(pair(layer(), layer(reverse=True), time_major=True), layer(jaxrnn.LeakyCell)),
        "both": pair(
            pair(layer(), layer(), merge_fn=jax.numpy.add), pair(layer(), layer(), merge_fn=jax.numpy.add)
        ),
        "deep": pair(pair(pair(layer(), layer()), layer()), layer(), time_major=True),
    }
    widths = {"backward": 12, "forward": 12, "both": 8, "deep": 16}
    for name, model in models.items():
        randomized(model)
        x: Any = X.swapaxes(0, 1) if model.time_major else X
        resets: Any = RESETS.T if model.time_major else RESETS
        carry = random_like(jax.eval_shape(lambda model=model, x=x: model(x)[0]))
        options: dict[str, Any] = dict(seq_lengths=LENGTHS, initial_carry=carry)
        for more in ({}, {"resets": resets}):
            finals, outputs = jax.jit(lambda model=model, x=x, more=more, o=options: model(x, **o, **more))()
            assert outputs.shape[-1] == widths[name]
            found = run(
                to_onnx(model, seq_lengths=True, initial_carry=True, resets=bool(more)), x, **options, **more
            )
            assert_close(found, outputs, finals, setup=(name, *more))
    names = [value.name for value in session(to_onnx(models["deep"])).get_outputs()]
    ends = ["forward_forward_forward", "forward_forward_backward", "forward_backward", "backward"]
    assert names == ["outputs", *(f"carry_{end}_{part}" for end in ends for part in "ch")]


@pytest.mark.parametrize("kind", [*CELLS, nnx.OptimizedLSTMCell, nnx.GRUCell], ids=str)
def test_a_cell_is_one_step(kind, randomized):
    made, options = CELLS[kind] if isinstance(kind, str) else (kind, {})
    model = randomized(made(3, 4, **options, rngs=nnx.Rngs(0)))
    opened = session(to_onnx(model))
    for batch in (1, 4):
        carry = random_like(jax.eval_shape(lambda b=batch: model.initialize_carry((b, 3), nnx.Rngs(0))))
        after, y = model(carry, X[:batch, 0])
        assert_close(run_session(opened, X[:batch, 0], initial_carry=carry), y, after, setup=batch)


def test_the_steps_of_a_cell_give_the_outputs_of_a_layer(randomized):
    model = randomized(jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0)))
    opened, carry, outputs = session(to_onnx(model, batch=4)), (np.zeros((4, 4), np.float32),) * 2, []
    assert [value.shape for value in opened.get_inputs()] == [[4, 3], [4, 4], [4, 4]]
    for step in range(6):
        y, *carry = run_session(opened, X[:, step], initial_carry=carry).values()
        outputs.append(y)
    assert distance(np.stack(outputs, 1), jaxrnn.RNN(model)(jax.numpy.asarray(X))) <= TOLERANCE
    assert list(run(to_onnx(model, return_carry=False), X[:, 0], initial_carry=carry)) == ["outputs"]
