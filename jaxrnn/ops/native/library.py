"""Loads the compiled library, which is optional: without it, the scan runs everything."""

import ctypes
import functools
import warnings
from pathlib import Path
from typing import Any

import jax

LIBRARY = Path(__file__).with_name("libjaxrnn.so")
REBUILD = "python -m jaxrnn.ops.native.build"
TARGETS = (
    "jaxrnn_forward",
    "jaxrnn_backward",
    "jaxrnn_program_forward",
    "jaxrnn_program_backward",
    "jaxrnn_linear_forward",
    "jaxrnn_linear_backward",
    "jaxrnn_quantized",
    "jaxrnn_threefry",
    "jaxrnn_random_words",
    "jaxrnn_norm",
    "jaxrnn_orthonormal",
    "jaxrnn_elementwise",
)


@functools.cache
def why_not_loaded() -> str | None:
    """Load the library and register its FFI targets. Returns an error message, or None.

    A RuntimeWarning says so if the library cannot be used: the scan then computes the same, but a training step
    takes about twice as long.
    """
    reason = _register()
    if reason is not None:
        warnings.warn(f"jaxrnn runs on lax.scan, which is slower: {reason}", RuntimeWarning, stacklevel=2)
    return reason


def available() -> bool:
    """Whether the library can be used. This does not warn, since whoever asks may have no recurrence to run."""
    return _register() is None


@functools.cache
def _register() -> str | None:
    from jaxrnn.ops.native.build import source_hash  # imported here, so that python -m can run the module

    if not LIBRARY.exists():
        return (
            "the C++ library was not built when jaxrnn was installed. Install a C++20 compiler (g++ 11, clang 14 "
            f"or newer), then run: {REBUILD}"
        )
    try:
        if _hash_of(ctypes.PyDLL(str(LIBRARY))) != source_hash():
            return f"{LIBRARY} was built from other sources than those here. To build it again, run: {REBUILD}"
        library = _functions(LIBRARY)
        if library.jaxrnn_instruction_set() == b"none":
            return f"{LIBRARY} was built for another processor than this one. To build it again, run: {REBUILD}"
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    except Exception as error:  # a damaged or foreign file may cause any error in the loader or in JAX
        return f"{LIBRARY} cannot be loaded. To build it again, run: {REBUILD} ({error})"
    return None


def _hash_of(library: Any) -> str | None:
    """The hash of the sources that the library was built from; None for old libraries without one."""
    try:
        function = library.jaxrnn_source_hash
    except AttributeError:
        return None
    function.restype = ctypes.c_char_p
    return function().decode()


def loaded() -> Any:
    """The library's functions. Raises a ValueError if it cannot be used."""
    reason = why_not_loaded()
    if reason is not None:
        raise ValueError(f"the C++ library cannot be used: {reason}")
    return _functions(LIBRARY)


def instruction_set() -> str:
    """The instruction set that the library uses on this processor: ``avx512``, ``avx2`` or ``base``."""
    return loaded().jaxrnn_instruction_set().decode()


def instruction_sets() -> list[str]:
    """Those that the library was compiled for, best first."""
    return loaded().jaxrnn_instruction_sets().decode().split()


def has_tiles() -> bool:
    """Whether products of bfloat16 run in the tile registers of this processor (AMX)."""
    return bool(loaded().jaxrnn_has_tiles())


@functools.cache
def _functions(path: Path) -> Any:
    # PyDLL does not release Python's global lock, because that would take as long as a step.
    library: Any = ctypes.PyDLL(str(path))
    address = ctypes.c_void_p
    library.jaxrnn_instruction_set.restype = library.jaxrnn_instruction_sets.restype = ctypes.c_char_p
    library.jaxrnn_stream.restype = address
    library.jaxrnn_stream.argtypes = [ctypes.c_int] * 6 + [address] * 5
    library.jaxrnn_stream_step.restype = None
    library.jaxrnn_stream_step.argtypes = [address] * 4
    library.jaxrnn_program_stream.restype = address
    library.jaxrnn_program_stream.argtypes = [ctypes.c_int] + [address] * 4 + [ctypes.c_int] * 3 + [address] * 5
    library.jaxrnn_stream_free.restype = None
    library.jaxrnn_stream_free.argtypes = [address]
    # A step of thousands of rows takes long enough to let other threads of Python run.
    unlocked = ctypes.CDLL(str(path))
    library.jaxrnn_layer.restype = address
    library.jaxrnn_layer.argtypes = [ctypes.c_int] * 4 + [address] * 7
    library.jaxrnn_quantized_stream.restype = address
    library.jaxrnn_quantized_stream.argtypes = [ctypes.c_int] * 4 + [address] * 7
    library.jaxrnn_layer_free.restype = None
    library.jaxrnn_layer_free.argtypes = [address]
    unlocked.jaxrnn_layer_step.argtypes = [address, ctypes.c_int, ctypes.c_int] + [address] * 5
    library.jaxrnn_layer_step = unlocked.jaxrnn_layer_step
    return library
