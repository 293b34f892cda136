"""A cell's equations and their derivative as two small programs of vector instructions.

The pointwise function of a cell, ``(params, carry, xw, rh) -> (carry, y)``, and its ``jax.vjp`` are traced once
into one graph (equations.py). A minimum cut through the graph decides what the forward loop saves and what the
backward loop computes again (cut.py). Both halves become lists of instructions (instructions.py), which an
implementation of the recurrence interprets on blocks of numbers that stay in the cache.
"""

from jaxrnn.ops.program.cell import CellProgram, cell_program
from jaxrnn.ops.program.elementwise import Group, Part, divide
from jaxrnn.ops.program.graph import Constant, Unsupported
from jaxrnn.ops.program.inline import Equation, Inlined, inline
from jaxrnn.ops.program.instructions import Instruction, Place, Program

__all__ = [
    "CellProgram",
    "Constant",
    "Equation",
    "Group",
    "Inlined",
    "Instruction",
    "Part",
    "Place",
    "Program",
    "Unsupported",
    "cell_program",
    "divide",
    "inline",
]
