"""Several processes that train one model: joins them, compares their settings, and detects that one is lost."""

import hashlib
import os
import socket
import sys
import threading
from importlib import metadata
from typing import Any

import jax
import numpy as np

import jaxrnn
from experiments.common.config import Settings, resolve
from experiments.common.options import option
from experiments.common.pipeline import load
from jaxrnn.training.distributed import processes

_SIGNS_OF_A_LOST_PEER = (
    "Gloo",
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset",
    "UNAVAILABLE",
    "heartbeat",
)

_MAY_DIFFER = ("out", "compilation_cache")
"""Settings that may differ between processes: each machine may have these folders in another place."""

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")


def join_processes(heartbeat: int) -> None:
    """Find the other processes of this job and join them. Call it after :func:`claim_devices`, before using JAX.

    Args:
      heartbeat: after this many seconds without a message from a process, the others end.

    Raises:
      ValueError: the environment does not say where the processes are, or another program uses the port of
        process 0.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if os.environ.get("JAX_PROCESS_ID") == "0":
        _require_free_port(address)
    # JAX's handler for SIGTERM would replace ours, which stops all processes after the same step.
    jax.config.update("jax_enable_preemption_service", False)
    number, process = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    where = f" (process 0 is expected at {address})" if address else ""
    message = f"waiting for the other processes of this job{where}; after five minutes this process gives up"
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


def _require_free_port(address: str) -> None:
    """Raise a ValueError if another program listens on the port of this address.

    JAX does not check this. Its service would share the port with the other program, which would receive some of
    the messages, and all processes would wait forever.
    """
    port = address.rpartition(":")[2]
    if not port.isdecimal():
        return  # JAX reports what is wrong with such an address
    with socket.socket() as probe:
        # Without SO_REUSEADDR, the port of a job that has just ended would count as in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"--distributed: process 0 cannot use port {port} of JAX_COORDINATOR_ADDRESS={address}: {reason}. "
                f"End the program that uses it, or give all processes of this job another port."
            ) from error


def lost_peer(error: Exception) -> bool:
    """Whether an error of JAX means that another process cannot be reached."""
    text = str(error)
    return any(sign in text for sign in _SIGNS_OF_A_LOST_PEER)


def require_same_everywhere(settings: Settings) -> None:
    """Compare settings, series and versions of all processes. A difference raises a ValueError in all of them."""

    def describe() -> dict[str, Any]:
        config = resolve(settings)
        facts = {option(name): value for name, value in vars(settings).items() if name not in _MAY_DIFFER}
        facts |= {option(name): value for name, value in vars(config).items()}
        facts |= {f"the version of {name}": metadata.version(name) for name in _LIBRARIES}
        facts["the version of jaxrnn"] = jaxrnn.__version__
        # In float32, because processors may differ in the last bits of the course series.
        values = load(config).values
        with np.errstate(over="ignore"):
            rounded = values.astype("<f4")
        facts["the series"] = f"{config.series} of shape {list(values.shape)}"
        facts["the SHA-256 of the series"] = hashlib.sha256(rounded.tobytes()).hexdigest()[:12]
        return facts

    try:
        processes.require_same(describe)
    except processes.ProcessesDiffer as error:
        raise processes.ProcessesDiffer(
            f"process {jax.process_index()} of {jax.process_count()} cannot start training: {error}. Start all "
            f"processes of a job with the same command, data and versions."
        ) from error


def leave() -> None:
    """Leave the job: wait for the other processes, so that none of them believes that this one has failed.

    Process 0 runs the service that the others are connected to. If it ended first, the others would be aborted
    before they can report why they end.
    """
    try:
        jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError as error:
        print(
            f"warning: the other processes of this job did not end: {str(error).splitlines()[0]}", file=sys.stderr
        )
