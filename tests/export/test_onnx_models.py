"""Classifiers and language models in ONNX Runtime, with weights in float32 and in int8."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrnn
from jaxrnn.export import quantize, to_onnx
from jaxrnn.models import LanguageModel, SequenceClassifier
from tests.export.onnx_runs import TOLERANCE, distance, run, session
from tests.export.test_onnx_parts import LENGTHS, RESETS, X, random_like

NEEDS = ("onnx", "onnxruntime")
TOKENS = np.random.default_rng(1).integers(0, 11, (4, 6)).astype(np.int32)


def by_scan(model: Any) -> Any:
    """The model with its layers on the scan, which multiplies with the same numbers as an exported model."""
    for _, part in nnx.iter_modules(model):
        if isinstance(part, jaxrnn.StackedRNN):
            part.implementation = "scan"
    return model


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_classifiers(pooling, whole, randomized):
    for bidirectional, vocabulary in itertools.product((False, True), (None, 11)):
        model: Any = SequenceClassifier(
            3,
            (5, 4),
            num_classes=3,
            vocabulary=vocabulary,
            pooling=pooling,
            bidirectional=bidirectional,
            rngs=nnx.Rngs(0),
        )
        model = by_scan(randomized(model))
        model = quantize(model) if whole else model
        inputs = X if vocabulary is None else TOKENS
        for lengths in (None, LENGTHS):  # of a row without steps too
            opset = 14 if lengths is None else 18
            found = run(to_onnx(model, seq_lengths=lengths is not None, opset=opset), inputs, lengths)
            expected = model(jnp.asarray(inputs), seq_lengths=lengths)
            assert distance(found["logits"], expected) <= TOLERANCE, (bidirectional, vocabulary, lengths)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("tie_head", [False, True])
def test_language_models_with_their_carry(tie_head, whole, randomized):
    for cell in ("lstm", "leaky"):  # as an operator and as a loop
        model: Any = LanguageModel(
            11, (6, 4), embedding_features=4, cell=cell, tie_head=tie_head, rngs=nnx.Rngs(0)
        )
        model = by_scan(randomized(model))
        model = quantize(model) if whole else model
        carry = random_like(model.initialize_carry(4))
        data = to_onnx(model, initial_carry=True, return_carry=True)
        found = run(data, TOKENS, initial_carry=carry)
        finals, logits = model(TOKENS, initial_carry=carry, return_carry=True)
        assert list(found) == ["logits", *(name for name in found if name.startswith("carry_"))]
        for ours, theirs in zip(found.values(), [logits, *jax.tree.leaves(finals)], strict=True):
            assert distance(ours, theirs) <= TOLERANCE, cell


@pytest.mark.parametrize("heads", [1, 2])
def test_int8_layers_have_the_same_numbers_in_a_quarter_of_the_file(heads):
    def gru_before(*sizes: int, **options: Any) -> Any:
        return jaxrnn.GRUCell(*sizes, reset_after=False, **options)

    kinds = (jaxrnn.SimpleRNNCell, jaxrnn.LSTMCell, jaxrnn.GRUCell, gru_before, jaxrnn.LeakyCell)
    for kind, resets in itertools.product(kinds, (None, RESETS)):
        cells: Any = [kind(3, 64, num_heads=heads, rngs=nnx.Rngs(seed)) for seed in (0, 1)]
        layers = jaxrnn.StackedRNN(cells[:1], backward_cells=cells[1:], implementation="scan")
        model: Any = quantize(layers)
        with_resets = resets is not None
        data = to_onnx(model, resets=with_resets)
        found = run(data, X, resets=resets)
        assert distance(found["outputs"], model(X, resets=resets)) <= TOLERANCE, (kind, resets)
        if heads == 1 and kind is not gru_before:  # whose candidate is in float32 in a loop
            assert len(data) < 0.37 * len(to_onnx(layers, resets=with_resets)), kind


def test_what_cannot_be_exported_is_named():
    class Louder(LanguageModel):
        def logits(self, hidden):
            return 2 * super().logits(hidden)

    with pytest.raises(ValueError, match="a Louder has logits of its own"):
        to_onnx(Louder(5, 4, rngs=nnx.Rngs(0)))
    model: Any = SequenceClassifier(3, 4, num_classes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="initial_carry=True needs a model that is called with initial_carry"):
        to_onnx(model, initial_carry=True)

    def tripled(*arguments: Any, **options: Any) -> Any:
        return 3 * jax.lax.dot_general(*arguments, **options)

    class Doubled(nnx.Embed):
        def __call__(self, inputs):
            return 2 * super().__call__(inputs)

    r = nnx.Rngs(0)
    words: Any = SequenceClassifier(3, 4, num_classes=2, vocabulary=5, rngs=r)
    for changed, name, part, message in (
        (model, "head", nnx.Einsum("bh,hc->bc", (4, 2), rngs=r), "a SequenceClassifier with a Einsum cannot be"),
        (model, "head", nnx.Linear(4, 2, dot_general=tripled, rngs=r), "whose nnx.Linear has its own dot_general"),
        (
            words,
            "embedding",
            Doubled(5, 3, rngs=r),
            "with a Doubled cannot be exported to ONNX, only with",
        ),
    ):
        setattr(changed, name, part)
        with pytest.raises(ValueError, match=message):
            to_onnx(changed)
    with pytest.raises(ValueError, match="metadata must be texts by name, not 1 by 'one'"):
        to_onnx(jaxrnn.GRU(3, 4, rngs=r), metadata={"one": 1})  # pyright: ignore[reportArgumentType]
    for name in ("inputs", "outputs", "cells", "model", "jaxrnn_version"):
        with pytest.raises(ValueError, match=f"metadata must have other names than {name}"):
            to_onnx(jaxrnn.GRU(3, 4, rngs=r), metadata={name: "mine", "columns": "mine"})


def test_a_head_in_place_of_another_decides_how_many_outputs_there_are():
    model = SequenceClassifier(3, 4, num_classes=2, rngs=nnx.Rngs(0))
    model.head = nnx.Linear(4, 7, rngs=nnx.Rngs(1))
    opened = session(to_onnx(model, metadata={"classes": "a to g"}))
    assert opened.get_modelmeta().custom_metadata_map["classes"] == "a to g"
    assert distance(opened.run(None, {"inputs": X})[0], model(jnp.asarray(X))) <= TOLERANCE
