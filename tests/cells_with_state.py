"""Cells that change variables of their own when they are called."""

import jax.numpy as jnp
from flax import nnx


class CountingCell(nnx.Module):
    """A cell that counts its steps in a variable of its own."""

    num_feature_axes = 1

    def __init__(self):
        self.count = nnx.Variable(jnp.zeros(()))

    def initialize_carry(self, input_shape, rngs=None):
        return jnp.zeros(input_shape)

    def __call__(self, carry, inputs):
        self.count[...] += 1
        return carry + self.count[...] * inputs, carry


class DroppingCell(nnx.GRUCell):
    def __init__(self):
        super().__init__(3, 3, rngs=nnx.Rngs(0))
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, carry, inputs):
        return super().__call__(carry, self.drop(inputs))
