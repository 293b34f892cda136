"""Models: recurrent layers with what stands around them in one application."""

from jaxrnn.models.classifier import SequenceClassifier
from jaxrnn.models.forecaster import RNNForecaster
from jaxrnn.models.generation import generate, sample_tokens
from jaxrnn.models.language import LanguageModel
from jaxrnn.models.slstm_block import SLSTMBlock, SLSTMBlockCarry

__all__ = [
    "LanguageModel",
    "RNNForecaster",
    "SLSTMBlock",
    "SLSTMBlockCarry",
    "SequenceClassifier",
    "generate",
    "sample_tokens",
]
