"""A call of the C++ library for a built-in cell."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from jaxrnn.ops.native import call as native_call
from jaxrnn.ops.native.call import Call, foreign_call
from jaxrnn.ops.native.cells import NativeCell, cell_parameter
from jaxrnn.ops.pointwise import LSTMCarry
from jaxrnn.ops.step import Carry, Recurrence


class BackwardResults(NamedTuple):
    """The results of ``jaxrnn_backward``, in the order of ``enum BackwardResults`` in library.cpp."""

    dinputs: Any
    dxw: Any
    dc: Any
    dh: Any
    dreset_c: Any
    dreset_h: Any
    dkernel: Any
    dbias: Any
    drecurrent_kernel: Any
    drecurrent_bias: Any
    dcell_parameter: Any


class BuiltInCall(Call):
    def __init__(self, cell: NativeCell, reverse: bool, arrays: Recurrence):
        super().__init__(reverse, arrays)
        self.cell = cell

    def forward(self, save: bool) -> tuple[Carry, Array, Array]:
        cell, steps = self.cell, self.steps
        shapes = [
            self.shape(*steps, self.hidden),
            self.shape(*steps, cell.saved * self.hidden) if save and cell.saved else self.shape(0),
            self.shape(self.batch, self.hidden) if cell.has_c else self.shape(0),
            self.shape(self.batch, self.hidden),
        ]
        y, saved, c, h = self._run("jaxrnn_forward", shapes, self._arguments())
        return self._carry(c, h), self.time_first(y), saved

    def backward(
        self, of_inputs: bool, outputs: Array, saved: Array, dcarry: Carry, doutputs: Array | None
    ) -> Recurrence:
        cell, absent, a = self.cell, self.shape(0), self.arrays
        h = self.shape(self.batch, self.hidden)
        c = h if cell.has_c else absent
        parameters = jax.tree.leaves(a.params) if cell.parameter_axes else []
        shapes = BackwardResults(
            dc=c,
            dh=h,
            dreset_c=absent if a.resets is None else c,
            dreset_h=absent if a.resets is None else h,
            dcell_parameter=self.shape(*parameters[0].shape) if parameters else absent,
            **self.input_shapes(of_inputs),
        )
        arguments = [
            *self._arguments(),
            self.native_order(outputs),
            saved,
            *self._carry_rows(dcarry),
            self.absent if doutputs is None else self.native_order(doutputs),
        ]
        results = BackwardResults(*self._run("jaxrnn_backward", list(shapes), arguments))

        def parameter_gradient(parameter: Array) -> Array:
            if parameter.ndim > 1:
                return results.dcell_parameter
            # The library's parameter is sigmoid(leak), see cell_parameter.
            return results.dcell_parameter * jax.nn.sigmoid(parameter) * jax.nn.sigmoid(-parameter)

        return Recurrence(
            recurrent_kernel=results.drecurrent_kernel,
            xw=self.xw_gradient(results, of_inputs),
            initial_carry=self._carry(results.dc, results.dh),
            params=jax.tree.map(parameter_gradient, a.params),
            recurrent_bias=None if a.recurrent_bias is None else results.drecurrent_bias,
            reset_carry=None if a.resets is None else self._carry(results.dreset_c, results.dreset_h),
        )

    def _carry(self, c: Array, h: Array) -> Carry:
        h = h.reshape(*self.batch_axes, self.hidden)
        if self.cell.has_c:
            return LSTMCarry(c.reshape(*self.batch_axes, self.hidden), h)
        return jax.tree.unflatten(jax.tree.structure(self.arrays.initial_carry), [h])

    def _carry_rows(self, carry: Carry) -> list[Array]:
        """c (empty if the cell has none) and h, ``[batch, hidden]``."""
        return self.rows(carry) if self.cell.has_c else [self.absent, *self.rows(carry)]

    def _arguments(self) -> list[Array]:
        a, absent = self.arrays, self.absent
        return [
            *self.input_arguments(),
            cell_parameter(a, absent),
            *self._carry_rows(a.initial_carry),
            *self.mask_arguments(),
            *([absent, absent] if a.resets is None else self._carry_rows(a.reset_carry)),
        ]

    def _run(self, target: str, shapes: list[jax.ShapeDtypeStruct], arguments: list[Array]) -> list[Array]:
        options = {
            "cell": self.cell.number,
            "gates": self.cell.gates,
            "time": self.time,
            "batch": self.batch,
            "in_features": self.in_features,
            "hidden": self.hidden,
            "heads": self.heads,
            "reverse": int(self.reverse),
            "batch_major": int(self.batch_major),
            "threads": native_call.MOST_THREADS,
        }
        # Attributes of a foreign call need a fixed type, here int64.
        attributes = {name: np.int64(value) for name, value in options.items()}
        return foreign_call(target, shapes, arguments, attributes)
