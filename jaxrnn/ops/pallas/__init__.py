"""One kernel launch for a whole sequence, on a GPU or a TPU, for any elementwise cell.

A ``lax.scan`` on a GPU launches several kernels at every step. Here the loop over time is inside one kernel, which
keeps the recurrent weights on the chip: fast where a step is small, and possible only where the weights fit.

What is where: ``loops.py`` the two loops over time and the derivation of the backward one; ``cell.py`` what a
cell's derivative needs; ``recurrence.py`` padding, and the products outside the kernels; ``heads.py`` heads as
rows, ``runs.py`` runs of ``vmap`` as heads; ``interface.py`` what the loops need from a device; ``limits.py`` says
what does not fit. Each kernel is named by its backend:

- ``mosaic_gpu_sm.py`` runs a tile of the batch on one SM (streaming multiprocessor) of a Hopper GPU, in half
  precision, and ``triton.py`` on one of any GPU, in float32 too.
- ``mosaic_gpu.py`` shares a tile among several SMs of a Hopper GPU, with ``mosaic_gpu_product.py``. Both of Mosaic
  GPU's kernels use ``mosaic_gpu_kernel.py``, ``registers.py`` and ``simplify.py``.
- ``mosaic_tpu.py`` runs on a TPU.

The kernels for GPUs were run on an H200, against float64 (``tests/device``) and for their speed
(``python -m benchmarks.accelerator``). Those for TPUs were only compiled, for v5e and v6e
(``python -m benchmarks.aot``), and interpreted against float64.
"""

import importlib
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrnn.ops.step import Carry, Pointwise, Recurrence, dtype_of, units_of

if TYPE_CHECKING:
    from jaxrnn.ops.pallas.recurrence import Device

# Pallas takes a quarter of a second to import: only where a kernel is asked for.


def pallas_recurrence(
    pointwise: Pointwise, arrays: Recurrence, *, reverse: bool, unroll: int
) -> tuple[Carry, Array]:
    """The recurrence in one kernel each way. ``unroll`` changes nothing: there is no launch to save."""
    from jaxrnn.ops.pallas.recurrence import pallas_recurrence

    device = _device(pointwise, arrays, accelerator())[0]
    if device is None:
        raise ValueError(unable(pointwise, arrays, accelerator()))
    return pallas_recurrence(device, pointwise, arrays, reverse=reverse)


def unable(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    """Why the kernels cannot run this."""
    if platform not in ("gpu", "tpu"):
        return f"it needs a gpu or a tpu, not a {platform}"
    return _device(pointwise, arrays, platform)[1]


def not_preferred(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    """Why another implementation is preferred although the kernels could run."""
    if arrays.xw.shape[0] == 1:
        return "the scan is faster for a single step, which needs no loop"
    device = _device(pointwise, arrays, platform)[0] if platform in BACKENDS else None
    return None if device is None else device.not_preferred(arrays)


def not_a_tile(pointwise: Pointwise, a: Recurrence, lacks: frozenset[str] = frozenset()) -> str | None:
    """Why this cell or its arrays are not supported by the kernels, or by those that lack some operations."""
    from jaxrnn.ops.pallas.cell import Cell, not_elementwise

    hidden = units_of(a.recurrent_kernel)
    for leaf in jax.tree.leaves(a.initial_carry):
        if leaf.shape[-1] != hidden:
            return f"a part of the carry has {leaf.shape[-1]} columns, not those of h: {hidden}"
    for leaf in jax.tree.leaves(a.params):
        dtype, shape = dtype_of(leaf), jnp.shape(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            return f"a parameter of the pointwise function is {dtype}, not floating"
        if shape not in ((), (1,), (hidden,), (1, hidden)):
            return f"a parameter of the pointwise function is {shape}, neither a number nor one for every unit"
    return not_elementwise(Cell.of(pointwise, a), lacks)


BACKENDS = {"gpu": ("mosaic_gpu_sm", "triton", "mosaic_gpu"), "tpu": ("mosaic_tpu",)}
"""Modules with a :class:`Device` of their name in capitals, in the order in which they are tried."""

MOST_ROWS_IN_TILES = 512
"""Of the batch. With more, it takes longer to rearrange all arrays in the tiles of ``mosaic_gpu_sm.py`` than that
kernel saves, and Triton's comes first, which reads them as they are (measured on an H200)."""


def _device(pointwise: Pointwise, a: Recurrence, platform: str) -> "tuple[Device | None, str | None]":
    """What these arrays run on, or None and why."""
    reasons = []
    backends = BACKENDS[platform]
    if platform == "gpu" and math.prod(a.xw.shape[1:-1]) > MOST_ROWS_IN_TILES:
        backends = ("triton", "mosaic_gpu_sm", "mosaic_gpu")
    for backend in backends:
        try:
            module = importlib.import_module(f"jaxrnn.ops.pallas.{backend}")
        except ImportError as error:  # a backend of Pallas that this JAX lacks
            if str(error.name).startswith("jaxrnn"):
                raise
            reasons.append(f"the {backend} kernels need another version of JAX: {error}")
            continue
        device = getattr(module, backend.upper())
        reason = device.unable(a) or not_a_tile(pointwise, a, device.lacks)
        if reason is None:
            return device, None
        if reason not in reasons:
            reasons.append(reason)
    return None, "; ".join(reasons)


def accelerator() -> str:
    """Which one this process has; no machine has both."""
    default: Any = jax.default_backend()
    if default in ("gpu", "tpu"):
        return default
    try:
        jax.devices("tpu")
    except RuntimeError:
        return "gpu"
    return "tpu"
