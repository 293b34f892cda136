"""Checkpoints: a store that detects damage and survives kills, and a thread that saves during training."""

from jaxrnn.training.checkpoint.background import BackgroundSaver, Checkpoints, Saves, copied
from jaxrnn.training.checkpoint.files import CheckpointError, fsync
from jaxrnn.training.checkpoint.store import CheckpointStore, Restored

__all__ = [
    "BackgroundSaver",
    "CheckpointError",
    "CheckpointStore",
    "Checkpoints",
    "Restored",
    "Saves",
    "copied",
    "fsync",
]
