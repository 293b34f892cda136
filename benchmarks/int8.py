"""Time and error of one layer with int8 weights, beside its float32 weights and beside other libraries.

    python -m benchmarks.int8                # a few minutes
    python -m benchmarks.int8 --quick        # one size, to see that everything works

The forward pass of a sequence of 100 steps with 64 input features, batch 1. PyTorch, ONNX Runtime and our int8
layer use one thread; our float32 layer divides the units of a large cell among the cores. Contestants are ours
(``jaxrnn.RNN``) in float32 and after ``jaxrnn.export.quantize``; PyTorch's layer in float32 and after
``quantize_dynamic``; and ONNX Runtime on the file of ``jaxrnn.export.to_onnx``, in float32 and after its own
``quantize_dynamic``. A cell that a library cannot quantise is left out. The float32 outputs are compared first.

The error of int8 weights is the largest difference of an output from float32, divided by the largest output.
Contestants are interleaved (benchmarks/common/timing.py). A ratio is a contestant's time divided by that of our
float32 layer, pair by pair: below 1, it is faster.
"""

import importlib
import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from benchmarks.common import comparison
from benchmarks.common.command import Options, command
from benchmarks.common.report import Report, Table, medians, progress
from benchmarks.common.rows import OURS, Row, groups, ratio_table, time_table
from benchmarks.common.timing import interleave
from benchmarks.libraries import LIBRARIES, ours
from benchmarks.libraries.ours import CELLS
from jaxrnn.export import quantize, to_onnx

TIME, IN_FEATURES = 100, 64
SIZES = (128, 256, 512, 1024)
TOLERANCES = {"outputs": comparison.Tolerance(1e-4)}
INT8 = "int8"

Forward = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Int8Options(Options):
    """How long to measure. ``--quick`` takes 256 units only."""


def run(options: Int8Options) -> None:
    repetitions = options.given(options.repetitions, quick=3, full=20)
    sizes = options.given(None, quick=(256,), full=SIZES)
    machine = options.start()
    rows, errors = [], []
    with progress(len(CELLS) * len(sizes)) as update:
        for cell in CELLS:
            for hidden in sizes:
                update(f"{cell}, {hidden}")
                found = contestants(cell, hidden)
                errors.append({"cell": cell, "hidden": hidden, "errors": differences(found, f"{cell}, {hidden}")})
                timings = interleave(dict(found), repetitions)
                each = {name: timing.divided_by(TIME) for name, timing in timings.items()}
                rows.append(Row({"cell": cell, "hidden": hidden}, each))
                update()
    results = {"repetitions": repetitions, "rows": [row.as_json() for row in rows], "errors": errors}
    report(rows, errors, repetitions).write(options.name("int8"), results, machine, options.out)


def contestants(cell: str, hidden: int) -> dict[str, Forward]:
    """Every installed library's float32 layer with the same weights, and its int8 layer, if it has one."""
    weights = ours.first_weights(cell, IN_FEATURES, hidden)
    inputs = np.random.default_rng(0).normal(size=(1, TIME, IN_FEATURES)).astype(np.float32)
    layer = jaxrnn.RNN(ours.cell_with(cell, weights))
    found = {OURS: _in_jax(layer, inputs), f"{OURS}, {INT8}": _in_jax(quantize(layer), inputs)}
    torch = LIBRARIES["torch"]
    if torch.missing() is None:
        peer = torch.cells[cell]
        made = peer.make(*weights.sizes)
        made.load_state_dict(peer.weights(weights))
        found |= _in_torch(torch.label, made, inputs)
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        found |= _in_onnxruntime(to_onnx(layer), inputs)
    return found


def _in_jax(layer: jaxrnn.RNN, inputs: np.ndarray) -> Forward:
    graphdef, state = nnx.split(layer)
    apply, x = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x)), jnp.asarray(inputs)
    return lambda: np.asarray(apply(state, x))


def _in_torch(label: str, layer: Any, inputs: np.ndarray) -> dict[str, Forward]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    found, x = {label: layer}, torch.tensor(inputs)
    if isinstance(layer, (torch.nn.LSTM, torch.nn.GRU)):
        whole = torch.nn.Sequential(layer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch is about to move all of this to another package
            found[f"{label}, {INT8}"] = torch.ao.quantization.quantize_dynamic(whole, {type(layer)}, torch.qint8)[
                0
            ]

    def forward(layer: Any) -> Forward:
        def call() -> np.ndarray:
            with torch.inference_mode():
                return layer(x)[0].numpy()

        return call

    return {name: forward(layer) for name, layer in found.items()}


def _in_onnxruntime(model: bytes, inputs: np.ndarray) -> dict[str, Forward]:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    models = {"ONNX Runtime": model}
    if b"LSTM" in model:  # it quantises no GRU and no RNN
        quantization: Any = importlib.import_module("onnxruntime.quantization")
        with tempfile.TemporaryDirectory() as folder:
            whole, small = Path(folder, "whole.onnx"), Path(folder, "small.onnx")
            whole.write_bytes(model)
            options_of = {"per_channel": True, "reduce_range": True, "weight_type": quantization.QuantType.QInt8}
            quantization.quantize_dynamic(whole, small, **options_of)  # 7 bits: 8 overflow without AVX-512 VNNI
            models[f"ONNX Runtime, {INT8}"] = small.read_bytes()

    def forward(model: bytes) -> Forward:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"inputs": inputs})[0]

    return {name: forward(model) for name, model in models.items()}


def differences(found: dict[str, Forward], where: str) -> dict[str, float]:
    """The errors of the int8 layers. A ValueError if a float32 layer's outputs are not ours."""
    outputs = {name: np.asarray(forward()).reshape(TIME, -1) for name, forward in found.items()}
    whole = {name: {"outputs": y} for name, y in outputs.items() if INT8 not in name}
    comparison.check(whole, OURS, TOLERANCES, where)
    exact = outputs[OURS]
    return {n: float(np.abs(y - exact).max() / np.abs(exact).max()) for n, y in outputs.items() if INT8 in n}


def title(row: Row) -> str:
    return str(row.case["hidden"])


def report(rows: list[Row], errors: list[dict[str, Any]], repetitions: int) -> Report:
    made = Report("Int8 weights", medians("Microseconds a step", repetitions), __doc__)
    for (cell,), group in groups(rows, "cell").items():
        made.add(f"## {cell}")
        made.table(time_table(group, unit=1e-6, heading="hidden", title=title), f"{cell}: microseconds a step")
        made.table(ratio_table(group, heading="hidden", title=title), "times divided by our float32 layer's")
        of_cell = [one for one in errors if one["cell"] == cell]
        texts = [(str(o["hidden"]), {n: f"{e:.2%}" for n, e in o["errors"].items()}) for o in of_cell]
        made.table(Table.of("hidden", texts), "errors")
    return made


main: Any = command(Int8Options, run, "int8", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
