"""How far half precision is from float64, for every cell, as a table.

    python -m benchmarks.precision      # about a minute

Every cell runs over the same random inputs ``[8, 64, 16]`` with 32 units, for the mean of the squared outputs.
The float64 computation gets the rounded inputs and parameters too, so that only the computation differs.
An error is the largest difference from float64 divided by the largest number of the float64 array, of the outputs
and of the worst of all gradients.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

import jaxrnn
from benchmarks.common.report import Table
from benchmarks.libraries.by_hand import readme_cells

BATCH, TIME, IN_FEATURES, HIDDEN = 8, 64, 16, 32

CELLS: dict[str, Any] = {
    "SimpleRNNCell": jaxrnn.SimpleRNNCell,
    "LSTMCell": jaxrnn.LSTMCell,
    "GRUCell": jaxrnn.GRUCell,
    "GRUCell, reset_after=False": lambda *sizes, **options: jaxrnn.GRUCell(*sizes, reset_after=False, **options),
    **readme_cells(),
}


class Setting(NamedTuple):
    """The ``dtype`` and ``param_dtype`` of a cell, and the dtype of the first carry it is given."""

    dtype: str
    param_dtype: str
    carry: str

    def __str__(self) -> str:
        return ", ".join((self.dtype, self.param_dtype, self.carry))


SETTINGS = (
    Setting("float32", "float32", "float32"),
    Setting("bfloat16", "float32", "float32"),
    Setting("bfloat16", "float32", "bfloat16"),
    Setting("bfloat16", "bfloat16", "bfloat16"),
)


class Errors(NamedTuple):
    """Relative to the largest number of the float64 array."""

    outputs: float
    gradients: float


def errors(name: str, settings: Iterable[Setting] = SETTINGS) -> Iterator[Errors]:
    """The errors of one cell in each setting."""
    with jax.enable_x64(True):
        inputs = np.random.default_rng(0).normal(size=(BATCH, TIME, IN_FEATURES))
        for setting in settings:
            given = nnx.state(_cell(name, setting)), jnp.asarray(inputs, setting.dtype)
            wide = jax.tree.map(lambda a: a.astype("float64"), given)
            pairs = zip(_results(name, setting, *given), _results(name, Setting(*["float64"] * 3), *wide))
            yield Errors(*(max(jax.tree.leaves(jax.tree.map(_error, *pair))) for pair in pairs))


def _cell(name: str, setting: Setting) -> jaxrnn.RecurrentCell:
    dtypes = {"dtype": setting.dtype, "param_dtype": setting.param_dtype}
    return CELLS[name](IN_FEATURES, HIDDEN, **dtypes, rngs=nnx.Rngs(0))


def _results(name: str, setting: Setting, params: Any, x: jax.Array) -> tuple[Any, Any]:
    """Outputs and gradients."""
    cell = _cell(name, setting)
    carry = jax.tree.map(lambda a: a.astype(setting.carry), cell.initialize_carry((BATCH, IN_FEATURES)))

    def loss(params, x):
        layer: Any = jaxrnn.RNN(nnx.merge(nnx.graphdef(cell), params))
        outputs = layer(x, initial_carry=carry)
        return jnp.mean(outputs.astype("float64") ** 2), outputs

    gradients, outputs = jax.jit(jax.grad(loss, has_aux=True))(params, x)
    return outputs, gradients


def _error(found: jax.Array, expected: jax.Array) -> float:
    scale = float(jnp.abs(expected).max())
    return float(jnp.abs(found.astype("float64") - expected).max()) / scale if scale else 0.0


def main() -> None:
    """Print a row for each cell; in each setting, the errors of outputs and of gradients."""
    rows = [[name, *(f"{error.outputs:.0e}, {error.gradients:.0e}" for error in errors(name))] for name in CELLS]
    print(Table(["cell", *map(str, SETTINGS)], rows).markdown(), end="")


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.precision", description=__doc__)
