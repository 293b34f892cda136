"""Descriptions of an H200 and of TPUs, for JAX's compilers on a machine that has none of them."""

import contextlib
import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding, use_abstract_mesh

H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 151397597184 device_address_bits: 64 pcie_bandwidth: 34359738368
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 ecc_enabled: true
  cuda_compute_capability { major: 9 %s }
  device_vendor: "NVIDIA Corporation" name: "NVIDIA H200"
  driver_version: "12.9.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200"
"""

TOPOLOGIES = {"TPU v5e": "v5e:2x2", "TPU v6e": "v6e:2x2"}
"""Of the TPUs, by name; every other name is that of an H200."""


def missing(name: str) -> str | None:
    """Why nothing can be compiled for this device here, or None."""
    if name in TOPOLOGIES:
        return None if importlib.util.find_spec("libtpu") is not None else "libtpu is not installed"
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        return "jax-cuda12-plugin is not installed"
    if ptxas() is None:
        return "ptxas was not found: nvidia-cuda-nvcc-cu12 is not installed"
    return None if h200_device() is not None else "this jax-cuda12-plugin does not compile without a device"


@functools.cache
def h200_device() -> Any:
    for feature in ("feature_extension: ACCELERATED_FEATURES", ""):  # unknown to some versions
        with contextlib.suppress(Exception):
            config = {"target_config": H200 % feature, "topology": "1x1x1"}
            return topologies.get_topology_desc(platform="cuda", **config).devices[0]
    return None


KINDS = {"cuda": AbstractDevice("NVIDIA H200", None, "gpu"), "tpu": AbstractDevice("TPU v5 lite", 1, "tpu")}


def known_device(platform: str) -> Any:
    """A context in which lowering finds a device of this platform, although the machine has none."""
    return use_abstract_mesh(AbstractMesh((), (), abstract_device=KINDS[platform]))


def compiled_for(name: str, function: Any, shapes: Any) -> dict[str, Any]:
    """Compile a function of these arrays for a device. On an H200, returns the registers, spilled bytes and shared
    memory of every recurrence kernel in the program."""

    def compile_on(device: Any) -> None:
        sharding = SingleDeviceSharding(device)
        placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes)
        jax.jit(function).trace(placed).lower().compile()

    if name in TOPOLOGIES:
        with known_device("tpu"):  # some operations are lowered in another way for another generation
            compile_on(topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[name]).devices[0])
        return {}
    dumps = Path(re.findall(r"--xla_dump_to=(\S+)", os.environ["XLA_FLAGS"])[-1])
    for file in dumps.glob("*"):
        file.unlink()
    with known_device("cuda"):
        compile_on(h200_device())
    shared = {}
    for file in dumps.glob("*thunk_sequence.txt"):
        shared |= dict(re.findall(r"(recurrence_\w+).*shared_memory: (\d+)", file.read_text()))
    kernels = {}
    for file in dumps.glob("*.ptx"):
        kernels |= _resources(file)
    for file in dumps.glob("recurrence_*.mlir-passes.log"):  # Mosaic's
        if size := re.search(r"dynamic_shared_memory_size %c(\d+)_i32", file.read_text()):
            shared[re.sub(r"_\d+$", "", file.name.split(".")[0])] = size[1]
    for name, kernel in kernels.items():
        kernel["shared_bytes"] = int(shared[name]) if name in shared else None
    if len(kernels) < 2:
        raise RuntimeError(f"expected at least a forward and a backward kernel, not {sorted(kernels)}")
    return {"kernels": kernels}


def _resources(ptx: Path) -> dict[str, dict[str, Any]]:
    if "recurrence_" not in ptx.read_text():
        return {}
    told = ptx.with_suffix(".ptxas")  # Mosaic calls ptxas by itself
    if told.exists():
        report = told.read_text()
    else:
        command = [str(ptxas()), "-v", "-arch=sm_90a", str(ptx), "-o", os.devnull]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = r"(\d+) bytes spill stores, (\d+) bytes spill loads"
    pattern = rf"Compiling entry function '(recurrence_\w+)'.*?{spills}.*?Used (\d+) registers"
    return {
        name.removesuffix("_mosaic_gpu_kernel"): {"registers": int(used), "spill_bytes": int(stores) + int(loads)}
        for name, stores, loads, used in re.findall(pattern, report, re.DOTALL)
    }


@functools.cache
def ptxas() -> str | None:
    with contextlib.suppress(ImportError):
        import nvidia  # pyright: ignore[reportMissingImports]

        for folder in nvidia.__path__:
            for found in sorted(Path(folder).glob("*/bin/ptxas")):
                return str(found)
    return shutil.which("ptxas")
