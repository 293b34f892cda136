"""How far half precision is from float64, for every cell, and how long it takes, as tables.

    python -m benchmarks.precision              # about a minute
    python -m benchmarks.precision --times      # another minute: training steps in float32 and in bfloat16

Every cell runs over the same random inputs ``[8, 64, 16]`` with 32 units, for the mean of the squared outputs.
The float64 computation gets the rounded inputs and parameters too, so that only the computation differs.
An error is the largest difference from float64 divided by the largest number of the float64 array, of the outputs
and of the worst of all gradients.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jaxrnn
from benchmarks.common.machine import describe, machine
from benchmarks.common.report import Table, spread_text
from benchmarks.common.rows import Shape
from benchmarks.common.timing import Call, interleave, ratio
from benchmarks.libraries.user_cells import readme_cells

BATCH, TIME, IN_FEATURES, HIDDEN = 8, 64, 16, 32

CELLS: dict[str, Any] = {
    "SimpleRNNCell": jaxrnn.SimpleRNNCell,
    "LSTMCell": jaxrnn.LSTMCell,
    "GRUCell": jaxrnn.GRUCell,
    "GRUCell, reset_after=False": lambda *sizes, **options: jaxrnn.GRUCell(*sizes, reset_after=False, **options),
    **readme_cells(),
}


Setting = tuple[str, str, str]
"""The ``dtype`` and ``param_dtype`` of a cell, and the dtype of the first carry it is given."""

SETTINGS: tuple[Setting, ...] = (
    ("float32", "float32", "float32"),
    ("bfloat16", "float32", "float32"),
    ("bfloat16", "float32", "bfloat16"),
    ("bfloat16", "bfloat16", "bfloat16"),
)


def errors(name: str, settings: Iterable[Setting] = SETTINGS) -> Iterator[list[float]]:
    """The errors of one cell's outputs and gradients in each setting."""
    with jax.enable_x64(True):
        inputs = np.random.default_rng(0).normal(size=(BATCH, TIME, IN_FEATURES))
        for setting in settings:
            given = nnx.state(_cell(name, setting)), jnp.asarray(inputs, setting[0])
            wide = jax.tree.map(lambda a: a.astype("float64"), given)
            pairs = zip(_results(name, setting, *given), _results(name, ("float64", "float64", "float64"), *wide))
            yield [max(jax.tree.leaves(jax.tree.map(_error, *pair))) for pair in pairs]


def _cell(name: str, setting: Setting) -> jaxrnn.RecurrentCell:
    dtype, param_dtype, _ = setting
    return CELLS[name](IN_FEATURES, HIDDEN, dtype=dtype, param_dtype=param_dtype, rngs=nnx.Rngs(0))


def _results(name: str, setting: Setting, params: Any, x: jax.Array) -> tuple[Any, Any]:
    """Outputs and gradients."""
    cell = _cell(name, setting)
    carry = jax.tree.map(lambda a: a.astype(setting[2]), cell.initialize_carry((BATCH, IN_FEATURES)))

    def loss(params, x):
        layer: Any = jaxrnn.RNN(nnx.merge(nnx.graphdef(cell), params))
        outputs = layer(x, initial_carry=carry)
        return jnp.mean(outputs.astype("float64") ** 2), outputs

    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(params, x)
    return outputs, gradients


def _error(found: jax.Array, expected: jax.Array) -> float:
    scale = float(jnp.abs(expected).max())
    return float(jnp.abs(found.astype("float64") - expected).max()) / scale if scale else 0.0


TIMED_CELLS = ("SimpleRNNCell", "LSTMCell", "GRUCell")
TIMED_SHAPES = (
    Shape(128, 30, 1, 100),
    Shape(32, 128, 64, 128),
    Shape(16, 64, 64, 256),
    Shape(64, 128, 512, 512),
    Shape(1, 1000, 32, 128),
)
REPETITIONS = 10


def times() -> Iterator[list[str]]:
    """A row for each cell and shape: milliseconds of a training step, parameters in float32, and their ratio."""
    for name in TIMED_CELLS:
        for shape in TIMED_SHAPES:
            steps = {dtype: _training_step(name, shape, dtype) for dtype in ("float32", "bfloat16")}
            found = interleave(steps, REPETITIONS)
            texts = [spread_text(timing.spread, 1e-3) for timing in found.values()]
            yield [name, str(shape), *texts, spread_text(ratio(found["float32"], found["bfloat16"]))]


def _training_step(name: str, shape: Shape, dtype: str) -> Call:
    """The gradients of the parameters and of the inputs."""
    layer = jaxrnn.RNN(CELLS[name](shape.in_features, shape.hidden, dtype=dtype, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(layer)
    size = (shape.batch, shape.time, shape.in_features)
    x = jnp.asarray(np.random.default_rng(0).normal(size=size), dtype)

    def loss(params, x):
        return jnp.mean(jnp.square(nnx.merge(graphdef, params)(x).astype("float32")))

    return functools.partial(jax.jit(jax.grad(loss, argnums=(0, 1))), params, x)


def main(times_too: Annotated[bool, tyro.conf.arg(name="times")] = False) -> None:
    """Print a row for each cell; in each setting, the errors of outputs and of gradients."""
    rows = [[name, *(f"{outputs:.0e}, {gradients:.0e}" for outputs, gradients in errors(name))] for name in CELLS]
    print(Table(["cell", *map(", ".join, SETTINGS)], rows).markdown(), end="")
    if times_too:
        print(f"\n{describe(machine())}\n")
        columns = ["cell", "batch x time x features, units", "float32, ms", "bfloat16, ms", "float32 / bfloat16"]
        print(Table(columns, list(times())).markdown(), end="")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.precision", description=__doc__)
