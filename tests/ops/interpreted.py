"""The kernels of accelerators as implementations that run on any machine, since Pallas interprets them."""

from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu, tpu

from jaxrnn.ops.dispatch import Implementation
from jaxrnn.ops.pallas import not_a_tile
from jaxrnn.ops.pallas.mosaic_gpu import MOSAIC_GPU
from jaxrnn.ops.pallas.mosaic_tpu import MOSAIC_TPU
from jaxrnn.ops.pallas.recurrence import Device, pallas_recurrence
from jaxrnn.ops.pallas.triton import TRITON


def interpreted(device: Device, interpret: Any = True) -> Implementation:
    """In every dtype: float64 too, which no device has, shows that the equations are right to the last digits."""

    def run(pointwise, arrays, *, reverse, unroll):
        return pallas_recurrence(device, pointwise, arrays, reverse=reverse, interpret=interpret)

    return Implementation(
        run, unable=lambda pointwise, arrays, platform: not_a_tile(pointwise, arrays, device.lacks)
    )


RACES = tpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
"""A TPU's memory and copies step by step: what nobody wrote is NaN, and races are told."""

MOSAIC_GPU_RACES: Any = None
if jax.__version_info__ >= (0, 12):
    MOSAIC_GPU_RACES = getattr(mosaic_gpu, "InterpretGPUParams")(detect_races=True, uninitialized_memory="nan")  # noqa: B009
"""The same for a cluster's blocks, threads and barriers; before jax 0.12 nothing interprets these."""

KERNELS = {
    "pallas_triton": interpreted(TRITON),
    "pallas_mosaic_tpu": interpreted(MOSAIC_TPU),  # the equations alone, in half the time
    "pallas_mosaic_tpu_races": interpreted(MOSAIC_TPU, RACES),
}

if MOSAIC_GPU_RACES is not None:
    KERNELS["pallas_mosaic_gpu"] = interpreted(MOSAIC_GPU, MOSAIC_GPU_RACES)
