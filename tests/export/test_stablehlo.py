"""Exported programs run in a process that has no jaxrnn, for other sizes, and give the same bits."""

import re
import subprocess
import sys
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import to_stablehlo
from tests.cells_with_state import CountingCell

SIZES = ((3, 7), (1, 2))
"""Of batch and time; only the first model is run at both."""

IN_ANOTHER_PROCESS = """
import sys
sys.modules["jaxrnn"] = sys.modules["flax"] = None      # whatever needs them fails
import jax, jax.export
import numpy as np
jax.config.update("jax_disable_most_optimizations", True)
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        program = jax.export.deserialize(bytearray(file.read()))
    arrays = dict(np.load(path + ".npz"))
    for number in range(sum("inputs" in name for name in arrays)):
        inputs = arrays[f"inputs{number}"]
        options = {}
        if f"seq_lengths{number}" in arrays:
            options["seq_lengths"] = arrays[f"seq_lengths{number}"]
        carry = [arrays[name] for name in sorted(arrays) if name.startswith(f"carry{number}_")]
        if carry:
            options["initial_carry"] = tuple(carry)
        for i, leaf in enumerate(jax.tree.leaves(program.call(inputs, **options))):
            arrays[f"result{number}_{i}"] = np.asarray(leaf)
    np.savez(path + ".npz", **arrays)
"""


class OwnCell(jaxrnn.RecurrentCell):
    def pointwise(self, carry, xw, rh):
        h = 0.5 * carry + jnp.cos(xw[0] + rh[0])
        return h, h


class Classifier(nnx.Module):
    """A module of a user's own, with a layer inside."""

    def __init__(self, rngs):
        self.layers = jaxrnn.GRU(3, 4, return_sequences=False, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, inputs):
        return jax.nn.softmax(self.head(self.layers(inputs)))


def models() -> dict[str, tuple[Any, dict[str, Any]]]:
    rngs = nnx.Rngs(0)
    everything: dict[str, Any] = dict(seq_lengths=True, initial_carry=True, return_carry=True)
    backwards: dict[str, Any] = dict(reverse=True, return_sequences=False, implementation="native", remat_every=3)
    pair = [jaxrnn.RNN(cell(3, 4, rngs=rngs)) for cell in (jaxrnn.LeakyCell, jaxrnn.GRUCell)]
    return {
        "forecaster": (jaxrnn.RNNForecaster(3, (4, 5), cell="lstm", output_scale=9.0, rngs=rngs), {}),
        "both ways": (jaxrnn.LSTM(3, 4, num_layers=2, bidirectional=True, rngs=rngs), everything),
        "backwards": (jaxrnn.GRU(3, 4, **backwards, rngs=rngs), dict(seq_lengths=True)),
        "flax": (jaxrnn.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=rngs), return_carry=True), dict(initial_carry=True)),
        "pair": (jaxrnn.Bidirectional(*pair), {}),
        "linear": (jaxrnn.RNN(jaxrnn.LRUCell(3, 4, rngs=rngs), return_carry=True), dict(seq_lengths=True)),
        "own cell": (jaxrnn.RNN(OwnCell(3, 4, rngs=rngs)), {}),
        "own module": (Classifier(rngs), dict(features=3)),
    }


