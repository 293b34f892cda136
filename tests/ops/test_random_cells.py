"""Random elementwise cells: the C++ library and the scan compute what plain autodiff of the loop does, in float64.

A cell is drawn as expressions over its carry, gates and parameters. To draw others than those of every run::

    JAXRNN_RANDOM_CELLS=1000:1200 pytest tests/ops/test_random_cells.py
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import recurrence
from jaxrnn.ops.native import library
from tests.ops.oracle import assert_close

UNARY: dict[str, Callable[[Any], Any]] = {
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "erf": jax.lax.erf,
    "bell": lambda a: jnp.exp(-a * a),
    "root": lambda a: jnp.sqrt(1 + a * a),
    "inverse": lambda a: 1 / (1 + jnp.abs(a)),
    "log": lambda a: jnp.log1p(jnp.abs(a)),
    "stepped": lambda a: a - jax.lax.stop_gradient(jnp.floor(a)),
    "centred": lambda a: a - a.mean(-1, keepdims=True),
    "softmax": lambda a: jax.nn.softmax(a, axis=-1),
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "max": jnp.maximum,
    "where": lambda a, b: jnp.where(a > b, a * 0.5, b),
    "mix": lambda a, b: jax.nn.sigmoid(a) * b,
}
FIRST, LAST = map(int, os.environ.get("JAXRNN_RANDOM_CELLS", "0:8").split(":"))
TIME, ROWS, HIDDEN = 5, 3, 5


@dataclass(frozen=True, eq=False)
class Expression:
    """A function of the cell's arrays, by name, as a tree."""

    what: str
    of: tuple["Expression", ...] = ()

    def __call__(self, arrays: dict[str, Any]) -> Any:
        values = [one(arrays) for one in self.of]
        return {0: arrays, 1: UNARY, 2: BINARY}[len(values)][self.what](*values) if values else arrays[self.what]

    def __str__(self) -> str:
        return f"{self.what}({', '.join(map(str, self.of))})" if self.of else self.what


def draw(random: np.random.Generator, leaves: list[str], depth: int) -> Expression:
    """An expression in which each of the leaves may stand anywhere."""
    if depth == 0 or random.random() < 0.15:
        return Expression(str(random.choice(leaves)))
    kinds = UNARY if random.random() < 0.4 else BINARY
    arguments = tuple(draw(random, leaves, depth - 1) for _ in range(1 if kinds is UNARY else 2))
    return Expression(str(random.choice([*kinds])), arguments)


class RandomCell:
    def __init__(self, seed: int):
        random = np.random.default_rng(seed)
        self.carries, self.gates, self.params = (
            int(random.integers(low, high)) for low, high in ((1, 4), (1, 5), (0, 3))
        )
        self.recurrent_gates = int(random.integers(1, self.gates + 1))
        parts = [("carry", self.carries), ("xw", self.gates), ("rh", self.recurrent_gates), ("param", self.params)]
        leaves = [f"{name}{i}" for name, count in parts for i in range(count)]
        made = [draw(random, leaves, int(random.integers(2, 5))) for _ in range(self.carries + 1)]
        # The gates are used whatever is drawn, and tanh keeps the state bounded.
        gates = [
            Expression("add", (Expression(f"xw{i}"), Expression(f"rh{i}"))) for i in range(self.recurrent_gates)
        ]
        self.new = [
            Expression("tanh", (Expression("add", (e, gates[i % len(gates)])),)) for i, e in enumerate(made[:-1])
        ]
        self.output = self.new[-1] if random.random() < 0.5 else made[-1]
        self.seed = seed

    def pointwise(self, params: Any, carry: Any, xw: Any, rh: Any) -> Any:
        groups = {"carry": carry, "xw": xw, "rh": rh, "param": params}
        arrays = {f"{name}{i}": array for name, group in groups.items() for i, array in enumerate(group)}
        new = tuple(one(arrays) for one in self.new)
        output = new[-1] if self.output is self.new[-1] else self.output(arrays) + jnp.zeros_like(new[-1])
        return new, output

    def __str__(self) -> str:
        return f"cell {self.seed}: new carry {', '.join(map(str, self.new))}; output {self.output}"


@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_a_random_cell_equals_plain_autodiff(seed):
    cell = RandomCell(seed)
    random = np.random.default_rng(seed + 10**6)
    masks: Any = {}
    if seed % 2:
        masks = {"seq_lengths": random.integers(0, TIME + 1, ROWS), "resets": random.random((TIME, ROWS)) < 0.3}
    shapes = {
        "recurrent_kernel": (HIDDEN, cell.recurrent_gates * HIDDEN),
        "xw": (TIME, ROWS, cell.gates * HIDDEN),
        "initial_carry": tuple((ROWS, HIDDEN) for _ in range(cell.carries)),
        "params": tuple((HIDDEN,) for _ in range(cell.params)),
    }

    def is_shape(node: Any) -> bool:
        return isinstance(node, tuple) and bool(node) and isinstance(node[0], int)

    with jax.enable_x64(True):
        arguments = jax.tree.map(lambda s: jnp.asarray(random.normal(size=s)), shapes, is_leaf=is_shape)
        weights = random.normal(size=(TIME, ROWS, HIDDEN))
        found = {}
        for implementation in ("reference", "scan", "native"):
            if implementation == "native" and library.why_not_loaded() is not None:
                continue

            @jax.jit
            def run(arguments, implementation=implementation):
                def loss(arguments):
                    results = recurrence(
                        cell.pointwise, **arguments, **masks, reverse=seed % 3 == 0, implementation=implementation
                    )
                    carry = sum((leaf**2).sum() for leaf in jax.tree.leaves(results[0]))
                    return (results[1] * weights).sum() + carry, results

                return jax.value_and_grad(loss, has_aux=True)(arguments)

            found[implementation] = run(arguments)
        gradient = jax.tree.leaves(found["reference"][1]["recurrent_kernel"])
        assert np.abs(gradient).max() > 0
        for implementation in found:
            try:
                assert_close(found[implementation], found["reference"])
            except AssertionError as error:
                raise AssertionError(f"{implementation}, {cell}") from error
