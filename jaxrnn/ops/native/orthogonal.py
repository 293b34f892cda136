"""Orthonormal columns from the C++ library: for its own decompositions JAX imports SciPy, which takes 0.3 s."""

import jax
from jax import Array

LARGEST = 256
"""Columns up to which the library is used. LAPACK divides larger matrices into blocks, which is faster."""


def orthonormal(matrix: Array) -> Array:
    """The Q of ``matrix = Q R`` whose R has a positive diagonal.

    Args:
      matrix: ``[..., rows, columns]``, not more columns than rows; float32 or float64.

    Source: Householder (1958), Unitary triangularization of a nonsymmetric matrix, doi:10.1145/320941.320947.
    """
    call = jax.ffi.ffi_call("jaxrnn_orthonormal", jax.typeof(matrix), vmap_method="broadcast_all")
    return call(matrix)
