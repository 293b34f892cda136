"""Finding and loading the compiled library, which is optional: without it the scan runs everything."""

import ctypes
import functools
import warnings
from pathlib import Path
from typing import Any

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
        library = _functions(LIBRARY)
        for target in TARGETS:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    except Exception as error:  # whatever a damaged or foreign file makes the loader or JAX say
        reason = f"{LIBRARY} cannot be loaded (python -m jaxrnn.ops.native.build makes it anew): {error}"
        warnings.warn(f"jaxrnn runs on lax.scan: {reason}", RuntimeWarning, stacklevel=2)
        return reason
    return None


def loaded() -> Any:
    """The library's functions, or a ValueError."""
    reason = why_not_loaded()
    if reason is not None:
        raise ValueError(f"there is no native library: {reason}")
    return _functions(LIBRARY)


def instruction_set() -> str:
    """Which code of the library this processor runs: ``avx512``, ``avx2`` or ``base``."""
    return loaded().jaxrnn_instruction_set().decode()


@functools.cache
def _functions(path: Path) -> Any:
    # PyDLL keeps Python's lock: to let go of it and take it back costs as much as a step.
    library, address = ctypes.PyDLL(str(path)), ctypes.c_void_p
    library.jaxrnn_instruction_set.restype = ctypes.c_char_p
    library.jaxrnn_stream.restype = address
    library.jaxrnn_stream.argtypes = [ctypes.c_int] * 5 + [address] * 5
    library.jaxrnn_stream_step.restype = None
    library.jaxrnn_stream_step.argtypes = [address] * 6
    library.jaxrnn_stream_free.restype = None
    library.jaxrnn_stream_free.argtypes = [address]
    return library
