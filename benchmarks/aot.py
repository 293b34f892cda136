"""Compile the kernels for an H200, a TPU v5e and a TPU v6e on a machine that has none of them.

    python -m benchmarks.aot                    # everything that can be compiled here; TPUs take longest
    python -m benchmarks.aot --devices H200 "H200 cluster"

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
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro
from jax.sharding import SingleDeviceSharding

from benchmarks.common.command import command, known
from benchmarks.common.compilers import compiled_for_h200, h200_is_missing, tpu_device, tpu_is_missing
from benchmarks.common.machine import version
from benchmarks.common.report import RESULTS, Report, Table, console
from jaxrnn import ops
from jaxrnn.ops.pallas import not_a_tile
from jaxrnn.ops.pallas.mosaic_gpu import MOSAIC_GPU
from jaxrnn.ops.pallas.mosaic_tpu import MOSAIC_TPU
from jaxrnn.ops.pallas.recurrence import Device, pallas_recurrence
from jaxrnn.ops.pallas.triton import TRITON
from jaxrnn.ops.step import Recurrence

BATCH, TIME = 128, 1024
"""Compiled with masks (seq_lengths and resets), which only add to what a kernel needs."""


def leaky(params, carry, xw, rh):
    """A user's cell: learned leaks, one for every unit."""
    leak = jax.nn.sigmoid(params)
    h = (1 - leak) * carry + leak * jnp.tanh(xw[0] + rh[0])
    return h, h


@dataclass(frozen=True)
class Cell:
    """A pointwise function, its gates, and what else it needs. ``carry`` makes a carry of two parts; None: h
    alone."""

    pointwise: Any
    gates: int
    carry: Any = None
    recurrent_bias: bool = False
    params: bool = False


CELLS = {
    "SimpleRNN": Cell(ops.simple_rnn_pointwise(jnp.tanh), 1),
    "GRU": Cell(ops.gru_pointwise, 3, recurrent_bias=True),
    "LSTM": Cell(ops.lstm_pointwise, 4, carry=ops.LSTMCarry),
    "leaky (a user's)": Cell(leaky, 1, params=True),
}

CLUSTER = "H200 cluster"

DEVICES: dict[str, Device] = {
    "H200": TRITON,
    CLUSTER: MOSAIC_GPU,
    "TPU v5e": MOSAIC_TPU,
    "TPU v6e": MOSAIC_TPU,
}

SIZES = {
    "H200": (64, 128, 256),
    CLUSTER: (256, 512, 1024),
    "TPU v5e": (64, 128, 256, 512, 1024),
    "TPU v6e": (64, 128, 256, 512),
}

PRECISIONS = {
    "bfloat16": ("bfloat16", None),
    "float32": ("float32", None),
    "float32, highest": ("float32", "highest"),
}


@dataclass(frozen=True)
class Options:
    """What to compile."""

    devices: Annotated[tuple[str, ...], tyro.conf.arg(help=f"Of: {', '.join(SIZES)}.")] = tuple(SIZES)

    out: Path = RESULTS
    """Folder for the results."""


def shapes(
    cell: Cell, hidden: int, dtype: str, *, batch: int = BATCH, time: int = TIME, masks: bool = True
) -> Any:
    """A recurrence of that cell, as shapes: no array is made."""

    def array(*shape, dtype=dtype) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    h = array(batch, hidden)
    carry = h if cell.carry is None else cell.carry(h, h)
    mask = array(time, batch, dtype="bool") if masks else None
    return Recurrence(
        recurrent_kernel=array(hidden, cell.gates * hidden),
        xw=array(time, batch, cell.gates * hidden),
        initial_carry=carry,
        params=array(hidden) if cell.params else (),
        recurrent_bias=array(cell.gates * hidden) if cell.recurrent_bias else None,
        valid=mask,
        resets=mask,
        reset_carry=carry if masks else None,
    )


def forward_and_backward(
    device: Device, cell: Cell, precision: str | None = None, *, reverse: bool = False
) -> Any:
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


def sizes(name: str, cell: Cell, precision: str) -> list[int]:
    """Hidden sizes to compile; the largest that the kernels say they run is always among them."""
    claimed = [size for size in range(64, 8193, 64) if unable(DEVICES[name], cell, size, precision) is None]
    if not claimed:
        return []
    if precision == "float32, highest":  # larger sizes take the TPU's compiler many minutes
        return [size for size in SIZES[name] if size <= 256]
    return sorted({*SIZES[name], max(claimed)})


