"""Chooses the devices that an experiment trains on."""

import contextlib
import os

import jax
from jax.sharding import Mesh

ROWS_PER_DEVICE = 32
"""With fewer rows of a batch per device than this, more devices make training slower."""


MOST_DEVICES = 64
"""Any machine may have this many devices, even with fewer cores, to try out a program on many devices."""


def claim_devices(count: int | None) -> None:
    """Make one device per core of a CPU, or ``count`` devices. Call this before anything else uses JAX.

    One recurrence is too small to keep several cores busy, but each core can run its own for a part of the batch.
    With one device per core, XLA's own threads would only compete for the cores, so they are turned off.

    Raises:
      ValueError: ``count`` is below 1, or more than the cores and :data:`MOST_DEVICES`.
    """
    if count is not None and count < 1:
        raise ValueError(f"--devices must be at least 1, not {count}")
    cores = os.cpu_count() or 1
    if count is not None and count > max(cores, MOST_DEVICES):
        raise ValueError(
            f"--devices {count} is too many for this machine with {cores} cores. Leave the option out to use as "
            f"many devices as make training faster"
        )
    wanted = cores if count is None else count
    if wanted > 1 and "xla_cpu_multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # If this process has used JAX already, this raises an error and the devices stay as they are.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", wanted)


def batch_mesh(batch_size: int, count: int | None) -> Mesh | None:
    """A mesh over which to spread the rows of a batch, or None to use one device.

    Args:
      batch_size: rows of a batch.
      count: the number of devices, at most one per row; None takes as many as make training faster. With several
        processes, all their devices are used, because each process must take part.

    Raises:
      ValueError: there are fewer than ``count`` devices.
    """
    if jax.process_count() > 1:
        return Mesh(jax.devices(), ("batch",))
    if count is None:
        devices = jax.devices()[: max(1, batch_size // ROWS_PER_DEVICE)]
    elif count > len(jax.devices()):
        raise ValueError(f"--devices is {count}, but JAX has only {len(jax.devices())} devices")
    else:
        devices = jax.devices()[: min(count, batch_size)]
    return None if len(devices) == 1 else Mesh(devices, ("batch",))
