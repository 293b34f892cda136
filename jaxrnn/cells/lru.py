"""The linear recurrent unit, a complex diagonal recurrence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxrnn import checks
from jaxrnn.cells.initializers import Initializer
from jaxrnn.cells.linear import LinearRecurrentCell

input_init = nnx.initializers.variance_scaling(0.5, "fan_in", "normal")
output_init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")


class LRUCell(LinearRecurrentCell):
    """The linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349), a complex diagonal recurrence.

        lambda = exp(-exp(nu_log) + i exp(theta_log))                   so that |lambda| < 1
        s_t    = lambda * s_{t-1} + exp(gamma_log) * (x_t @ B)          complex, [*batch, state_features]
        h_t    = real(s_t @ C) + x_t @ D

    All parameters are real: ``kernel`` holds the real and the imaginary parts of B side by side, and
    ``output_kernel`` those of C one below the other. The carry is s, complex64 (complex128 for float64).

    Args:
      in_features, hidden_features, dtype, param_dtype, rngs: as in :class:`jaxrnn.LinearRecurrentCell`.
      state_features: size of s; by default ``hidden_features``.
      min_radius, max_radius: the initial lambda are uniformly distributed on the ring between these radii. For
        long memory, take a ``min_radius`` near 1.
      max_phase: the largest initial angle of lambda, in radians. For very long sequences the paper takes a small
        one, pi / 10 or less.
      use_skip: whether there is D.
      kernel_init: initializer of both parts of B; by default normal with variance 1 / (2 in_features), as in the
        paper.
      output_kernel_init: initializer of both parts of C; by default normal with variance 1 / state_features.

    Raises:
      ValueError: an argument is invalid, or the inputs or the carry do not fit; the message shows the value.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> cell = LRUCell(3, 4, min_radius=0.9, max_radius=0.999, rngs=nnx.Rngs(0))
    >>> carry, y = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3)))
    >>> carry.dtype, y.shape
    (dtype('complex64'), (2, 4))
    """

    complex_state = True

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        state_features: int | None = None,
        min_radius: float = 0.0,
        max_radius: float = 1.0,
        max_phase: float = 2 * np.pi,
        use_skip: bool = True,
        kernel_init: Initializer = input_init,
        output_kernel_init: Initializer = output_init,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        for name, value in (("min_radius", min_radius), ("max_radius", max_radius), ("max_phase", max_phase)):
            checks.number(name, value)
        checks.function("output_kernel_init", output_kernel_init, "nnx.initializers.lecun_normal()")
        if not 0 <= min_radius < max_radius <= 1:
            raise ValueError(
                "the radii must be numbers with 0 <= min_radius < max_radius <= 1, not "
                f"{min_radius} and {max_radius}"
            )
        if not 0 < max_phase <= 2 * np.pi:
            raise ValueError(f"max_phase must be an angle above 0 and up to 2 pi, not {max_phase}")
        super().__init__(
            in_features,
            hidden_features,
            state_features=state_features,
            use_bias=False,
            kernel_init=kernel_init,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        size = (self.state_features,)
        tiny = np.finfo(np.float32).tiny

        def ring(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            square = jax.random.uniform(key, shape, dtype, min_radius**2, max_radius**2)
            # A radius of exactly 0 or 1 has no finite nu_log.
            return jnp.log(-0.5 * jnp.log(jnp.clip(square, tiny, 1 - 1e-7)))

        def angles(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jnp.log(jax.random.uniform(key, shape, dtype, tiny, max_phase))

        self.nu_log = nnx.Param(self.initial(ring, rngs, *size))
        self.theta_log = nnx.Param(self.initial(angles, rngs, *size))
        # The inputs are scaled so that the state of white noise has variance 1, whatever the radius.
        square = jnp.exp(-2 * jnp.exp(self.nu_log[...]))
        self.gamma_log = nnx.Param((0.5 * jnp.log1p(-square)).astype(param_dtype))
        parts = [self.initial(output_kernel_init, rngs, *size, self.hidden_features) for _ in range(2)]
        self.output_kernel = nnx.Param(jnp.concatenate(parts))
        skip = checks.flag("use_skip", use_skip)
        self.skip_kernel = nnx.data(
            nnx.Param(self.initial(output_init, rngs, self.in_features, self.hidden_features)) if skip else None
        )

    def coefficients(self, xw: tuple[Array, ...], inputs: Array) -> tuple[Array, Array]:
        nu, theta, gamma = (
            jnp.exp(parameter[...].astype(xw[0].dtype))
            for parameter in (self.nu_log, self.theta_log, self.gamma_log)
        )
        decay = jnp.exp(-nu)
        real, imaginary = xw
        return jax.lax.complex(decay * jnp.cos(theta), decay * jnp.sin(theta)), jax.lax.complex(
            gamma * real, gamma * imaginary
        )

    def outputs(self, states: Array, inputs: Array) -> Array:
        kernel = self.output_kernel[...].astype(states.real.dtype)
        # real(s @ C) = real(s) @ real(C) - imag(s) @ imag(C), as one product
        y = jnp.concatenate([states.real, -states.imag], axis=-1) @ kernel
        if self.skip_kernel is not None:
            y = y + inputs.astype(y.dtype) @ self.skip_kernel[...].astype(y.dtype)
        return y
