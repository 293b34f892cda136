"""A call of the C++ library for any cell, whose equations it interprets as a program."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxrnn.ops.native import call as native_call
from jaxrnn.ops.native.call import Call, foreign_call
from jaxrnn.ops.native.cells import unable_to_call
from jaxrnn.ops.native.encoding import MOST_GATES, SIZES, carry_slots, encode, flags
from jaxrnn.ops.program import CellProgram, Program, cell_program
from jaxrnn.ops.step import Carry, Pointwise, Recurrence, heads_of, recurrent_gates_of, units_of


def unable(pointwise: Pointwise, arrays: Recurrence, platform: str) -> str | None:
    """The reason why the library cannot run this as a program, or None if it can."""
    reason = unable_to_call(arrays, platform)
    if reason is not None:
        return reason
    kernel = arrays.recurrent_kernel
    if max(arrays.xw.shape[-1] // units_of(kernel), recurrent_gates_of(kernel)) > MOST_GATES:
        return f"it takes cells of up to {MOST_GATES} gates"
    found = cell_program(pointwise, arrays)
    if isinstance(found, str):
        return found
    if heads_of(kernel) > 1 and found.reduces:
        return (
            "it runs one head after the other, and the equations have a sum or maximum over the units of all heads"
        )
    return None


class BackwardResults(NamedTuple):
    """The results of ``jaxrnn_program_backward`` before the gradients of the carries, in the order of
    ``enum BackwardResults`` in program_library.cpp."""

    dinputs: Any
    dxw: Any
    dkernel: Any
    dbias: Any
    drecurrent_kernel: Any
    drecurrent_bias: Any
    sums: Any


class ProgramCall(Call):
    def __init__(self, pointwise: Pointwise, reverse: bool, arrays: Recurrence, *, bfloat16: bool = False):
        super().__init__(reverse, arrays)
        self.bfloat16 = bfloat16
        found = cell_program(pointwise, arrays)
        if isinstance(found, str):
            raise ValueError(f"the library cannot run this cell: {found}")
        self.cell: CellProgram = found
        line = 64 // self.dtype.itemsize
        units = self.hidden // self.heads
        self.pitch = -(-units // line) * line  # as ProgramProblem::pitch

    def forward(self, save: bool) -> tuple[Carry, Array, Array]:
        save = save and self.cell.saved > 0
        program = self.cell.forward if save else self.cell.forward_only
        sizes = self.heads, self.time, self.cell.saved, self.batch, self.pitch
        saved_shape = self.shape(*sizes) if save else self.shape(0)
        shapes = [self.shape(*self.steps, self.hidden), saved_shape, *self._carry_shapes()]
        y, saved, *carry = self._run("jaxrnn_program_forward", program, shapes, self._arguments())
        return self._carry(carry), self.time_first(y), saved

    def backward(
        self, of_inputs: bool, outputs: Array, saved: Array, dcarry: Carry, doutputs: Array | None
    ) -> Recurrence:
        a, carries = self.arrays, self._carry_shapes()
        shapes = BackwardResults(**self.input_shapes(of_inputs), sums=self.shape(self.cell.sums, self.hidden))
        dresets = [self.shape(0)] * len(carries) if a.resets is None else carries
        arguments = [
            *self._arguments(),
            self.native_order(outputs),
            saved,
            self.absent if doutputs is None else self.native_order(doutputs),
            *self.rows(dcarry),
        ]
        all_shapes = [*shapes, *carries, *dresets]
        found = self._run("jaxrnn_program_backward", self.cell.backward, all_shapes, arguments)
        results = BackwardResults(*found[: len(shapes)])
        of_carries = found[len(shapes) :]
        return Recurrence(
            recurrent_kernel=results.drecurrent_kernel,
            xw=self.xw_gradient(results, of_inputs),
            initial_carry=self._carry(of_carries[: len(carries)]),
            params=self.cell.params_gradient(a.params, results.sums),
            recurrent_bias=None if a.recurrent_bias is None else results.drecurrent_bias,
            reset_carry=None if a.resets is None else self._carry(of_carries[len(carries) :]),
        )

    def _carry_shapes(self) -> list[jax.ShapeDtypeStruct]:
        return [self.shape(self.batch, self.hidden)] * self.cell.carries

    def _carry(self, parts: list[Array]) -> Carry:
        shape = (*self.batch_axes, self.hidden)
        structure = jax.tree.structure(self.arrays.initial_carry)
        return jax.tree.unflatten(structure, [part.reshape(shape) for part in parts])

    def _arguments(self) -> list[Array]:
        a = self.arrays
        absent = [self.absent] * self.cell.carries
        return [
            *self.input_arguments(),
            self.cell.derive(a.params),
            *self.mask_arguments(),
            *self.rows(a.initial_carry),
            *(absent if a.resets is None else self.rows(a.reset_carry)),
        ]

    def _run(
        self, target: str, program: Program, shapes: list[jax.ShapeDtypeStruct], arguments: list[Array]
    ) -> list[Array]:
        cell = self.cell
        shape = {
            "time": self.time,
            "batch": self.batch,
            "in_features": self.in_features,
            "hidden": self.hidden,
            "heads": self.heads,
            "reverse": int(self.reverse),
            "batch_major": int(self.batch_major),
            "bfloat16": int(self.bfloat16),
        }
        attributes = {
            "sizes": sizes_of(cell, program, shape),
            "carry_slots": carry_slots(cell),
            "summed": flags(cell.summed, cell.gates),
            "shared": flags(cell.shared, cell.recurrent_gates),
            **encode(program)._asdict(),
        }
        return foreign_call(target, shapes, arguments, attributes)


def sizes_of(cell: CellProgram, program: Program, shape: dict[str, int]) -> np.ndarray:
    """The numbers of a call, in the order of ``SIZES``; those that ``shape`` does not have are 0."""
    sizes = {
        **shape,
        "gates": cell.gates,
        "recurrent_gates": cell.recurrent_gates,
        "saved_count": cell.saved,
        "registers": program.registers,
        "row_registers": program.row_registers,
        "threads": native_call.MOST_THREADS,
    }
    return np.array([sizes.get(name, 0) for name in SIZES], np.int64)