def arguments(model: Any, options: dict[str, Any], batch: int, time: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Inputs, and the keyword arguments of a call of the model."""
    random = np.random.default_rng(batch)
    inputs = random.normal(size=(batch, time, 3)).astype(np.float32)
    given: dict[str, Any] = {}
    if options.get("seq_lengths"):
        given["seq_lengths"] = np.arange(time, time - batch, -1).astype(np.int32)
    if options.get("initial_carry"):
        carry = jax.eval_shape(lambda: model(inputs, return_carry=True)[0])
        given["initial_carry"] = jax.tree.map(lambda a: random.normal(size=a.shape).astype(a.dtype), carry)
    if options.get("return_carry"):
        given["return_carry"] = True
    return inputs, given


def test_a_process_without_jaxrnn_gets_the_same_bits_at_other_sizes(tmp_path):
    cases, paths = models(), []
    for name, (model, options) in cases.items():
        paths.append(str(tmp_path / name))
        data = to_stablehlo(model, paths[-1], **options)
        assert data == (tmp_path / name).read_bytes()
        arrays = {}
        for number, sizes in enumerate(SIZES if name == "forecaster" else SIZES[:1]):
            arrays[f"inputs{number}"], given = arguments(model, options, *sizes)
            if "seq_lengths" in given:
                arrays[f"seq_lengths{number}"] = given["seq_lengths"]
            for i, leaf in enumerate(jax.tree.leaves(given.get("initial_carry"))):
                arrays[f"carry{number}_{i}"] = leaf
        np.savez(paths[-1] + ".npz", **arrays)
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, *paths],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for path, (model, options) in zip(paths, cases.values()):
        with open(path, "rb") as file:
            program = jax.export.deserialize(bytearray(file.read()))
        with np.load(path + ".npz") as arrays:
            for number, sizes in enumerate(SIZES if "inputs1" in arrays else SIZES[:1]):
                inputs, given = arguments(model, options, *sizes)
                expected = model(inputs, **given)
                given.pop("return_carry", None)
                if "initial_carry" in given:
                    given["initial_carry"] = tuple(jax.tree.leaves(given["initial_carry"]))
                here = jax.tree.leaves(program.call(inputs, **given))
                there = [arrays[f"result{number}_{i}"] for i in range(len(here))]
                jax.tree.map(np.testing.assert_array_equal, here, there)
                for one, other in zip(here, jax.tree.leaves(expected), strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_program_calls_nothing_of_this_package():
    for implementation in (None, "native", "pallas"):
        layer = jaxrnn.RNN(jaxrnn.LSTMCell(3, 4, rngs=nnx.Rngs(0)), implementation=implementation)
        program = jax.export.deserialize(bytearray(to_stablehlo(layer)))
        assert set(re.findall(r"custom_call @(\w+)", program.mlir_module())) <= {"shape_assertion"}
        assert program.platforms == ("cpu", "cuda", "tpu")
        assert layer.implementation == implementation


def test_sizes_may_be_fixed_and_time_may_come_first():
    layer = jaxrnn.RNN(jaxrnn.GRUCell(3, 4, rngs=nnx.Rngs(0)), time_major=True)
    program = jax.export.deserialize(bytearray(to_stablehlo(layer, batch=2, platforms=["cpu"])))
    assert str(program.in_avals[0]) == "float32[time,2,3]" and program.platforms == ("cpu",)
    half = jaxrnn.RNN(jaxrnn.GRUCell(3, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    program = jax.export.deserialize(bytearray(to_stablehlo(half, batch=2, time=5)))
    assert str(program.in_avals[0]) == "float32[2,5,3]" and str(program.out_avals[0]) == "bfloat16[2,5,4]"
    program = jax.export.deserialize(bytearray(to_stablehlo(Classifier(nnx.Rngs(0)), features=[3], time=5)))
    assert str(program.in_avals[0]) == "float32[batch,5,3]"


@pytest.mark.parametrize("reset_carry", [None, "zeros"])
def test_resets(reset_carry):
    model = jaxrnn.GRU(3, 4, return_carry=True, rngs=nnx.Rngs(0))
    x, resets = jnp.ones((2, 5, 3)), jnp.arange(10).reshape(2, 5) % 4 == 2
    carry = (jnp.full((2, 4), 0.5),)
    data = to_stablehlo(model, resets=True, reset_carry=reset_carry, initial_carry=True)
    (last,), outputs = jax.export.deserialize(bytearray(data)).call(x, resets=resets, initial_carry=carry)
    expected = model(x, resets=resets, reset_carry=reset_carry, initial_carry=carry)
    for ours, theirs in zip((last, outputs), (expected[0][0], expected[1])):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_models_of_tokens():
    tokens = jnp.asarray(np.random.RandomState(0).randint(0, 7, (3, 5)), jnp.int32)
    lengths = jnp.array([5, 2, 4], jnp.int32)
    language = jaxrnn.LanguageModel(7, (6, 6), embedding_features=4, rngs=nnx.Rngs(0))
    program = jax.export.deserialize(bytearray(to_stablehlo(language, initial_carry=True, return_carry=True)))
    carry = jax.tree.map(lambda a: a + 0.5, language.initialize_carry(3))
    last, logits = program.call(tokens, initial_carry=tuple(jax.tree.leaves(carry)))
    expected = language(tokens, initial_carry=carry, return_carry=True)
    for found, wanted in zip((*last, logits), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    words = jaxrnn.SequenceClassifier(4, 6, num_classes=2, vocabulary=7, dropout=0.5, rngs=nnx.Rngs(0))
    words.eval()
    program = jax.export.deserialize(bytearray(to_stablehlo(words, seq_lengths=True)))
    found = program.call(tokens, seq_lengths=lengths)
    np.testing.assert_allclose(found, words(tokens, seq_lengths=lengths), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_exported_is_said(tmp_path):
    rngs = nnx.Rngs(0)
    layer = jaxrnn.LSTM(3, 4, num_layers=2, dropout=0.5, rngs=rngs)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (layer, {}, r"training with dropout \(dropout\): call its eval\(\)"),
        (jaxrnn.RNNForecaster(rngs=rngs), dict(seq_lengths=True), "seq_lengths=True needs a model that is called"),
        (Classifier(rngs), {}, "a Classifier have an unknown size: pass features="),
        (jaxrnn.GRU(3, 4, rngs=rngs), dict(batch=0), "batch must be a positive integer, not 0"),
        (jaxrnn.GRU(3, 4, rngs=rngs), dict(platforms=["gpu"]), "platforms must be one or more of cpu, cuda"),
        (jaxrnn.GRU(3, 4, rngs=rngs), dict(path=tmp_path), "is a folder"),
        (jaxrnn.GRU(3, 4, rngs=rngs), dict(reset_carry="zeros"), "reset_carry is what resets return to: add"),
        (jaxrnn.GRU(3, 4, rngs=rngs), dict(resets=True, reset_carry=0), 'must be "zeros", or None for .* not 0'),
        (
            jaxrnn.GRUCell(3, 4, rngs=rngs),
            {},
            r"a GRUCell is a cell, which has no time axis: export the layer jaxrnn.RNN\(GRUCell",
        ),
        (jaxrnn.RNN(CountingCell()), {"features": 3}, r"a call changes variables of its own \(of CountingCell\)"),
        (3, {}, "model must be a Flax module, not 3"),
    ]
    for model, options, message in refused:
        with pytest.raises(ValueError, match=message):
            to_stablehlo(model, **options)
    layer.eval()
    path = tmp_path / "layer"
    to_stablehlo(layer, path)
    with pytest.raises(ValueError, match="exists already"):
        to_stablehlo(layer, path)
