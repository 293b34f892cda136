"""Training on several devices and in several processes: sharding, agreement between processes, and signals."""

from jaxrnn.training.distributed import processes
from jaxrnn.training.distributed.sharding import batch_axis, local, padded, put
from jaxrnn.training.distributed.signals import EXIT_CODES, NAMES, STOPPING, StopSignals

__all__ = ["EXIT_CODES", "NAMES", "STOPPING", "StopSignals", "batch_axis", "local", "padded", "processes", "put"]
