"""Cells of users for the tests of programs, random ones too, and what programs compute, in NumPy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax import nn

from jaxrnn.ops.program import CellProgram, Program
from jaxrnn.ops.step import Recurrence
from tests.ops.oracle import Case


def peephole(params, carry, xw, rh):
    c, h = carry
    i = nn.sigmoid(xw[0] + rh[0] + params["i"] * c)
    f = nn.sigmoid(xw[1] + rh[1] + params["f"] * c)
    c = f * c + i * jnp.tanh(xw[2] + rh[2])
    h = nn.sigmoid(xw[3] + rh[3] + params["o"] * c) * jnp.tanh(c)
    return (c, h), h


def slstm(params, carry, xw, rh):
    """Beck et al. (2024), arXiv:2405.04517, equations 8 to 18; gates i f z o."""
    c, n, m, h = carry
    i, f, z, o = (x + r for x, r in zip(xw, rh))
    log_f = nn.log_sigmoid(f)
    new_m = jnp.maximum(log_f + m, i)
    i, f = jnp.exp(i - new_m), jnp.exp(log_f + m - new_m)
    c = f * c + i * jnp.tanh(z)
    n = jnp.maximum(f * n + i, 1.0)
    h = nn.sigmoid(o) * c / n
    return (c, n, new_m, h), h


def layer_norm(params, carry, xw, rh):
    z = xw[0] + rh[0]
    z = z - z.mean(-1, keepdims=True)
    z = z * jax.lax.rsqrt((z**2).mean(-1, keepdims=True) + 1e-6)
    h = jnp.tanh(z * params["scale"] + params["bias"])
    return h, h


def many_operations(params, carry, xw, rh):
    """Nothing anyone would want: many operations, one parameter for all units, swapped parts of the carry."""
    a, b = carry
    z = xw[0] + rh[1] * nn.softmax(rh[0])
    z = nn.gelu(z, approximate=False) * 0.3 + nn.softplus(z) * 0.1 + nn.elu(z) - nn.relu(z) + jnp.clip(a, -1, 1)
    z = jnp.where(z > params[0], jnp.abs(z) ** 1.5, z**3 * 0.1) / jnp.sqrt(1 + z * z) + jnp.sin(b) * jnp.cos(a)
    z = z - params[1] * nn.logsumexp(z, axis=-1, keepdims=True) * 0.1 + jnp.floor(b) * 0.1 + jnp.round(a) * 0.01
    return (b, nn.silu(z)), z * jnp.expm1(-a * a) + jnp.log1p(b * b)


def _carry(parts: int) -> Any:
    return lambda part: tuple(part() for _ in range(parts))


def _vectors(*names: str) -> Any:
    return lambda random, hidden: {name: random.randn(hidden) for name in names}


USERS = [
    Case("peephole", peephole, gates=4, carry=_carry(2), params=_vectors("i", "f", "o")),
    Case("slstm", slstm, gates=4, carry=_carry(4)),
    Case("layer_norm", layer_norm, params=_vectors("scale", "bias")),
    Case(
        "many_operations",
        many_operations,
        recurrent_gates=2,
        carry=_carry(2),
        params=lambda random, hidden: (random.randn(hidden), random.randn()),
        recurrent_bias=True,
    ),
]

UNARY: list[Callable[[Any], Any]] = [
    jnp.tanh, nn.sigmoid, nn.softplus, nn.relu, jnp.sin, jnp.cos, jnp.abs, jnp.square, nn.gelu, jax.lax.erf,
    nn.elu, nn.soft_sign, lambda x: jnp.exp(-x * x), lambda x: jnp.log1p(x * x), lambda x: jnp.sqrt(1 + x * x),
    jnp.negative, lambda x: jnp.abs(x) ** 1.3, lambda x: x**3 * 0.1, lambda x: x - x.mean(-1, keepdims=True),
    nn.softmax, lambda x: jax.lax.rsqrt(1 + x * x), lambda x: nn.log_softmax(x) * 0.1,
    lambda x: jnp.log(1 + jnp.exp(x)), lambda x: jnp.clip(x, -0.5, 1.5),
    lambda x: x / (1 + x.max(-1, keepdims=True) ** 2), jnp.sign,
]  # fmt: skip
BINARY: list[Callable[[Any, Any], Any]] = [
    jnp.add, jnp.subtract, jnp.multiply, jnp.maximum, jnp.minimum, lambda a, b: a / (1 + b * b), jnp.logaddexp,
    lambda a, b: jnp.where((a > b) & (b < 1), a, 0.5 * b), lambda a, b: a + nn.sigmoid(b) * (b - a),
]  # fmt: skip


def random_case(seed: int) -> Case:
    """A cell of random expressions: one to three parts of the carry, one to four gates, up to two parameters."""
    random = np.random.RandomState(seed)
    carries, gates, recurrent_gates = (random.randint(1, most + 1) for most in (3, 4, 4))
    parameters = random.randint(0, 3)
    # Every operation is drawn once, so that the equations are the same at every call.
    choices = [random.randint(1 << 30, size=4) for _ in range(12)]

    def pointwise(params, carry, xw, rh):
        values = [
            *carry,
            *xw,
            *rh,
            *[jnp.broadcast_to(p, carry[0].shape) if i else p for i, p in enumerate(params)],
        ]
        values += [x + r for x, r in zip(xw, rh)]
        for kind, operation, a, b in choices:
            x, y = values[a % len(values)], values[b % len(values)]
            if kind % 2 and x.shape:
                values.append(UNARY[operation % len(UNARY)](x + carry[0] * 0))
            else:
                values.append(jnp.tanh(BINARY[operation % len(BINARY)](x, y)))
        results = [v + 0.5 * c for c, v in zip([*carry, carry[0]], values[::-1])]
        return tuple(results[:-1]), results[-1] if seed % 2 else results[-2]

    return Case(
        f"random_{seed}",
        pointwise,
        gates=gates,
        recurrent_gates=recurrent_gates,
        carry=_carry(carries),
        params=lambda random, hidden: [random.randn(hidden), random.randn(1)][:parameters],
    )


def shapes(case: Case, hidden: int, batch: tuple[int, ...] = (7,), dtype: Any = jnp.float64) -> Recurrence:
    """The shapes of a recurrence over five steps."""

    def part() -> Any:
        return jax.ShapeDtypeStruct((*batch, hidden), dtype)

    width, recurrent = case.gates * hidden, (case.recurrent_gates or case.gates) * hidden
    params = case.params(np.random.RandomState(0), hidden)
    kernel: Any = jax.ShapeDtypeStruct((hidden, recurrent), dtype)
    return Recurrence(
        recurrent_kernel=kernel,
        xw=jax.ShapeDtypeStruct((5, *batch, width), dtype),
        initial_carry=case.carry(part),
        params=jax.tree.map(lambda p: jax.ShapeDtypeStruct(np.shape(p), dtype), params),
    )


EVALUATED: dict[str, Callable[..., Any]] = {
    "copy": lambda a: a, "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "neg": np.negative, "max": np.maximum, "min": np.minimum, "abs": np.abs, "sign": np.sign, "exp": np.exp,
    "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh, "logistic": scipy.special.expit,
    "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "pow": np.power, "erf": scipy.special.erf,
    "erfc": scipy.special.erfc, "sin": np.sin, "cos": np.cos, "floor": np.floor, "ceil": np.ceil,
    "round_to_even": np.round, "is_finite": np.isfinite,
    "round": lambda a: np.sign(a) * np.floor(np.abs(a) + 0.5), "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or, "logical_xor": np.logical_xor, "select": lambda c, no, yes: np.where(c != 0,
    yes, no), "fma": lambda a, b, c: a * b + c, "fms": lambda a, b, c: a * b - c, "fnma": lambda a, b,
    c: c - a * b, "mul_sub": lambda a, b, c: a * (b - c), "mul3": lambda a, b, c: a * b * c,
    "row_sum": lambda a: a.sum(-1, keepdims=True), "row_max": lambda a: a.max(-1, keepdims=True),
    "row_min": lambda a: a.min(-1, keepdims=True),
}  # fmt: skip
"""What the operations of a program compute. True is 1.0."""


def execute(program: Program, inputs: dict[Any, Any], derived: Any) -> dict[Any, Any]:
    """The outputs of a program for inputs ``[rows, hidden]``."""
    places: dict[Any, Any] = {("in", name): np.asarray(array) for name, array in inputs.items()}
    places |= {("derived", i): row for i, row in enumerate(np.asarray(derived))}
    rows_and_hidden = next(iter(inputs.values())).shape
    for operation, result, arguments in program.instructions:
        given = [np.float64(place[1].value) if place[0] == "constant" else places[place] for place in arguments]
        with np.errstate(all="ignore"):
            found = EVALUATED[operation](*given)
        width = 1 if result[0] == "row" else rows_and_hidden[1]
        found = np.broadcast_to(found, rows_and_hidden)[:, :width]  # a saved number of a row has all units, too
        places[result] = found.astype(np.float64)
    return {place[1]: array for place, array in places.items() if place[0] == "out"}


def step_and_gradients(cell: CellProgram, params: Any, given: dict[str, list[Any]]) -> tuple[Any, ...]:
    """One step of the programs: ``(carry, y, dparams, dcarry, dxw, drh)``. Given: carry, xw, rh, dcarry, dy."""
    derived = cell.derive(params)
    inputs = {(name, i): array for name in ("carry", "xw", "rh") for i, array in enumerate(given[name])}
    inputs |= {("sum", i): given["xw"][i] + given["rh"][i] for i in cell.summed}
    out = execute(cell.forward, inputs, derived)
    plain = execute(cell.forward_only, inputs, derived)
    assert all(np.array_equal(out[name], array) for name, array in plain.items())
    carry = [out["carry", i] for i in range(cell.carries)]
    y = out.get(("y", 0), carry[-1])
    late = {name: array for name, array in out.items() if name[0] == "saved"} | {("y", 0): y}
    late |= {("carry", i): array for i, array in enumerate(given["carry"])}
    late |= {("new_carry", i): out["saved", slot] for i, slot in enumerate(cell.carry_slots) if slot is not None}
    late |= {("dcarry", i): array for i, array in enumerate(given["dcarry"])} | {("dy", 0): given["dy"][0]}
    back = execute(cell.backward, late, derived)
    sums = jnp.asarray([back["sums", i].sum(0) for i in range(cell.sums)])
    drh = [back["dxw" if i in cell.shared else "drh", i] for i in range(cell.recurrent_gates)]
    dcarry, dxw = (
        [back[name, i] for i in range(n)] for name, n in (("dcarry", cell.carries), ("dxw", cell.gates))
    )
    return carry, y, cell.params_gradient(params, sums), dcarry, dxw, drh


def primitives(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """The operations that JAX traces a function to, those within other operations too."""

    def names(jaxpr: Any) -> list[str]:
        found = []
        for equation in jaxpr.eqns:
            found.append(equation.primitive.name)
            for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
                inner = getattr(part, "jaxpr", part)
                found += names(inner) if hasattr(inner, "eqns") else []
        return found

    return names(jax.make_jaxpr(function)(*arguments).jaxpr)
