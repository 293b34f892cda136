"""What a measurement was taken on: processor, versions, load, and how fast its matrix product is."""

import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common.timing import timed

PACKAGES = ("jax", "jaxlib", "flax", "keras", "torch", "dm-haiku")


def machine() -> dict[str, Any]:
    """The machine in words and numbers; nothing that names its owner or its folders."""
    device = jax.devices()[0]
    return {
        "processor": processor(),
        "cores": cores(),
        "device": device.device_kind if device.platform != "cpu" else "cpu",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "matmul_gflops": matmul_rate(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def describe(machine: dict[str, Any]) -> str:
    """One paragraph of :func:`machine`, in Markdown."""
    versions = ", ".join(f"{p} {machine[p]}" for p in ("python", *PACKAGES) if machine[p] is not None)
    where = machine["processor"] if machine["device"] == "cpu" else f"{machine['device']}, {machine['processor']}"
    load = machine["load_average"]
    return (
        f"{where}, {machine['cores']} cores; {versions}. "
        f"Its float32 matrix product, 2048 x 2048 x 2048 in JAX: {machine['matmul_gflops']:.0f} GFLOP/s. "
        + (f"Load average when it began: {load:.1f}." if load is not None else "")
    ).strip()


def file_suffix(machine: dict[str, Any]) -> str:
    """The machine as part of a file name.

    >>> file_suffix({"processor": "Intel(R) Xeon(R) Processor", "cores": 2, "device": "cpu"})
    'intel-xeon-2-cores'
    """
    words = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    words = re.sub(r"\((r|tm)\)|@.*|\b(processor|cpu)\b", " ", words.lower())
    return "-".join([*re.findall(r"[a-z0-9]+", words), str(machine["cores"]), "cores"])


def processor() -> str:
    """The processor's model name."""
    if sys.platform == "linux":
        for name in re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return name.strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def matmul_rate(size: int = 2048, calls: int = 25) -> float:
    """GFLOP/s of the fastest of some large float32 matrix products: what a layer could at most reach."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(jnp.matmul)
    seconds = min(timed(lambda: multiply(a, a))[0] for _ in range(calls + 1))
    return 2 * size**3 / seconds / 1e9
