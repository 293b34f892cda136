"""Cells that only compute outputs: their weights in the form that the C++ library takes."""

from jaxrnn.cells.base import RecurrentCell
from jaxrnn.ops.native.layers import LayerWeights


def layer_weights(cell: RecurrentCell) -> LayerWeights | None:
    """What the C++ library needs to run this cell as it is now; None if the cell has its own input projection."""
    if type(cell).input_projection is not RecurrentCell.input_projection:
        return None
    recurrent_kernel, recurrent_bias = cell.recurrent_parameters(cell.recurrent_kernel[...].dtype)
    pointwise, params = cell.pure_pointwise()
    bias = None if cell.bias is None else cell.bias[...]
    return LayerWeights(pointwise, cell.kernel[...], bias, recurrent_kernel, recurrent_bias, params)
