"""Which devices an experiment trains on."""

import contextlib
import os

import jax
from jax.sharding import Mesh

ROWS_PER_DEVICE = 32
"""With fewer rows of a batch per device than this, more devices make training slower."""


MOST_DEVICES = 64
"""This many devices are allowed on any machine, to try out how a program runs on many."""


def claim_devices(count: int | None) -> None:
    """Make one device of every core of a CPU, or of ``count`` of them. Must come before anything else runs on JAX.

    One recurrence is too small to keep several cores busy, but each core can run its own for a part of the batch.
    With a device to each core, XLA's own threads have nothing left to do but get in the way.
    """
    if count is not None and count < 1:
        raise ValueError(f"--devices must be at least 1, not {count}")
    cores = os.cpu_count() or 1
    if count is not None and count > max(cores, MOST_DEVICES):
        raise ValueError(
            f"--devices {count} is more than this machine can have: it has {cores} cores. Leave the option out to "
            f"use as many devices as make it faster"
        )
    wanted = cores if count is None else count
    if wanted > 1 and "xla_cpu_multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        # Refused where this process has used JAX already: then the devices are what they are.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", wanted)


def batch_mesh(batch_size: int, count: int | None) -> Mesh | None:
    """A mesh over which to spread the rows of a batch, or None to use one device.

    Args:
      batch_size: rows of a batch.
      count: the number of devices, at most one per row; None takes as many as make training faster. With several
        processes, all devices of all processes are taken, since each process must take part.
    """
    if jax.process_count() > 1:
        return Mesh(jax.devices(), ("batch",))
    if count is None:
        devices = jax.devices()[: max(1, batch_size // ROWS_PER_DEVICE)]
    elif count > len(jax.devices()):
        raise ValueError(f"--devices {count} is more than JAX has here: {len(jax.devices())}")
    else:
        devices = jax.devices()[: min(count, batch_size)]
    return None if len(devices) == 1 else Mesh(devices, ("batch",))