def compiled(name: str, cell: Cell, hidden: int, precision: str) -> dict[str, Any]:
    """One row: whether the kernels run this, and what the compiler said."""
    dtype, matmul_precision = PRECISIONS[precision]
    device = DEVICES[name]
    arrays = shapes(cell, hidden, dtype)
    reason = unable(device, cell, hidden, precision)
    if reason is not None:
        return {"runs": False, "reason": reason}
    run = forward_and_backward(device, cell, matmul_precision)

    def program(arrays):
        results, gradients = run(arrays)
        return results, without_masks_gradients(gradients)

    try:
        if name in ("H200", CLUSTER):
            return {"runs": True, **compiled_for_h200(program, arrays)}
        sharding = SingleDeviceSharding(tpu_device(name))
        placed = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), arrays)
        jax.jit(program).trace(placed).lower().compile()
        return {"runs": True}
    except Exception as error:  # each compiler has its own exceptions; any of them means that it failed
        return {"runs": True, "error": str(error).strip().splitlines()[0][:300]}


def failed(row: dict[str, Any]) -> bool:
    """Whether kernels that should run did not compile, or spill registers."""
    spills = any(kernel["spill_bytes"] for kernel in row.get("kernels", {}).values())
    return "error" in row or spills


def words(row: dict[str, Any]) -> str:
    if not row["runs"]:
        return "not run: " + row["reason"]
    if "error" in row:
        return "FAILS: " + row["error"]
    if "kernels" not in row:
        return "compiles"
    found = []
    for direction in ("forward", "backward"):
        kernel = row["kernels"][f"recurrence_{direction}"]
        shared = "" if kernel["shared_bytes"] is None else f", {kernel['shared_bytes'] / 1024:.0f} KiB"
        found.append(f"{direction}: {kernel['registers']} registers, {kernel['spill_bytes']} B spilled{shared}")
    return "; ".join(found)


def run(options: Options) -> int:
    known("device", options.devices, SIZES)
    absent, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for name in options.devices:
            reason = h200_is_missing() if name in ("H200", CLUSTER) else tpu_is_missing()
            if reason is not None:
                absent[name] = reason
                console.print(f"{name}: skipped: {reason}", soft_wrap=True)
                continue
            for cell in CELLS:
                for precision in PRECISIONS:
                    for hidden in sizes(name, CELLS[cell], precision):
                        row = compiled(name, CELLS[cell], hidden, precision)
                        rows.append(
                            {"device": name, "cell": cell, "hidden": hidden, "precision": precision, **row}
                        )
                        console.print(f"{name}, {cell}, H = {hidden}, {precision}: {words(row)}", soft_wrap=True)
    if not rows:
        raise ValueError("nothing could be compiled: see python -m benchmarks.aot --help")
    packages = {p: version(p) for p in ("jax", "jaxlib", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12", "libtpu")}
    before = options.out / f"aot-jax-{packages['jax']}.json"
    if before.exists():  # keep the rows of devices that were not asked for now
        rows = [
            row for row in json.loads(before.read_text())["rows"] if row["device"] not in options.devices
        ] + rows
    rows.sort(key=lambda row: list(SIZES).index(row["device"]))
    write(options.out, rows, packages, absent)
    return 1 if any(failed(row) for row in rows) else 0


DUMP = "--xla_dump_hlo_as_text --xla_dump_emitter_re=ptx"
"""Makes XLA write the programs for ptxas, and how much shared memory every kernel is launched with."""


def prepare(dumps: Path) -> None:
    """Set what the compilers read from the environment, before anything of JAX runs."""
    jax.config.update("jax_platforms", "cpu")
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["MOSAIC_GPU_DUMP_TO"] = str(dumps)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dumps} {DUMP}"
    if importlib.util.find_spec("libtpu") is not None:
        os.environ["TPU_LIBRARY_PATH"] = importlib.import_module("libtpu").get_library_path()


def write(folder: Path, rows: list[dict[str, Any]], packages: dict[str, Any], absent: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"aot-jax-{packages['jax']}.md"
    made = Report(
        "Kernels compiled without a device",
        f"Forward and backward at batch {BATCH}, {TIME} steps, with seq_lengths and resets: what compilers say. "
        'No kernel was run, and no speed is measured. What is "not run" by the kernels goes to the scan.',
    )
    made.add(f"Versions: {', '.join(f'{name} {number}' for name, number in packages.items() if number)}.")
    made.add(*(f"Not compiled: {name}: {reason}." for name, reason in absent.items()))
    for name in dict.fromkeys(row["device"] for row in rows):
        lines = [
            [f"{row['cell']}, {row['hidden']}, {row['precision']}", words(row)]
            for row in rows
            if row["device"] == name
        ]
        made.add(f"## {name}")
        made.table(Table(["cell, hidden size, dtype", "compiler"], lines))
    path.write_text(made.markdown())
    record = {
        "benchmark": "aot",
        "versions": packages,
        "batch": BATCH,
        "time": TIME,
        "absent": absent,
        "rows": rows,
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    console.print(f"Written: {path.name} and .json, in {path.parent}", soft_wrap=True)


main = command(Options, run, "aot", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
