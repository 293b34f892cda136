"""Which devices an experiment trains on, of this process or of several."""

import contextlib
import os
import sys
import threading

import jax
from jax.sharding import Mesh

ROWS_PER_DEVICE = 32
"""With fewer rows of a batch than this for each, more devices cost more than they bring."""

_SIGNS_OF_A_LOST_PEER = (
    "Gloo",
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset",
    "UNAVAILABLE",
    "heartbeat",
)


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


def join_processes(heartbeat: int) -> None:
    """Find the other processes of this job and join them. After :func:`claim_devices`, before all else on JAX.

    Args:
      heartbeat: seconds after which a process that has not been heard of is dead, and the others end.

    Raises:
      ValueError: the environment does not say where they are, or not all of what is needed.
    """
    # Its handler of SIGTERM would exclude ours, which also stops all processes after the same step.
    jax.config.update("jax_enable_preemption_service", False)
    number, process = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    message = "waiting for the other processes of this job; after five minutes without them this one ends"
    waiting = threading.Timer(5, print, [message], {"file": sys.stderr, "flush": True})
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            num_processes=None if number is None else int(number),
            process_id=None if process is None else int(process),
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=max(heartbeat, 60),
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed: cannot join the other processes: {error} Under SLURM, Open MPI, Kubernetes or on a "
            f"TPU pod JAX finds them; elsewhere set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and "
            f"JAX_PROCESS_ID for each of them."
        ) from error
    finally:
        waiting.cancel()


def lost_peer(error: Exception) -> bool:
    """Whether an error of JAX means that another process cannot be reached any more."""
    text = str(error)
    return any(sign in text for sign in _SIGNS_OF_A_LOST_PEER)


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
