"""On an accelerator, every implementation of a linear recurrence is near NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.ops import LINEAR_IMPLEMENTATIONS
from tests.ops.linear_oracle import assert_close, loop, problem
from tests.ops.test_linear import compiled


@pytest.mark.parametrize("implementation", [name for name in LINEAR_IMPLEMENTATIONS if name != "native"])
@pytest.mark.parametrize(("time", "rows", "channels"), [(37, 3, 100), (2000, 1, 130), (64, 20, 4000)])
def test_states_and_gradients_are_near_numpy(implementation, time, rows, channels, accelerator):
    p = problem(time, (rows,), channels, "float32")
    p = p._replace(a=np.tanh(p.a))
    wide = {
        name: getattr(p, name).astype("float64") for name in ("a", "b", "initial_state", "reset_state", "dstates")
    }
    on_device = p._replace(**{name: jnp.asarray(getattr(p, name)) for name in wide})
    assert_close(compiled(implementation, False)(on_device), loop(p._replace(**wide), False), 1e-5)
