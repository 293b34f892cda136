"""Checkpoints: a store that survives damage and kills, and the thread that writes to it beside the training."""

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
