"""Models: recurrent layers with what stands around them in one application."""

from jaxrnn.models.classifier import SequenceClassifier
from jaxrnn.models.forecaster import RNNForecaster

__all__ = ["RNNForecaster", "SequenceClassifier"]
