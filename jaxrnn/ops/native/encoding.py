"""A program as the numbers that the C++ library reads: see program.h and program_problem.h."""

from typing import NamedTuple

import numpy as np

from jaxrnn.ops.program import CellProgram, Place, Program

OPERATIONS = (
    "copy", "add", "sub", "mul", "div", "neg", "max", "min", "abs", "sign", "fma", "fms", "fnma", "mul_sub",
    "mul3", "tanh", "logistic", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "pow", "erf", "erfc", "sin",
    "cos", "floor", "ceil", "round", "round_to_even", "eq", "ne", "lt", "le", "gt", "ge", "logical_and",
    "logical_or", "logical_xor", "is_finite", "select", "row_sum", "row_max", "row_min",
)  # fmt: skip
"""In the order of the library."""

PLACES = (
    "constant", "derived", "register", "row", "sum", "xw", "rh", "carry", "carry_out", "y", "saved", "new_carry",
    "dcarry", "dcarry_out", "dy", "dxw", "drh", "sums", "number", "array", "result",
)  # fmt: skip
"""Where an operand is, in the order of ``enum class Place``."""

SIZES = (
    "time", "batch", "in_features", "hidden", "heads", "gates", "recurrent_gates", "saved_count", "registers",
    "row_registers", "reverse", "batch_major", "bfloat16", "threads",
)  # fmt: skip
"""The numbers of a call, in the order of ``enum Sizes``."""

MOST_GATES = 32
"""The most gates of a cell in the library."""


class Encoded(NamedTuple):
    """A program: two counts, ``(place, index)`` of every operand, and the instructions; and its constants."""

    program: np.ndarray
    constants: np.ndarray


def encode(program: Program) -> Encoded:
    """An instruction is the numbers of its operation, its result, three arguments, and whether it is one a row."""
    operands: dict[Place, int] = {}
    entries: list[tuple[int, int]] = []
    constants: list[float] = []

    def operand(place: Place) -> int:
        if place not in operands:
            operands[place] = len(entries)
            kind, what = place
            if kind == "constant":
                entries.append((PLACES.index(kind), len(constants)))
                constants.append(what.value)
            elif kind in ("in", "out"):
                name, index = what
                suffix = "_out" if kind == "out" and name in ("carry", "dcarry") else ""
                entries.append((PLACES.index(name + suffix), index))
            else:
                entries.append((PLACES.index(kind), what))
        return operands[place]

    code: list[int] = []
    for operation, result, arguments in program.instructions:
        three = [*arguments, *[arguments[0]] * (3 - len(arguments))]
        code += [OPERATIONS.index(operation), operand(result), *map(operand, three), int(result[0] == "row")]
    numbers = [len(entries), len(code) // 6, *[n for entry in entries for n in entry], *code]
    return Encoded(np.array(numbers, np.int64), np.array(constants or [0.0], np.float64))


def flags(indices: tuple[int, ...], count: int) -> np.ndarray:
    """1 for every index, 0 for the other numbers below ``count``."""
    return np.isin(np.arange(count), indices).astype(np.int64)


def carry_slots(program: CellProgram) -> np.ndarray:
    return np.array([-1 if slot is None else slot for slot in program.carry_slots], np.int64)
