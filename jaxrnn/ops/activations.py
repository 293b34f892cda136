"""Activations whose derivative is written in terms of their output.

tanh'(z) = 1 - y^2, sigmoid'(z) = y (1 - y) and relu'(z) = [y > 0] need only y. The engine saves y anyway, so
these activations cost no extra memory, and no transcendental is evaluated in the backward loop.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Activation = Callable[[Array], Array]


def _differentiated_by_output(function: Activation, derivative: Callable[[Array], Array]) -> Activation:
    """``function`` with the derivative given as a function of its output."""

    @jax.custom_vjp
    def activation(z: Array) -> Array:
        return function(z)

    def forward(z: Array) -> tuple[Array, Array]:
        y = function(z)
        return y, y

    def backward(y: Array, dy: Array) -> tuple[Array]:
        return (dy * derivative(y),)

    activation.defvjp(forward, backward)
    return activation


_BY_OUTPUT: dict[Activation, Activation] = {
    jnp.tanh: _differentiated_by_output(jnp.tanh, lambda y: 1 - y * y),
    jax.nn.sigmoid: _differentiated_by_output(jax.nn.sigmoid, lambda y: y * (1 - y)),
    jax.nn.relu: _differentiated_by_output(jax.nn.relu, lambda y: (y > 0).astype(y.dtype)),
}

ACTIVATIONS: dict[str, Activation] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "softsign": jax.nn.soft_sign,
    "identity": lambda z: z,
}
"""The activations that scripts and configurations may name."""


def by_output(activation: Activation) -> Activation:
    """The same activation, differentiated through its output where that is possible."""
    return _BY_OUTPUT.get(activation, activation)


def named_activation(name: str) -> Activation:
    """The activation of that name.

    >>> named_activation("tanh") is jnp.tanh
    True
    >>> named_activation("tahn")
    Traceback (most recent call last):
    ValueError: unknown activation 'tahn'; available: tanh, relu, sigmoid, gelu, softsign, identity
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; available: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
