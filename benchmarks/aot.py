"""Compile the kernels for an H200, a TPU v5e and a TPU v6e on a machine that has none of them.

    python -m benchmarks.aot                    # everything that can be compiled here; TPUs take longest
    python -m benchmarks.aot --devices "H200 one SM" "H200 cluster"

Compilers find what lowering does not: registers that spill to memory, too little shared memory or VMEM, tiles that
the hardware does not have. They do not say how fast a kernel is. This needs the compilers, in a scratch
environment of about 2 GB, where $JAX is the version of jax:

    pip install nvidia-cuda-nvcc-cu12 libtpu
    pip install --no-deps jax-cuda12-plugin==$JAX jax-cuda12-pjrt==$JAX

("nvdisasm invocation failed" means only that the machine code could not be written out as text.)

Every cell, size and dtype that the kernels say they run must compile, forward and backward, without spills; the
exit status is 1 where one does not. The table goes to benchmarks/results/aot-jax-<version>.md and .json.
"""

import functools
import importlib
import importlib.util
import itertools
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common.command import FolderOptions, check_writable, command, known
from benchmarks.common.compilers import compiled_for, missing
from benchmarks.common.machine import version
from benchmarks.common.report import RESULTS, Page, Table, console
from jaxrnn import ops
from jaxrnn.ops.linear import kernel
from jaxrnn.ops.linear.arrays import LinearArrays
from jaxrnn.ops.linear.loops import loop_recurrence
from jaxrnn.ops.pallas import not_a_tile
from jaxrnn.ops.pallas.mosaic_gpu import MOSAIC_GPU
from jaxrnn.ops.pallas.mosaic_gpu_sm import MOSAIC_GPU_SM
from jaxrnn.ops.pallas.mosaic_tpu import MOSAIC_TPU
from jaxrnn.ops.pallas.recurrence import Device, pallas_recurrence
from jaxrnn.ops.pallas.triton import TRITON
from jaxrnn.ops.step import Recurrence

BATCH, TIME = 128, 1024
"""Compiled with masks (seq_lengths and resets), which only add to what a kernel needs."""

TIME_OF_HEADS = 256
"""Layers with heads are wide: the arrays of more steps do not fit the memory of a TPU v5e in float32."""


@dataclass(frozen=True)
class Cell:
    """A pointwise function, its gates, and what else it needs; ``carry`` makes a carry of h and of parts like it,
    ``params`` is a leak. With ``heads``, the only size that is compiled is that of heads of ``units`` each."""

    pointwise: Any
    gates: int
    carry: Any = None
    recurrent_bias: bool = False
    params: bool = False
    heads: int = 1
    units: int = 0


CELLS = {
    "SimpleRNN": Cell(ops.simple_rnn_pointwise(jnp.tanh), 1),
    "GRU": Cell(ops.gru_pointwise, 3, recurrent_bias=True),
    "LSTM": Cell(ops.lstm_pointwise, 4, carry=lambda h, wide: ops.LSTMCarry(h, h)),
    "leaky (a user's)": Cell(ops.leaky_pointwise, 1, params=True),
    **{
        f"{name}, {heads} heads": Cell(pointwise, 4, carry=carry, heads=heads, units=units)
        for heads, units in ((12, 64), (16, 128))
        for name, pointwise, carry in (
            ("LSTM", ops.lstm_pointwise, lambda h, wide: ops.LSTMCarry(h, h)),
            ("sLSTM", ops.slstm_pointwise(), lambda h, wide: ops.SLSTMCarry(wide, wide, wide, h)),
        )
    },
}

DEVICES: dict[str, tuple[Device, tuple[int, ...]]] = {
    "H200 Triton": (TRITON, (64, 128, 256)),
    "H200 one SM": (MOSAIC_GPU_SM, (64, 128, 256)),
    "H200 cluster": (MOSAIC_GPU, (256, 512, 1024)),
    "TPU v5e": (MOSAIC_TPU, (64, 128, 256, 512, 1024)),
    "TPU v6e": (MOSAIC_TPU, (64, 128, 256, 512)),
}
"""The kernels of each device, and the hidden sizes to compile."""

LINEAR = "linear recurrence"
LINEAR_LOOPS = {"H200 Triton": kernel.gpu_loop, "TPU v5e": kernel.tpu_loop, "TPU v6e": kernel.tpu_loop}
LINEAR_CHANNELS = (64, 1024)
"""With few channels the kernel for GPUs divides time into chunks, with many it does not."""

NAMES = (*CELLS, LINEAR)
"""What can be compiled. A linear recurrence in half precision is computed in float32, so there is no row of it."""

