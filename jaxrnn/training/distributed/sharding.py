"""Arrays on a mesh of devices, which may belong to several processes.

The train state is replicated on every device. So a checkpoint does not depend on the number of devices, and any
process can write it. Only the rows of a batch are sharded.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

WHOLE = P()
"""The partition of an array that is replicated on every device."""


def batch_axis(mesh: Mesh) -> tuple[Mesh, str]:
    """The same mesh with an axis of type Auto, whatever type it had, and the name of that axis.

    Raises:
      ValueError: the mesh does not have exactly one axis.
    """
    if len(mesh.axis_names) != 1:
        raise ValueError(f"the mesh must have one axis, for the rows of a batch, not the axes {mesh.axis_names}")
    return Mesh(mesh.devices, mesh.axis_names), mesh.axis_names[0]


def padded(rows: int, mesh: Mesh | None) -> int:
    """``rows``, rounded up to a multiple of the number of devices in the mesh.

    >>> padded(7, None), padded(7, jax.make_mesh((1,), ("batch",)))
    (7, 7)
    """
    devices = 1 if mesh is None else mesh.size
    return -(-rows // devices) * devices


def put(tree: Any, mesh: Mesh, spec: P = WHOLE) -> Any:
    """Place arrays on the mesh, by default replicated on every device. Every process must hold all values."""
    sharding = NamedSharding(mesh, spec)

    def one(leaf: Any) -> Array:
        if isinstance(leaf, Array) and leaf.sharding == sharding:
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(local(leaf)))
            return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(leaf)))
        # device_put would first compare the values between all processes, with a message per array.
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(one, tree)


def local(tree: Any) -> Any:
    """One device's copy of each array that is replicated on several devices. Other leaves stay unchanged."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Array) or len(leaf.sharding.device_set) == 1:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(leaf).addressable_data(0)
            return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(leaf)))
        return leaf.addressable_data(0)

    return jax.tree.map(one, tree)
