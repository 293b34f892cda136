"""Finding and loading the compiled library, which is optional: without it the scan runs everything."""

import ctypes
import functools
from pathlib import Path

import jax

LIBRARY = Path(__file__).with_name("libjaxrnn.so")
TARGETS = ("jaxrnn_forward", "jaxrnn_backward")


@functools.cache
def why_not_loaded() -> str | None:
    """Loads the library at the first call, and tells JAX of it; the reason if that cannot be."""
    if not LIBRARY.exists():
        return (
            "the C++ library was not built when jaxrnn was installed: install a C++20 compiler (g++ 11, clang 14 "
            "or newer) and jaxrnn again, or run python -m jaxrnn.ops.native.build"
        )
    try:
        library = ctypes.CDLL(str(LIBRARY))
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    except Exception as error:  # whatever a damaged or foreign file makes the loader or JAX say
        return f"{LIBRARY} cannot be loaded: {error}"
    return None


def instruction_set() -> str:
    """Which code of the library this processor runs: ``avx512``, ``avx2`` or ``base``."""
    reason = why_not_loaded()
    if reason is not None:
        raise ValueError(f"there is no native library: {reason}")
    function = ctypes.CDLL(str(LIBRARY)).jaxrnn_instruction_set
    function.restype = ctypes.c_char_p
    return function().decode()
