"""Which devices an experiment trains on."""

import contextlib
import os

import jax
from jax.sharding import Mesh

ROWS_PER_DEVICE = 32
"""With fewer rows of a batch than this for each, more devices cost more than they bring."""


def claim_devices(count: int | None) -> None:
    """Make one device of every core of a CPU, or of ``count`` of them. Must come before anything else runs on JAX.

    One recurrence is too small to keep several cores busy, but each core can run its own for a part of the batch.
    With a device to each core, XLA's own threads have nothing left to do but get in the way.
    """
    if count is not None and count < 1:
        raise ValueError(f"--devices must be at least 1, not {count}")
    cores = os.cpu_count() or 1
    wanted = cores if count is None else count
    if wanted > 1 and "xla_cpu_multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # Refused where this process has used JAX already: then the devices are what they are.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", wanted)


def batch_mesh(batch_size: int, count: int | None) -> Mesh | None:
    """A mesh over which to spread the rows of a batch, or None where one device does as well.

    Args:
      batch_size: rows of a batch.
      count: so many devices, though not more than there are rows; None takes as many as bring something. With
        several processes it is all of theirs, since each must take part.
    """
    if jax.process_count() > 1:
        return Mesh(jax.devices(), ("batch",))
    if count is None:
        devices = jax.devices()[: max(1, batch_size // ROWS_PER_DEVICE)]
    elif count > len(jax.devices()):
        raise ValueError(f"--devices {count} is more than there are here: {len(jax.devices())}")
    else:
        devices = jax.devices()[: min(count, batch_size)]
    return None if len(devices) == 1 else Mesh(devices, ("batch",))
