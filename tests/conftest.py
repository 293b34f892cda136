"""What tests of several packages share."""

import atexit
import functools
import gc
import os
import shutil
import tempfile

import jax
import pytest
from jax._src.interpreters import mlir

from tests.xla_flags import XLA_FLAGS

# Tests compare float64, the C++ library and equal bits: they ask for a CPU, also where there is an accelerator.
# Those in tests/device ask for the accelerator. Several test workers share the memory of one accelerator.
jax.config.update("jax_default_device", "cpu")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def pytest_configure(config):
    # JAX read its environment when it was imported, so this is for the child processes of tests only. The process
    # that starts test workers must not set it: they would see no accelerator.
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_collection_finish():
    """Python looks for garbage more rarely, and not among what is imported by now: it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


# Most of the time of the tests is that of XLA, which compiles thousands of small programs. It reads its flags with
# the first program, here and in the child processes of tests.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}".strip()

# Without most optimisations it takes half as long, and at the sizes of a test they would win nothing.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_disable_most_optimizations", True)

# Many tests, and the child processes of tests, compile the same programs. A compiled program is kept on disk for
# the rest of the run. With several workers, the process that starts them makes the folder, which they all share.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxrnn-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# JAX lowers every program in a context of MLIR of its own, which takes 5 ms to make and a megabyte for as long as
# the program is kept. In a context that all share, lowering takes a quarter of the time, however many there are.
if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)

if jax.__version_info__ >= (0, 12):
    # What interprets a cluster of blocks runs each of them as a program of its own, and they wait for each other:
    # with fewer of XLA's threads than blocks, forever.
    os.environ.setdefault("PJRT_NPROC", "16")


@pytest.fixture(scope="module", autouse=True)
def _flags_for_child_processes():
    """Commands that run in this process set flags for XLA, which the children of later tests must not inherit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
        yield


@pytest.fixture(scope="module")
def all_optimisations():
    """For tests of what XLA's optimisations bring."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
