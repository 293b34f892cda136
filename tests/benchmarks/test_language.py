"""The benchmark of language models compares the same training: after some updates both models are the same."""

import warnings

import numpy as np
import pytest

from benchmarks.language import Ours, Torch
from experiments.common.language import Modelling
from experiments.common.language_config import LanguageConfig
from experiments.common.text import divide_text


def test_pytorch_trains_the_same_model():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch", reason="PyTorch is not installed")
    letters = "".join(np.random.RandomState(0).choice(list("abcde "), 2000))
    config = LanguageConfig(hidden=(6, 6), embedding=4, window=8, batch_size=8, validations=2, learning_rate=0.1)
    modelling = Modelling(config, divide_text("letters", letters))
    assert modelling.resets[:5].any()
    bits = {}
    theirs = Torch(modelling)
    for name, parameter in theirs.lstm.named_parameters():
        # PyTorch adds two biases. Adam moves their sum twice as far as one, so for this test one of them stays.
        parameter.requires_grad_(not name.startswith("bias_hh"))
    for learner in (Ours(modelling), theirs):
        before = learner.test()
        learner.update(5)
        bits[type(learner).__name__] = before, learner.test()
    assert bits["Torch"] == pytest.approx(bits["Ours"], rel=1e-4)
    assert bits["Ours"][0] != pytest.approx(bits["Ours"][1], rel=1e-2)