PRECISIONS = {
    "bfloat16": ("bfloat16", None),
    "float32": ("float32", None),
    "float32, highest": ("float32", "highest"),
}


@dataclass(frozen=True)
class AotOptions(FolderOptions):
    """What to compile."""

    devices: tuple[str, ...] = tuple(DEVICES)
    """What to compile for."""

    cells: tuple[str, ...] = NAMES
    """The cells to compile; the rows of others are kept from the last time."""


def shapes(cell: Cell, hidden: int, dtype: str, *, batch: int = BATCH, time: int = TIME) -> Any:
    """A recurrence of that cell, as shapes: no array is made."""

    def array(*shape, dtype=dtype) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    h, units = array(batch, hidden), hidden // cell.heads
    carry = h if cell.carry is None else cell.carry(h, array(batch, hidden, dtype="float32"))
    mask = array(time, batch, dtype="bool")
    return Recurrence(
        recurrent_kernel=array(*([cell.heads] * (cell.heads > 1)), units, cell.gates * units),
        xw=array(time, batch, cell.gates * hidden),
        initial_carry=carry,
        params=array(hidden) if cell.params else (),
        recurrent_bias=array(cell.gates * hidden) if cell.recurrent_bias else None,
        valid=mask,
        resets=mask,
        reset_carry=carry,
    )


def forward_and_backward(device: Device, cell: Cell, precision: str | None = None, *, reverse=False) -> Any:
    """A function of a recurrence's arrays: results, and gradients for ones as cotangents."""

    def run(arrays):
        with jax.default_matmul_precision(precision or "default"):
            recurrence = functools.partial(pallas_recurrence, device, cell.pointwise, reverse=reverse)
            results, pullback = jax.vjp(recurrence, arrays)
            return results, pullback(jax.tree.map(jnp.ones_like, results))[0]

    return run


def without_masks_gradients(gradients: Any) -> Any:
    """The gradients of masks have a dtype without bytes, which no compiler accepts as a result."""
    return gradients._replace(valid=None, resets=None)


def unable(device: Device, cell: Cell, hidden: int, precision: str) -> str | None:
    """The kernels' own reason why they do not run this cell in that size, or None."""
    dtype, matmul_precision = PRECISIONS[precision]
    arrays = shapes(cell, hidden, dtype)
    with jax.default_matmul_precision(matmul_precision or "default"):
        return device.unable(arrays) or not_a_tile(cell.pointwise, arrays, device.lacks)


def sizes(name: str, cell: str, precision: str) -> Sequence[int]:
    """Hidden sizes to compile; the largest that the kernels say they run is always among them."""
    if cell == LINEAR:
        return LINEAR_CHANNELS if name in LINEAR_LOOPS and precision == "float32" else ()
    device, asked = DEVICES[name]
    if CELLS[cell].heads > 1:
        return [CELLS[cell].heads * CELLS[cell].units]
    claimed = [size for size in range(64, 8193, 64) if unable(device, CELLS[cell], size, precision) is None]
    if not claimed:
        return ()
    if precision == "float32, highest":  # larger sizes take the TPU's compiler many minutes
        return [size for size in asked if size <= 256]
    return sorted({*asked, max(claimed)})


def compiled(name: str, cell: str, hidden: int, precision: str) -> dict[str, Any]:
    """Whether the kernels run this, and what the compiler said."""
    device, _ = DEVICES[name]
    dtype, matmul_precision = PRECISIONS[precision]
    if cell == LINEAR:
        program, arrays = linear_program(name), linear_shapes(hidden)
    elif reason := unable(device, CELLS[cell], hidden, precision):
        return {"runs": False, "reason": reason}
    else:
        time = TIME if CELLS[cell].heads == 1 else TIME_OF_HEADS
        arrays = shapes(CELLS[cell], hidden, dtype, time=time)

        def program(arrays: Any) -> Any:
            results, gradients = forward_and_backward(device, CELLS[cell], matmul_precision)(arrays)
            return results, without_masks_gradients(gradients)

    try:
        return {"runs": True, **compiled_for(name, program, arrays)}
    except Exception as error:  # each compiler has its own exceptions; any of them means that it failed
        return {"runs": True, "error": str(error).strip().splitlines()[0][:300]}


def linear_shapes(channels: int) -> LinearArrays:
    steps = jax.ShapeDtypeStruct((TIME, BATCH, channels), "float32")
    first = jax.ShapeDtypeStruct(steps.shape[1:], steps.dtype)
    lengths, resets = jax.ShapeDtypeStruct((BATCH,), "int32"), jax.ShapeDtypeStruct((TIME, BATCH), "bool")
    masks: Any = {"reset_state": first, "lengths": lengths, "resets": resets}
    return LinearArrays(steps, steps, first, **masks)  # pyright: ignore[reportArgumentType]


