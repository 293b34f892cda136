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

import functools
import importlib
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxrnn
from benchmarks.common import comparison
from benchmarks.common.command import Benchmark, Options, command
from benchmarks.common.report import Table, progress
from benchmarks.common.rows import OURS, groups
from benchmarks.common.timing import first_calls
from benchmarks.libraries import LIBRARIES, ours
from benchmarks.libraries.onnxruntime import session
from benchmarks.libraries.ours import CELLS
from benchmarks.libraries.torch import recurrent_layer
from jaxrnn.export import quantize, to_onnx

TIME, IN_FEATURES = 100, 64
SIZES = (128, 256, 512, 1024)
TOLERANCES = {"outputs": comparison.Tolerance(1e-4)}
INT8 = "int8"

Forward = Callable[[], np.ndarray]


def run(options: Options) -> None:
    unit = "Microseconds a step"
    made = Benchmark(options, "int8", "Int8 weights", __doc__, unit=unit, heading="hidden")
    sizes, errors = (256,) if options.quick else SIZES, []
    for cell, hidden in progress((cell, hidden) for cell in CELLS for hidden in sizes):
        found, case = contestants(cell, hidden), {"cell": cell, "hidden": hidden}
        first = first_calls(found)
        errors.append({**case, "errors": differences({n: y for n, (_, y) in first.items()}, f"{cell}, {hidden}")})
        made.measure(case, found, str(hidden), steps=TIME, first=first)
    for (cell,), group in groups(made.rows, "cell").items():
        made.tables(cell, group)
        of_cell = [one for one in errors if one["cell"] == cell]
        texts = [(str(o["hidden"]), {n: f"{e:.2%}" for n, e in o["errors"].items()}) for o in of_cell]
        made.table(Table.of("hidden", texts), "errors")
    made.write(errors=errors)


def contestants(cell: str, hidden: int) -> dict[str, Forward]:
    """Every installed library's float32 layer with the same weights, and its int8 layer, if it has one."""
    first = ours.first_cell(cell, IN_FEATURES, hidden)
    inputs = np.random.default_rng(0).normal(size=(1, TIME, IN_FEATURES)).astype(np.float32)
    layer = jaxrnn.RNN(first)
    found = {OURS: _in_jax(layer, inputs), f"{OURS}, {INT8}": _in_jax(quantize(layer), inputs)}
    if LIBRARIES["torch"].missing() is None:
        found |= _in_torch(recurrent_layer(cell, first), inputs)
    if LIBRARIES["onnxruntime"].missing() is None:
        found |= _in_onnxruntime(to_onnx(layer), inputs)
    return found


def _in_jax(layer: jaxrnn.RNN, inputs: np.ndarray) -> Forward:
    graphdef, state = nnx.split(layer)
    apply, x = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x)), jnp.asarray(inputs)
    return lambda: np.asarray(apply(state, x))


def _in_torch(layer: Any, inputs: np.ndarray) -> dict[str, Forward]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    layers, x = {"PyTorch": layer}, torch.tensor(inputs)
    if not isinstance(layer, torch.nn.RNN):  # which it does not quantise
        whole = torch.nn.Sequential(layer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch is about to move all of this to another package
            small = torch.ao.quantization.quantize_dynamic(whole, {type(layer)}, torch.qint8)
        layers[f"PyTorch, {INT8}"] = small[0]

    def call(layer: Any) -> np.ndarray:
        with torch.inference_mode():
            return layer(x)[0].numpy()

    return {name: functools.partial(call, layer) for name, layer in layers.items()}


def _in_onnxruntime(model: bytes, inputs: np.ndarray) -> dict[str, Forward]:
    options = importlib.import_module("onnxruntime").SessionOptions()
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
    return {name: functools.partial(session(model, options), inputs) for name, model in models.items()}


def differences(outputs: dict[str, Any], where: str) -> dict[str, float]:
    """The errors of the int8 layers. A ValueError if a float32 layer's outputs are not ours."""
    outputs = {name: np.asarray(y).reshape(TIME, -1) for name, y in outputs.items()}
    whole = {name: {"outputs": y} for name, y in outputs.items() if INT8 not in name}
    comparison.check(whole, OURS, TOLERANCES, where)
    exact = outputs[OURS]
    return {n: float(np.abs(y - exact).max() / np.abs(exact).max()) for n, y in outputs.items() if INT8 in n}


main = command(Options, run, "int8", __doc__)

if __name__ == "__main__":
    raise SystemExit(main())