def linear_program(name: str) -> Any:
    """States and gradients of a linear recurrence."""
    run = functools.partial(loop_recurrence, LINEAR_LOOPS[name], reverse=False, batch_major=False)

    def program(arrays: LinearArrays) -> Any:
        states, pullback = jax.vjp(lambda a, b: run(arrays._replace(a=a, b=b)), *arrays[:2])
        return states, pullback(jnp.ones_like(states))

    return program


def failed(row: dict[str, Any]) -> bool:
    """Whether kernels that should run did not compile, or spill registers."""
    return "error" in row or any(kernel["spill_bytes"] for kernel in row.get("kernels", {}).values())


def words(row: dict[str, Any]) -> str:
    if not row["runs"]:
        return "not run: " + row["reason"]
    if "error" in row:
        return "FAILS: " + row["error"]
    if "kernels" not in row:
        return "compiles"
    found = []
    for name, used in sorted(row["kernels"].items(), key=lambda item: (item[0] != "recurrence_forward", item[0])):
        shared = "" if used["shared_bytes"] is None else f", {used['shared_bytes'] / 1024:.0f} KiB"
        spilled = f"{used['registers']} registers, {used['spill_bytes']} B spilled{shared}"
        found.append(f"{name.removeprefix('recurrence_')}: {spilled}")
    return "; ".join(found)


def run(options: AotOptions) -> int:
    known("device", options.devices, DEVICES)
    known("cell", options.cells, NAMES)
    folder = options.out or RESULTS
    check_writable(folder)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as dumps:
        prepare(dumps)
        absent = {name: reason for name in options.devices if (reason := missing(name)) is not None}
        for name, cell, precision in itertools.product(options.devices, options.cells, PRECISIONS):
            for hidden in sizes(name, cell, precision) if name not in absent else ():
                row = compiled(name, cell, hidden, precision)
                console.print(f"{name}, {cell}, H = {hidden}, {precision}: {words(row)}", soft_wrap=True)
                rows.append({"device": name, "cell": cell, "hidden": hidden, "precision": precision, **row})
    notes = [f"Not compiled: {name}: {reason}." for name, reason in absent.items()]
    if not rows:
        raise ValueError(f"nothing could be compiled: see python -m benchmarks.aot --help. {' '.join(notes)}")
    packages = {p: version(p) for p in ("jax", "jaxlib", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12", "libtpu")}
    path = folder / f"aot-jax-{packages['jax']}.json"
    if path.exists():  # keep the rows of devices and cells that were not asked for now
        for row in json.loads(path.read_text())["rows"]:
            asked = row["device"] in options.devices and row["cell"] in options.cells
            if not asked and row["device"] in DEVICES and row["cell"] in NAMES:  # not those of earlier kernels
                rows.append(row)
    rows.sort(key=lambda row: (list(DEVICES).index(row["device"]), NAMES.index(row["cell"])))
    made = Page("Kernels compiled without a device", TEXT)
    made.add(f"Versions: {', '.join(f'{name} {number}' for name, number in packages.items() if number)}.")
    for device, group in itertools.groupby(rows, lambda row: row["device"]):
        lines = [[f"{row['cell']}, {row['hidden']}, {row['precision']}", words(row)] for row in group]
        made.add(f"## {device}")
        made.table(Table(["cell, hidden size, dtype", "compiler"], lines))
    record = {"benchmark": "aot", "versions": packages, "batch": BATCH, "time": TIME, "absent": absent}
    made.save(path.with_suffix(".md"), record | {"rows": rows}, notes)
    return int(any(failed(row) for row in rows))


TEXT = (
    f"Forward and backward at batch {BATCH}, {TIME} steps ({TIME_OF_HEADS} with heads), with seq_lengths and "
    "resets: what compilers say. No kernel was run, and no speed is measured. "
    'What is "not run" by the kernels goes to the scan.'
)

DUMP = "--xla_dump_hlo_as_text --xla_dump_emitter_re=ptx"
"""Makes XLA write the programs for ptxas, and how much shared memory every kernel is launched with."""


def prepare(dumps: str) -> None:
    """Set what the compilers read from the environment, before anything of JAX runs."""
    jax.config.update("jax_platforms", "cpu")
    os.environ |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "TPU_SKIP_MDS_QUERY": "1", "MOSAIC_GPU_DUMP_TO": dumps}
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dumps} {DUMP}"
    if importlib.util.find_spec("libtpu") is not None:
        os.environ["TPU_LIBRARY_PATH"] = importlib.import_module("libtpu").get_library_path()


main = command(AotOptions, run, "aot", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
